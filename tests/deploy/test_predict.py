"""`fedgmi predict`: a site's own model asked about a file, and the word on drift."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clinic import ROWS, federation, post_of, settings_of, write_rows, write_site
from PIL import Image

from fedgmi import Federation, FedGMI, cli
from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.deploy.site.predict import DRIFT, predict
from fedgmi.errors import ROWS as COUNTED
from fedgmi.errors import CheckpointError, ConfigError, DataError, UserError
from fedgmi.storage import tensors

RANGES = "ranges = { age = [0, 120], pressure = [40, inf] }\n"
SMALL = {"density.name": "gaussian", "expert.hidden": 8, "method.codewords": 4}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Three sites at the end of a run."""
    where = tmp_path_factory.mktemp("clinics")
    sites = [write_site(where / f"site-{i}", i, federation(ROWS + RANGES, rounds=1)) for i in range(3)]
    Coordinator(settings_of(sites[0]), post_of(*sites), where / "out", echo=lambda line: None).run()
    return where


@pytest.fixture
def model(ran, tmp_path):
    """A site's model, with which no drift was watched yet."""
    (ran / "site-1" / "site" / "results" / "model" / DRIFT).unlink(missing_ok=True)
    return ran / "site-1" / "site" / "results" / "model"


def command(*words: object) -> int:
    with pytest.raises(SystemExit) as raised:
        cli.main(["predict", *map(str, words)])
    return int(raised.value.code or 0)


def test_says_what_the_model_says(model, tmp_path, capsys):
    """As `FedGMI` does, row by row; the label's own column is not needed, and a patient's number can be kept."""
    path = write_rows(tmp_path, 7, 30)
    lines = [line.rpartition(",")[0] for line in path.read_text().splitlines()]
    path.write_text("\n".join(lines) + "\n")
    assert command(model, path, "--keep", "patient", "--out", tmp_path / "said.csv") == 0
    told = capsys.readouterr()
    assert "30 rows" in told.out
    assert re.search(r"drift is watched from now on, learning from \d+ rows that were held out", told.err)
    said = list(csv.DictReader((tmp_path / "said.csv").read_text().splitlines()))
    import pandas

    frame = pandas.read_csv(path)
    fitted = FedGMI.load(model)
    expected = fitted.predict_proba(frame.drop(columns="patient"), client="clinic-1")
    found = [[float(row["probability_ill"]), float(row["probability_well"])] for row in said]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert [row["label"] for row in said] == fitted.classes_[expected.argmax(1)].tolist()
    components = fitted.predict_components(frame.drop(columns="patient"), client="clinic-1")
    np.testing.assert_allclose([[float(row[f"component_{k}"]) for k in (0, 1)] for row in said], components, atol=1e-5)
    assert [row["patient"] for row in said] == frame["patient"].tolist()


def test_predictions_that_are_there_stay_untouched(model, tmp_path, capsys):
    """They were overwritten, by those of whatever file came next."""
    path, out = write_rows(tmp_path, 7, 30), tmp_path / "said.csv"
    out.write_text("mine\n")
    assert command(model, path, "--out", out) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "said.csv: it is there already, and stays untouched. Likely fix: give a new file, or --force" in told
    assert out.read_text() == "mine\n"
    assert not (model / DRIFT).exists()
    assert command(model, path, "--out", out, "--force") == 0
    assert len(out.read_text().splitlines()) == 31


def test_texts_that_the_model_does_not_know_are_named(model, tmp_path, capsys):
    path = write_rows(tmp_path, 7, 30)
    first, *rows = path.read_text().splitlines()
    path.write_text("\n".join([first, *(row.replace(",m,", ",Mann,") for row in rows)]) + "\n")
    n = sum(",Mann," in row for row in path.read_text().splitlines())
    assert n > 1
    assert command(model, path, "--out", tmp_path / "said.csv") == 0
    assert f"sex holds 'Mann' ({n} rows), which the federation does not have: it counts as" in capsys.readouterr().err


