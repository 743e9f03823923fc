"""The main job from configuration to results folder, with the real parts on a handful of rows."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import safetensors.torch
import torch

from fedgmi.data.rows import Schema
from fedgmi.errors import ConfigError, FedgmiWarning
from fedgmi.methods.fedgmi.presets import PRESETS
from fedgmi.runs import config, experiment
from fedgmi.runs.setup import Setup
from fedgmi.storage import folder
from tiny import ALL_BOUNDS, arguments, exit_code, run, settings, without_seconds

KEYS = {
    "proportion_tv", "proportion_tv_drawn", "fedavg", "local", "assignment_accuracy", "expert_accuracy",
    "client_accuracy", "client_accuracy_per_client", "density", "oracle", "n_components", "rounds", "bytes_down",
    "bytes_up", "seconds",
}  # fmt: skip
OWN = KEYS - {"fedavg", "local", "oracle"}


def strict(text: str) -> dict:
    """JSON as the standard has it: no NaN, no Infinity."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of a run by the command line, with all bounds."""
    out = tmp_path_factory.mktemp("finished") / "new" / "out"
    assert exit_code(*arguments(out, *ALL_BOUNDS)) == 0
    return out


@pytest.fixture(scope="module")
def summary(finished):
    return strict((finished / folder.SUMMARY).read_text())


def test_folder_holds_everything(finished):
    names = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    runs = ("fedgmi", "oracle", "fedavg", "local")
    tensors = {f"checkpoints/{name}.3.safetensors" for name in runs}
    states = {f"checkpoints/{name}.json" for name in runs}
    assert names == {folder.CONFIG, folder.RECORDS, folder.SUMMARY, folder.PICTURE} | tensors | states
    assert config.load(finished / folder.CONFIG).scenario.n_clients == 6
    for path in finished.glob("checkpoints/*.json"):
        strict(path.read_text())
    assert "server/density" in safetensors.torch.load_file(finished / "checkpoints" / "fedgmi.3.safetensors")


def test_a_record_for_every_run_and_round(finished):
    records = [strict(line) for line in (finished / folder.RECORDS).read_text().splitlines()]
    expected = [(run, round) for run in ("fedgmi", "oracle", "fedavg", "local") for round in range(4)]
    assert [(record["run"], record["round"]) for record in records] == expected
    assert {"bound", "proportion_tv", "validation_accuracy", "seconds"} <= records[0].keys()
    for name in ("fedgmi", "fedavg"):
        down, up = ([r[key] for r in records if r["run"] == name] for key in ("bytes_down", "bytes_up"))
        assert 0 <= down[0] < down[1] < down[2] <= down[3]
        assert 0 <= up[0] < up[1] < up[2] <= up[3]
    for record in records:
        for place, key in enumerate(("bytes_down", "bytes_up")):
            assert record[key] == sum(both[place] for both in record["bytes"].values())
    kinds = {name: set(records[place]["bytes"]) for name, place in (("fedgmi", 3), ("fedavg", 11), ("local", 15))}
    assert kinds["fedgmi"] == {"sketch", "density", "expert", "statistics"}
    assert kinds["fedavg"] == {"expert", "statistics"}
    assert kinds["local"] == {"statistics"}
    assert records[15]["bytes_up"] < 4 * 6 * 300  # headers alone: four exchanges at most with six clients


def test_summary_has_what_was_promised(summary):
    assert summary.keys() >= KEYS
    assert summary["oracle"].keys() >= OWN
    for part in (summary, summary["oracle"]):
        assert 0 <= part["proportion_tv"] <= 1
        assert 0 <= part["assignment_accuracy"] <= 1
        assert [len(row) for row in part["expert_accuracy"]] == [3, 3, 3]
        assert [len(row) for row in part["density"]] == [3, 3, 3]
        assert all(value < 0 for row in part["density"] for value in row)
        assert len(part["client_accuracy_per_client"]) == 6
        mean = sum(part["client_accuracy_per_client"]) / 6
        assert part["client_accuracy"] == pytest.approx(mean)
        assert (part["n_components"], part["rounds"]) == (3, 2)
        assert min(part["bytes_down"], part["bytes_up"], part["seconds"]) > 0
        for shares in part["proportions"]:
            assert sum(shares) == pytest.approx(1)
    for name in ("fedavg", "local"):
        assert 0 <= summary[name]["client_accuracy"] <= 1


