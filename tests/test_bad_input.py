"""What a newcomer gets wrong: one message (what, where, likely fix), exit code 2, and earlier results untouched."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fedgmi.data.federation import Federation
from fedgmi.data.rows import Client, Schema
from fedgmi.data.scenarios import scenarios
from fedgmi.data.scenarios.truth import Scenario
from fedgmi.errors import FedgmiWarning
from fedgmi.methods import METHODS
from fedgmi.runs import config, experiment
from fedgmi.storage import folder
from tiny import ALL_BOUNDS, TINY, arguments, exit_code, hashes, run, settings


def picture(size: int) -> dict[str, object]:
    buffer = io.BytesIO()
    Image.new("L", (size, size)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def assert_one_message(shown: str, *parts: str) -> None:
    told = shown[shown.index("error: ") :]
    assert len(told.splitlines()) == 1, told
    for part in (*parts, "Likely fix: "):
        assert part in told, told
    assert "Traceback" not in shown


SETTINGS = [
    ("scenario.alhpa=1", "settings: unknown key scenario.alhpa", "did you mean scenario.alpha?"),
    ("method.nam=fedgmi", "settings: unknown key method.nam", "did you mean method.name?"),
    ("scenario.name=rotatoin", 'scenario.name: there is no scenario "rotatoin"', 'did you mean "rotation"?'),
    ("method.name=fedgmii", 'method.name: there is no method "fedgmii"', 'did you mean "fedgmi"?'),
    ("density.name=vea", 'density.name: there is no density "vea"', 'did you mean "vae"?'),
    ("expert.name=mpl", 'expert.name: there is no expert "mpl"', 'did you mean "mlp"?'),
    ("data.path=/no/such/folder", "data.path '/no/such/folder': no such folder", "check the path"),
    ("scenario.n_components=7", "scenario.n_components: 7 components cannot be told apart from 6", "6 or less"),
    ("method.n_components=7", "method.n_components: 7 components cannot be told apart from 6", "6 or less"),
    ("scenario.rows_per_client=5000", "data.path 'digits': the clients need 30000 training rows", "rows_per_client"),
    ("data.image_column=img", "data.image_column: the digits have no columns", "leave it out"),
]


@pytest.mark.parametrize(("override", "what", "fix"), SETTINGS, ids=lambda text: text[:24])
def test_settings(tmp_path, capsys, override, what, fix):
    assert exit_code(*arguments(tmp_path / "out", override)) == 2
    assert_one_message(capsys.readouterr().err, what, fix)
    assert not (tmp_path / "out").exists() or hashes(tmp_path / "out") == {}


@pytest.mark.parametrize("name", sorted(name for name, entry in METHODS.items() if not entry.has_components))
@pytest.mark.parametrize("asked", ["3", "auto"])
def test_components_of_a_method_without_any(tmp_path, capsys, name, asked):
    out = tmp_path / "out"
    assert exit_code(*arguments(out, f"method.name={name}", f"method.n_components={asked}")) == 2
    shown = capsys.readouterr().err
    with_components = ", ".join(known for known, entry in METHODS.items() if entry.has_components)
    assert_one_message(shown, f"method.n_components: {name} has no components", with_components)
    assert hashes(out) == {}


def test_clusters_by_distance_and_by_number(tmp_path, capsys):
    overrides = "method.name=flhc", "method.joint_rounds=1", "method.distance_threshold=1.0"
    assert exit_code(*arguments(tmp_path / "out", *overrides, "method.n_components=3")) == 2
    assert_one_message(capsys.readouterr().err, "method.n_components: flhc merges", "method.distance_threshold")


def test_two_runs_in_one_folder(tmp_path, capsys):
    with folder.alone(tmp_path):
        assert exit_code(*arguments(tmp_path)) == 2
    assert_one_message(capsys.readouterr().err, "another fedgmi is at work there", "another folder with --out")
    assert hashes(tmp_path) == {}


WRONG_TYPES = [
    ("rounds=many", 'settings: rounds is "many" (text), expected a whole number'),
    ("scenario.alpha=[1]", "settings: scenario.alpha is [1] (a list), expected a number"),
    ("method.participation=1.5", "settings: method.participation is 1.5, expected 1 or less"),
    ("communication.lost=1", "settings: communication.lost is 1, expected less than 1. Likely fix: it is a share"),
    ("communication.lost=-0.1", "settings: communication.lost is -0.1, expected 0 or more"),
    (
        "training.stragglers=1.0",
        "settings: training.stragglers is 1.0, expected less than 1. Likely fix: it is a share",
    ),
    ("training.stragglers=-1", "settings: training.stragglers is -1, expected 0 or more"),
    ("communication.lost=some", 'settings: communication.lost is "some" (text), expected a number'),
]


@pytest.mark.parametrize(("override", "told"), WRONG_TYPES)
def test_wrong_type(tmp_path, capsys, override, told):
    assert exit_code(*arguments(tmp_path / "out", override)) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"error: {told}")
    assert len(shown.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def nan_at(row: int) -> list[float]:
    return [float("nan") if i == row else 0.5 * i for i in range(30)]


NUMBERS, LABELS = [0.5 * i for i in range(30)], [i % 2 for i in range(30)]
TABLES = {
    "missing label": ({"a": NUMBERS, "y": LABELS}, "data.label_column=lable", "no column 'lable'; there are a, y"),
    "missing feature": (
        {"a": NUMBERS, "y": LABELS},
        "data.feature_columns=['b']",
        "no column 'b'; there are a, y, owner",
    ),
    "missing owner": (
        {"a": NUMBERS, "y": LABELS},
        "scenario.client_column=who",
        "no column 'who'; there are a, y, owner",
    ),
    "NaN": ({"a": nan_at(7), "y": LABELS}, "", "column 'a': 1 values are missing, the first at row 7"),
    "infinite": ({"a": [*NUMBERS[:29], float("inf")], "y": LABELS}, "", "too large for 32 bits, the first at row 29"),
    "no integers": ({"a": NUMBERS, "y": NUMBERS}, "", "label 0.5 at row 1 is not a whole number"),
    "NaN label": ({"a": NUMBERS, "y": nan_at(3)}, "", "is not a whole number"),
    "no value": ({"a": [None, *NUMBERS[1:]], "y": LABELS}, "", "1 values are missing, the first at row 0"),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables(tmp_path, write_table, capsys, name):
    columns, override, told = TABLES[name]
    path = write_table(columns | {"owner": ["x"] * 30})
    by_column = ("scenario.name=by-column", "scenario.client_column=owner", f"data.path={path}")
    overrides = [*by_column, *([override] if override else [])]
    assert exit_code(*arguments(tmp_path / "out", *overrides)) == 2
    assert_one_message(capsys.readouterr().err, told)


def test_pictures_of_mixed_sizes(tmp_path, write_table, capsys):
    import datasets

    columns = {"image": [picture(8 + i % 2) for i in range(30)], "label": [0, 1] * 15}
    path = write_table(columns, features={"image": datasets.Image(), "label": datasets.Value("int64")})
    assert exit_code(*arguments(tmp_path / "out", f"data.path={path}")) == 2
    assert_one_message(capsys.readouterr().err, "pictures of different sizes (8×8, 9×9)", "set data.size")


SCHEMA = Schema((2,), 2, "tabular", ("0", "1"), ("age", "dose"))


def federation(sizes: list[int], single_class: int | None = None) -> Scenario:
    """Clients of these sizes; one of them has rows of one class alone."""
    draws = torch.Generator().manual_seed(0)
    clients = []
    for i, n in enumerate(sizes):
        x = torch.randn(n, 2, generator=draws)
        y = torch.ones(n).long() if i == single_class else (x[:, 0] > 0).long()
        clients.append(Client(f"client-{i}", x, y))
    return Scenario(Federation(SCHEMA, tuple(clients), tuple(clients), tuple(clients)))


def offer(monkeypatch, scenario: Scenario) -> tuple[str, ...]:
    spec = scenarios.ScenarioSpec("made by hand", lambda *_: scenario)
    monkeypatch.setitem(scenarios.SCENARIOS, "by-hand", spec)
    return ("scenario.name=by-hand", "density.likelihood=gaussian")


def test_empty_client(tmp_path, monkeypatch, capsys):
    overrides = offer(monkeypatch, federation([30, 30, 0, 30]))
    assert exit_code(*arguments(tmp_path / "out", *overrides)) == 2
    assert_one_message(capsys.readouterr().err, "client 'client-2': it has no rows", "leave the client out")


def test_more_components_than_the_data_have_clients(tmp_path, monkeypatch, capsys):
    overrides = offer(monkeypatch, federation([30, 30]))
    assert exit_code(*arguments(tmp_path / "out", *overrides)) == 2
    assert_one_message(
        capsys.readouterr().err, "3 components cannot be told apart from 2 clients", "ask for 2 or fewer"
    )


@pytest.mark.parametrize("preset", ["default", "plain", "sketch"])
def test_clients_of_one_row_and_of_one_class_run(tmp_path, monkeypatch, preset):
    """Alone and together: five clients of one row, and one whose labels are all the same."""
    overrides = offer(monkeypatch, federation([30, 1, 40, 1, 1, 25, 1, 1], single_class=2))
    got = run(tmp_path / "out", *overrides, f"method.preset={preset}", "method.participation=0.5", *ALL_BOUNDS)
    assert got["rows_per_client"] == [30, 1, 40, 1, 1, 25, 1, 1]
    assert np.isfinite(got["proportions"]).all()
    assert np.allclose(np.sum(got["proportions"], axis=1), 1)
    assert 0 <= got["client_accuracy"] <= 1


@pytest.mark.parametrize("rows", [1, 2])
def test_nobody_has_more_than_a_row_or_two(tmp_path, monkeypatch, rows):
    got = run(tmp_path / "out", *offer(monkeypatch, federation([rows] * 6)), *ALL_BOUNDS)
    assert np.isfinite(got["proportions"]).all()


def test_sizes_a_hundred_to_one(tmp_path):
    ratio = ("scenario.size_ratio=100", "scenario.rows_per_client=10", "scenario.n_clients=12", *ALL_BOUNDS)
    got = run(tmp_path / "out", *ratio)
    assert (min(got["rows_per_client"]), max(got["rows_per_client"])) == (1, 100)
    assert np.isfinite(got["proportions"]).all()
    assert got["oracle"]["proportion_tv"] is not None


BELOW_A_FILE = Path(__file__) / "inside"


@pytest.mark.parametrize("out", [BELOW_A_FILE, Path(__file__), Path("/proc/fedgmi"), Path("/" + "x" * 300)], ids=str)
def test_folder_that_cannot_be_written(capsys, out):
    if str(out).startswith("/proc") and not Path("/proc").is_dir():
        pytest.skip("there is no /proc here")
    assert exit_code(*arguments(out)) == 2
    assert_one_message(capsys.readouterr().err, f"{out}: results cannot be written there (", "--out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_rights(tmp_path, capsys):
    (tmp_path / "closed").mkdir(mode=0o000)
    assert exit_code(*arguments(tmp_path / "closed" / "out")) == 2
    assert_one_message(capsys.readouterr().err, "results cannot be written there (Permission denied)")


@pytest.mark.parametrize("override", ["data.path=/no/such/folder", "method.n_components=7", "scenario.alhpa=1"])
@pytest.mark.parametrize("resume", [False, True])
def test_mistakes_leave_earlier_results(tmp_path, capsys, override, resume):
    run(tmp_path / "out")
    before = hashes(tmp_path / "out")
    assert exit_code(*arguments(tmp_path / "out", override, resume=resume)) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert hashes(tmp_path / "out") == before


def test_damaged_config_in_the_folder(tmp_path, capsys):
    run(tmp_path / "out")
    (tmp_path / "out" / folder.CONFIG).write_text("[scenario\n")
    before = hashes(tmp_path / "out")
    for words in (arguments(tmp_path / "out", resume=True), ["run", "--resume", "--out", str(tmp_path / "out")]):
        assert exit_code(*words) == 2
        assert_one_message(capsys.readouterr().err, f"{tmp_path / 'out' / folder.CONFIG}: this is not valid TOML")
    assert hashes(tmp_path / "out") == before


def test_summary_that_is_not_ours(tmp_path, capsys):
    (tmp_path / folder.SUMMARY).write_text('{"name": "somebody else\'s"}')
    assert exit_code("report", str(tmp_path)) == 2
    assert_one_message(capsys.readouterr().err, "this is not the summary of a run")


OLDER = """
rounds = 2
[method]
name = "fedgmi"
judge_rounds = 15
[method.ditto]
mu = 1.0
"""


def test_a_folder_of_an_older_fedgmi_cannot_be_resumed(tmp_path, capsys):
    """Settings and checkpoints say so, each by itself, and nothing is touched."""
    out = tmp_path / "out"
    run(out)
    (out / folder.CONFIG).write_text(OLDER)
    before = hashes(out)
    for words in (arguments(out, resume=True), ["run", "--resume", "--out", str(out)]):
        assert exit_code(*words) == 2
        told = "these settings are as an older fedgmi had them: method.judge_rounds, method.ditto"
        fix = "write reference_rounds for judge_rounds; leave out method.ditto, or write [compare.ditto]"
        needs = "A results folder that an older fedgmi wrote needs that fedgmi"
        assert_one_message(capsys.readouterr().err, f"{out / folder.CONFIG}: {told}", fix, needs)
    assert hashes(out) == before
    (out / folder.CONFIG).write_text(config.dump(settings()))
    path = out / "checkpoints" / "fedgmi.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 1}))
    assert exit_code(*arguments(out, resume=True)) == 2
    assert_one_message(capsys.readouterr().err, str(path), "resume with the fedgmi that wrote it")


def test_results_of_an_older_fedgmi_are_not_reported(tmp_path, capsys):
    run(tmp_path)
    path = tmp_path / folder.SUMMARY
    found = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in found.items() if key not in ("version", "fedgmi")}))
    assert exit_code("report", str(tmp_path)) == 2
    assert_one_message(capsys.readouterr().err, f"{path}: an older fedgmi wrote the summary of a run", "another folder")


def test_real_process(tmp_path):
    command = [sys.executable, "-m", "fedgmi", "run", "--set", "data.path=./missing", "--out", "out"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 2
    assert done.stdout == ""
    assert_one_message(done.stderr, "no such folder or file")


def test_settings_that_are_not_there(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert exit_code("run", "no-such.toml", "--out", "out") == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert_one_message(told.err, "no-such.toml: there is no such file")


def test_tiny_settings_are_what_they_say():
    """The helper's settings reach the run: otherwise none of these tests would be fast, or about what they say."""
    assert settings() == config.load(None, TINY)
    assert experiment.chosen_methods(settings(), federation([3])) == ["fedgmi"]