def test_values_outside_the_ranges_of_training_are_refused_as_there(model, tmp_path, capsys):
    """With column, number, and the first of them; a bound that is open stays so, and Python's users hear the same."""
    path = write_rows(tmp_path, 7, 30)
    cells = [line.split(",") for line in path.read_text().splitlines()]
    cells[3][1], cells[6][1], cells[9][4], cells[12][4] = "420", "-1", "12.5", "9999"
    path.write_text("\n".join(map(",".join, cells)) + "\n")
    assert command(model, path, "--out", tmp_path / "said.csv") == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "column 'age': 2 values are outside the federation's range [0, 120], the first 420 at row 2" in told.err
    assert "column 'pressure': 1 value is outside the federation's range [40, inf], the first 12.5 at row 8" in told.err
    assert COUNTED in told.err
    assert not (tmp_path / "said.csv").exists()
    assert not (model / DRIFT).exists()
    with pytest.raises(DataError, match="column 'age'"):
        predict(model, write_rows(tmp_path / "usual", 7, 30), reference=path)
    import pandas

    again = FedGMI.load(FedGMI.load(model).save(tmp_path / "again"))
    with pytest.raises(DataError, match="column 'pressure': 1 value is outside"):
        again.predict(pandas.read_csv(path).drop(columns=["patient", "outcome"]), client="clinic-1")


def test_a_model_of_before_has_no_ranges(model, tmp_path):
    """It opens, and takes any value, as it did."""
    path = write_rows(tmp_path, 7, 30)
    lines = path.read_text().splitlines()
    lines[4] = ",".join(["P0003", "420", *lines[4].split(",")[2:]])
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match="column 'age': 1 value is outside"):
        predict(model, path, watch=False)
    old = rewritten(model, tmp_path / "old", lambda schema: schema.pop("ranges"))
    assert len(predict(old, path, watch=False).columns["label"]) == 30
    wrong = rewritten(model, tmp_path / "wrong", lambda schema: schema.update(ranges=[["age", 9, 3]]))
    with pytest.raises(CheckpointError, match=r"a range \[9, 3\] of 'age'"):
        predict(wrong, path)