def test_oracle_has_the_true_proportions_nearest(summary):
    assert summary["oracle"]["proportion_tv"] < summary["proportion_tv"]


def test_same_seed_same_summary(tmp_path, summary):
    again = run(tmp_path / "again", *ALL_BOUNDS)
    assert without_seconds(again) == without_seconds(summary)
    other = run(tmp_path / "other", "seed=1")
    assert other["proportions"] != again["proportions"]


def test_bounds_change_nothing_and_appear_only_where_asked(tmp_path, summary):
    alone = run(tmp_path / "out")
    assert (alone["fedavg"], alone["local"], alone["oracle"]) == (None, None, None)
    assert without_seconds({key: alone[key] for key in OWN}) == without_seconds({key: summary[key] for key in OWN})
    some = run(tmp_path / "some", "evaluation.local=true")
    assert some["local"] is not None
    assert some["fedavg"] is None


@pytest.mark.parametrize("preset", sorted(PRESETS.keys() - {"oracle"}))
def test_presets(tmp_path, preset):
    got = run(tmp_path, f"method.preset={preset}")
    assert got["preset"] == preset
    assert got.keys() >= KEYS
    assert 0 <= got["proportion_tv"] <= 1


@pytest.mark.parametrize("n_components", [1, 2, 4])
def test_more_and_fewer_components_than_there_are(tmp_path, n_components):
    got = run(tmp_path, f"method.n_components={n_components}")
    assert got["n_components"] == n_components
    assert all(sum(row) == pytest.approx(1) for row in got["proportions"])
    for matrix in (got["expert_accuracy"], got["density"]):
        assert [len(row) for row in matrix] == [max(3, n_components)] * 3
        missing = [sum(row[k] for row in got["proportions"]) == 0 for k in range(len(matrix[0]))]
        assert [column[0] is None for column in zip(*matrix, strict=True)] == missing
        assert sum(missing) == max(0, 3 - n_components)
    lost = sum(got["true_proportions"][i][k] for i in range(6) for k in range(3) if missing[k]) / 6
    unmatched = sum(sum(row[3:]) for row in got["proportions"]) / 6
    assert got["proportion_tv"] >= max(lost, unmatched) - 1e-9


@pytest.mark.parametrize("name", ["fedavg", "local"])
def test_rivals_as_the_method(tmp_path, name, capsys):
    assert exit_code(*arguments(tmp_path / "out", f"method.name={name}", *ALL_BOUNDS)) == 0
    got = strict((tmp_path / "out" / folder.SUMMARY).read_text())
    assert got["proportion_tv"] is got["oracle"] is None
    assert got["client_accuracy"] > 0
    assert "client accuracy, %" in capsys.readouterr().out


def test_who_listens_hears_what_follows_the_last_round(tmp_path):
    heard = []

    class Ear:
        def started(self, name, rounds): ...

        def round_done(self, record):
            heard.append(record["round"])

        def doing(self, name, part):
            heard.append(part)

        def said(self, name, line): ...

        def finished(self, name): ...

    experiment.run(settings(), tmp_path / "out", listener=Ear())
    assert heard == [0, 1, 2, "last steps", "own parts", "evaluation", 3]


@pytest.mark.parametrize(
    "more",
    [
        ("method.n_components=auto", "scenario.n_clients=20", "scenario.alpha=0.2"),
        ("training.patience=2", "rounds=3", "method.name=fedem"),
        ("training.patience=2", "rounds=3"),
        ("evaluation.unseen_clients=0.3", "method.participation=0.7"),
        ("method.epsilon=1.0",),
        ("training.stragglers=0.5", *ALL_BOUNDS),
    ],
    ids=str,
)
def test_lost_replies_beside_other_settings(tmp_path, more):
    summary = run(tmp_path, "communication.lost=0.5", *more)
    whole = run(tmp_path / "whole", *more)
    assert 0 < summary["bytes_up"] < whole["bytes_up"]
    assert summary["client_accuracy"] > 0.1
    lines = [record for record in folder.read_records(tmp_path) if record["run"] == summary["method"]]
    names = set(summary["clients"])
    assert all(set(line["absent"]) < names for line in lines)
    assert any(line["absent"] for line in lines)