def test_without_rows_for_validation_a_run_sets_a_fifth_aside_for_who_chooses_by_such(tmp_path, monkeypatch):
    scenario = federation([30, 30, 30, 30, 4, 30])
    overrides = offer(monkeypatch, replace(scenario, federation=replace(scenario.federation, validation=())))
    told = r"nobody has rows for validation: a fifth of each .* 30 of 154, .*set scenario.validation_share = 0.1"
    with pytest.warns(FedgmiWarning, match=told):
        got = run(tmp_path / "out", *overrides)
    assert got["own_part"] is True
    assert got["rows_per_client"] == [24, 24, 24, 24, 4, 24]
    with pytest.warns(FedgmiWarning, match=told) as rival:  # gets the same help
        assert run(tmp_path / "ft", *overrides, "method.name=fedavg-ft")["rows_per_client"] == got["rows_per_client"]
    assert "method.personal" not in str(rival[0].message)  # which it does not have
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="nobody has rows for validation")
        for name, *more in (("off", "method.personal=false"), ("ditto", "method.name=ditto")):  # need none
            assert run(tmp_path / name, *overrides, *more)["rows_per_client"] == [30, 30, 30, 30, 4, 30]


def test_a_value_a_thousand_deviations_out_is_told_in_one_line_and_does_no_harm(tmp_path, monkeypatch):
    scenario = federation([30, 30, 40, 25, 30, 30])
    usual = run(tmp_path / "usual", *offer(monkeypatch, scenario))
    scenario.federation.clients[2].x[7, 1] = 1e5
    told = r"client 'client-2', column 'dose': 100000 is [\d,]+ deviations from the median [-.\d]+\. Likely fix"
    with pytest.warns(FedgmiWarning, match=told):
        got = run(tmp_path / "far", *offer(monkeypatch, scenario))
    assert np.isfinite(got["proportions"]).all()
    assert got["client_accuracy"] > usual["client_accuracy"] - 0.1
    assert got["standardisation"]["std"] == pytest.approx(usual["standardisation"]["std"], rel=0.1)  # for nobody else


def test_one_without_rows_for_validation_is_told(tmp_path, monkeypatch):
    scenario = federation([30] * 4)
    first, *others = scenario.federation.validation
    none = replace(first, x=first.x[:0], y=first.y[:0])
    some = replace(scenario, federation=replace(scenario.federation, validation=(none, *others)))
    overrides = offer(monkeypatch, some)
    with pytest.warns(FedgmiWarning, match=r"no rows for validation: client 'client-0'\. Without"):
        got = run(tmp_path / "out", *overrides)
    assert got["own_part"] is True