def rewritten(model: Path, where: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A model whose schema is another, as another version or somebody else would have written it."""
    meta = tensors.read_meta(model / "model.json", lambda meta: None, kind="model", fix="")
    leaves = tensors.read_tensors(model / "model.json", meta, fix="")
    change(meta["schema"])
    where.mkdir()
    tensors.save(where / "model.json", leaves, meta, file="model.safetensors")
    return where


def test_cells_that_are_filled_are_told_by_column(model, tmp_path, capsys):
    path = write_rows(tmp_path, 7, 30)
    assert command(model, path) == 0
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 31
    assert "age is missing in 6 of 30 rows (20%): filled by the federation's rule, indicator" in told.err
    assert "sex is missing in 3 of 30 rows (10%): filled by the federation's rule, indicator" in told.err
    assert "ward is missing" not in told.err


def test_rows_that_drift_are_told_and_can_end_with_code_one(model, tmp_path, capsys):
    reference = write_rows(tmp_path / "a", 4, 200)
    usual, other = write_rows(tmp_path / "b", 7, 60), write_rows(tmp_path / "c", 7, 60)
    cells = [line.split(",") for line in other.read_text().splitlines()]
    cells[1:] = [[*line[:4], "400", *line[5:]] for line in cells[1:]]
    other.write_text("\n".join(map(",".join, cells)) + "\n")
    assert command(model, usual, "--reference", reference, "--strict", "--out", tmp_path / "said.csv") == 0
    assert "drift: client 'clinic-1', batch 1: in control" in capsys.readouterr().err
    codes = [command(model, other, "--strict", "--force", "--out", tmp_path / "said.csv") for _ in range(6)]
    assert codes[-1] == 1
    assert "rows no longer fit" in capsys.readouterr().err
    assert command(model, other, "--no-drift", "--strict", "--force", "--out", tmp_path / "said.csv") == 0
    assert "drift:" not in capsys.readouterr().err
    assert json.loads((model / DRIFT).read_text())["monitor"]["batch"] == 7


def test_another_model_begins_to_watch_anew(model, tmp_path):
    path = write_rows(tmp_path, 7, 60)
    predict(model, path)
    assert (report := predict(model, path).drift) is not None
    assert report.batch == 2
    state = json.loads((model / DRIFT).read_text())
    (model / DRIFT).write_text(json.dumps(state | {"model": "of a month ago"}))
    assert (report := predict(model, path).drift) is not None
    assert report.batch == 1
    state = json.loads((model / DRIFT).read_text())
    (model / DRIFT).write_text(json.dumps(state | {"monitor": state["monitor"] | {"watch": {"levels": [[1]]}}}))
    with pytest.raises(CheckpointError, match="this is not the state of a drift monitor"):
        predict(model, path)


def test_other_columns_are_refused_all_at_once(model, tmp_path, capsys):
    path = write_rows(tmp_path, 7, 20)
    path.write_text(path.read_text().replace("age,", "years,", 1).replace("pressure", "mmHg", 1))
    assert command(model, path) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "no column 'age', which the federation has" in told.err
    assert "no column 'pressure'" in told.err
    with pytest.raises(DataError, match="no column 'id'"):
        predict(model, write_rows(tmp_path, 7, 20), keep=["id"])


def test_what_cannot_be_asked(model, ran, tmp_path):
    path = write_rows(tmp_path, 7, 20)
    with pytest.raises(DataError, match="clinic-9"):
        predict(model, path, client="clinic-9")
    with pytest.raises(ConfigError, match="the task is classification"):
        predict(model, path, times=[1.0])
    with pytest.raises(CheckpointError, match=r"did you mean .*model"):
        predict(model.parent, tmp_path / "rows.csv")
    with pytest.raises(CheckpointError, match=r"no model lies there.*a finished run leaves it in site/results/model"):
        predict(ran, path)
    with pytest.raises(DataError, match="no such folder or file"):
        predict(model, tmp_path / "nowhere.csv")


def saved(tmp_path: Path, clients, **more: object) -> Path:
    """A small model of several clients."""
    federation = Federation.from_arrays(clients, names=["a", "b", "c"], **({k: more[k] for k in more if k == "task"}))
    return FedGMI(2, rounds=1, epochs=1, verbose=0, settings=SMALL, **more).fit(federation).save(tmp_path / "model")


def test_targets_and_times(tmp_path):
    draws = np.random.default_rng(0)
    xs = [draws.normal(size=(40, 2)).astype(np.float32) for _ in range(3)]
    np.savetxt(tmp_path / "rows.csv", xs[0], delimiter=",", header="x0,x1", comments="")
    regression = saved(tmp_path / "r", [(x, x[:, 0] * 3) for x in xs], task="regression")
    found = predict(regression, tmp_path / "rows.csv", client="b", watch=False).columns
    assert list(found) == ["mean", "lower_90", "upper_90", "component_0", "component_1"]
    assert all(low < mean < high for mean, low, high in zip(*list(found.values())[:3], strict=True))
    np.testing.assert_allclose(found["mean"], FedGMI.load(regression).predict(xs[0], client="b"), rtol=1e-3, atol=1e-4)
    times = [np.stack([np.exp(-x[:, 0]) + 0.1, np.arange(40) % 2], 1).astype(np.float32) for x in xs]
    survival = saved(tmp_path / "s", list(zip(xs, times, strict=True)), task="survival")
    found = predict(survival, tmp_path / "rows.csv", client="a", times=[0.5, 2], watch=False).columns
    assert list(found) == ["log_risk", "survival_0.5", "survival_2", "component_0", "component_1"]
    assert all(0 <= late <= early <= 1 for early, late in zip(found["survival_0.5"], found["survival_2"], strict=True))
    with pytest.raises(UserError, match=r"knows 3 clients.*--client: a, b, c"):
        predict(survival, tmp_path / "rows.csv")


def test_without_densities_nothing_is_said_of_drift(tmp_path):
    draws = np.random.default_rng(0)
    xs = [draws.normal(size=(40, 2)).astype(np.float32) for _ in range(3)]
    np.savetxt(tmp_path / "rows.csv", xs[0], delimiter=",", header="x0,x1", comments="")
    clients = Federation.from_arrays([(x, (x[:, 0] > 0).astype(int)) for x in xs], names=["a", "b", "c"])
    settings = {"expert.hidden": 8, "method.codewords": 4, "method.reference_rounds": 0}
    FedGMI(2, rounds=1, epochs=1, verbose=0, settings=settings).fit(clients).save(tmp_path / "model")
    found = predict(tmp_path / "model", tmp_path / "rows.csv", client="a")
    assert found.drift is None
    assert not found.alarmed
    assert any("not judged by these rows: densities were trained in no" in note for note in found.notes)
    assert len(found.columns["label"]) == 40


def test_pictures(tmp_path):
    draws = np.random.default_rng(0)
    clients = [(draws.random((20, 1, 4, 4)).astype(np.float32), np.arange(20) % 2) for _ in range(3)]
    model = saved(tmp_path, clients)
    (tmp_path / "new").mkdir()
    for i in range(3):
        Image.new("L", (4, 4), 80 * i).save(tmp_path / "new" / f"{i}.png")
    found = predict(model, tmp_path / "new", client="c", watch=False).columns
    assert list(found) == ["file", "label", "probability_0", "probability_1", "component_0", "component_1"]
    assert found["file"] == ["0.png", "1.png", "2.png"]
    with pytest.raises(DataError, match="no column holds any"):
        predict(model, write_rows(tmp_path, 1, 5), client="c")