def test_partial_participation(tmp_path):
    everyone, some = run(tmp_path / "all"), run(tmp_path / "some", "method.participation=0.5")
    assert some["bytes_up"] < everyone["bytes_up"]
    assert some["proportions"] != everyone["proportions"]


def test_learning_rate_is_chosen_on_validation_rows(tmp_path):
    got = run(tmp_path, "training.lr=[1e-9, 1e-2]", "method.name=fedavg", "rounds=5", "training.epochs=5")
    records = folder.read_records(tmp_path)
    last = {record["run"]: record["validation_accuracy"] for record in records if record["round"] == 5}
    assert last["fedavg-lr0.01"] > last["fedavg-lr1e-09"]
    assert got["learning_rate"] == 1e-2
    assert got["validation_accuracy"] == last["fedavg-lr0.01"]


def test_without_truth(tmp_path):
    got = run(tmp_path, "scenario.name=pathological", *ALL_BOUNDS)
    for key in ("proportion_tv", "proportion_tv_drawn", "assignment_accuracy", "expert_accuracy", "density", "oracle"):
        assert got[key] is None, key
    assert len(got["proportions"]) == 6
    assert got["fedavg"]["client_accuracy"] is not None


@pytest.mark.parametrize(
    "overrides",
    [
        ("density.likelihood=gaussian",),
        ("density.architecture=conv", "expert.name=cnn"),
        ("density.architecture=conv", "density.likelihood=gaussian"),
        ("density.name=gaussian",),
        ("scenario.name=label-swap",),
        ("scenario.name=gaussian", "density.likelihood=gaussian"),
    ],
    ids=" ".join,
)
def test_other_models_and_scenarios(tmp_path, overrides):
    got = run(tmp_path, *overrides)
    assert got.keys() >= KEYS
    assert torch.tensor(got["density"]).isfinite().all()


def test_folder_of_pictures(tmp_path, write_table):
    import datasets
    from sklearn.datasets import load_digits

    pictures, labels = load_digits(return_X_y=True)
    pixels = (pictures.reshape(-1, 8, 8) * 15).astype("uint8")
    path = write_table(
        {"image": list(pixels[:700]), "label": labels[:700].tolist()},
        features={"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)},
    )
    got = run(tmp_path / "out", f"data.path={path}")
    assert got["proportion_tv"] is not None


def test_folder_of_a_table_by_column(tmp_path, write_table):
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(240, 2, generator=draws)
    columns = {"age": x[:, 0].tolist(), "dose": x[:, 1].tolist(), "target": (x[:, 0] > 0).long().tolist()}
    path = write_table(columns | {"ward": [f"ward-{i % 6}" for i in range(240)]})
    by_ward = ("scenario.name=by-column", "scenario.client_column=ward", "density.likelihood=gaussian")
    got = run(tmp_path / "out", f"data.path={path}", *by_ward, *ALL_BOUNDS)
    assert got["clients"] == [f"ward-{i}" for i in range(6)]
    assert got["client_accuracy"] is not None
    assert got["proportion_tv"] is got["oracle"] is None


def test_tables_are_standardised_by_those_who_train(tmp_path, write_table):
    ward = [i % 6 for i in range(240)]
    path = write_table({"age": ward, "dose": [1000 * i for i in ward], "ward": [f"ward-{i}" for i in ward]})
    by_ward = (f"data.path={path}", "scenario.name=by-column", "scenario.client_column=ward", "rounds=1")
    by_ward = (*by_ward, 'data.feature_columns=["age", "dose"]')  # for they tell the ward
    by_ward = (*by_ward, "expert.hidden=200")  # there are no labels, so that nothing else may be said of experts
    with pytest.warns(FedgmiWarning, match="the clients show 1.*no client's are identified"):  # of four kinds
        got = run(tmp_path / "out", *by_ward, "evaluation.unseen_clients=0.3")
    seen = torch.tensor([float(name.removeprefix("ward-")) for name in got["clients"]])
    assert len(seen) == 4
    std = float(seen.std(correction=0))
    scale = got["standardisation"]
    assert scale["mean"] == pytest.approx([float(seen.mean()), 1000 * float(seen.mean())])
    assert scale["std"] == pytest.approx([std, 1000 * std])
    assert scale["log_det"] == pytest.approx(2 * math.log(std) + math.log(1000))


def test_settings_of_experts_are_refused_where_nobody_has_labels(tmp_path, write_table):
    path = write_table({"age": [float(i % 7) for i in range(120)], "ward": [f"ward-{i % 6}" for i in range(120)]})
    by_ward = (f"data.path={path}", "scenario.name=by-column", "scenario.client_column=ward", "expert.hidden=9")
    with pytest.raises(ConfigError, match=r"expert\.hidden: it is 9 and has no effect, for there are no labels"):
        run(tmp_path / "out", *by_ward)
    assert not (tmp_path / "out" / "config.toml").exists()


def test_bytes_count_the_standardisation(tmp_path, write_table):
    rows = {
        "age": [20 + i % 60 for i in range(240)],
        "label": [0, 1] * 120,
        "ward": [f"ward-{i % 6}" for i in range(240)],
    }
    by_ward = ("scenario.name=by-column", "scenario.client_column=ward", "method.name=local", "rounds=1")
    by_ward = (f"data.path={write_table(rows)}", *by_ward)
    raw, got = (run(tmp_path / choice, *by_ward, f"data.standardise={choice}") for choice in ("false", "true"))
    down, up = (got["bytes"]["statistics"][place] - raw["bytes"]["statistics"][place] for place in (0, 1))
    assert 6 * 2 * 8 < down < 6 * (2 * 8 + 1000)  # to each of 6 clients mean and deviation of one column; headers
    assert 6 * 3 * 8 < up < 6 * (3 * 8 + 500)  # two sums of one column, and how many rows; a header


def test_clients_that_are_held_out_are_told_apart(tmp_path, capsys):
    """Two of six take no part: fewer clients and bytes in the run, their figures under `unseen`."""
    whole, part = tmp_path / "whole", tmp_path / "part"
    run(whole)
    assert exit_code(*arguments(part, *ALL_BOUNDS, "evaluation.unseen_clients=0.3")) == 0
    everybody, summary = (strict((out / folder.SUMMARY).read_text()) for out in (whole, part))
    unseen = summary["unseen"]
    assert len(summary["clients"]) == len(summary["proportions"]) == 4
    assert sorted(summary["clients"] + unseen["clients"]) == everybody["clients"]
    assert summary["bytes_up"] < everybody["bytes_up"]
    assert 0 <= unseen["proportion_tv"] <= 1
    assert 0 <= unseen["proportion_tv_unlabelled"] <= 1
    assert len(unseen["client_accuracy_per_client"]) == len(unseen["proportions"]) == 2
    assert summary["oracle"]["unseen"]["proportion_tv"] is not None
    assert set(summary["fedavg"]["unseen"]) == {"clients", "client_accuracy", "client_accuracy_per_client", "metrics"}
    assert summary["local"]["unseen"]["client_accuracy"] is not None
    assert "unseen clients: accuracy" in capsys.readouterr().out
    assert "unseen" not in everybody


@pytest.mark.parametrize(
    ("features", "asked", "threads"), [(64, None, 1), (784, None, 7), (784, 1, 1), (64, 3, 3)], ids=str
)
def test_small_models_have_one_thread_unless_the_settings_say_otherwise(monkeypatch, features, asked, threads):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    schema = Schema((features,), 2, "tabular", ("sick", "well"), tuple(f"x{j}" for j in range(features)))
    assert Setup(config.from_table({"threads": asked} if asked else {}, "here"), schema, 3).threads() == threads
