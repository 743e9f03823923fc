"""`training.patience`: a run stops, ends with its best round by validation rows, and says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedgmi.errors import ConfigError, FedgmiWarning
from fedgmi.methods import METHODS
from fedgmi.runs import choosing, experiment
from fedgmi.runs.metrics import METRICS, of_task
from fedgmi.storage import folder
from tiny import ALL_BOUNDS, Killer, hashes, run, settings, without_seconds

METHODS_AND_BOUNDS = [*METHODS, "oracle"]


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / folder.RECORDS).read_text().splitlines()]


def falling(monkeypatch, scores: dict[int, float | None]) -> list[int]:
    """Scores by round in place of the real ones; the rest are 0.1. Returns the rounds that were asked for."""
    real, asked = choosing.BestRound.after_round, []

    def after_round(self, progress):
        asked.append(progress.round)
        here = choosing.Score(0.1, scores.get(progress.round, 0.1))
        monkeypatch.setattr(choosing, "score", lambda *args: here)
        return real(self, progress)

    monkeypatch.setattr(choosing.BestRound, "after_round", after_round)
    return asked


CASES = [
    # method, rounds, patience, scores by round → best, stopped
    ("fedavg", 8, 2, {2: 0.3, 3: 0.5, 4: 0.4}, 3, 5),
    ("fedavg", 8, 3, {2: 0.3, 5: 0.5}, 5, 8),
    ("fedavg", 4, 9, {2: 0.9}, 2, 4),  # patience is not at its end: the best round all the same
    ("fedavg", 6, 1, {2: 0.5, 3: 0.5, 4: 0.9}, 2, 3),  # an equal round is no better one
    ("fedavg", 5, 2, dict.fromkeys(range(6)), 1, 3),  # no round has a score
    # no round of the warm-up can be the best, nor use up patience
    ("fedgmi method.warm_up_rounds=3", 6, 1, {1: 0.9, 2: 0.8, 4: 0.3}, 4, 5),
    ("flhc method.joint_rounds=2", 5, 1, {1: 0.9, 2: 0.8}, 3, 4),
]


@pytest.mark.parametrize(("method", "rounds", "patience", "scores", "best", "stopped"), CASES)
def test_which_round_is_the_best_and_when_to_stop(
    tmp_path, monkeypatch, method, rounds, patience, scores, best, stopped
):
    falling(monkeypatch, scores)
    words = [*f"method.name={method}".split(), f"rounds={rounds}", f"training.patience={patience}"]
    got = run(tmp_path, *words)
    assert (got["best_round"], got["stopped_round"], got["rounds"]) == (best, stopped, rounds)
    lines = records(tmp_path)
    assert [line["round"] for line in lines] == [*range(stopped + 1), rounds + 1]
    assert lines[-2]["best_round"] == lines[-1]["best_round"] == best
    assert lines[0].get("best_round") is None


@pytest.mark.parametrize("name", METHODS_AND_BOUNDS)
def test_the_end_is_the_best_rounds(tmp_path, monkeypatch, name):
    """A run that stops after round 4, with round 3 the best, ends with the numbers of a run of three rounds."""
    method = "fedgmi" if name == "oracle" else name
    own = ("method.joint_rounds=2",) if name in ("flhc", "flux") else ()
    words = (f"method.name={method}", *own, *(("evaluation.oracle=true",) if name == "oracle" else ()))
    three = run(tmp_path / "three", *words, "rounds=3")
    falling(monkeypatch, {1: 0.2, 2: 0.3, 3: 0.8})
    best = run(tmp_path / "best", *words, "rounds=7", "training.patience=1")
    mine, theirs = (part["oracle"] if name == "oracle" else part for part in (best, three))
    assert (mine["best_round"], mine["stopped_round"]) == (3, 4)
    same = ("client_accuracy_per_client", "metrics", "per_class", "proportions", "expert_accuracy", "density")
    assert {key: mine.get(key) for key in same} == {key: theirs.get(key) for key in same}
    assert mine["bytes_up"] >= theirs["bytes_up"]


def test_every_round_is_paid_for_as_it_was_judged(tmp_path):
    """fedgmi's last steps are tried after each round. Their bytes count, and the rounds go on untouched."""
    plain, patient = tmp_path / "plain", tmp_path / "patient"
    run(plain, "rounds=3")
    got = run(patient, "rounds=3", "training.patience=5")
    before, after = records(plain), records(patient)
    trials = [b["bytes_up"] - a["bytes_up"] for a, b in zip(before, after, strict=True)]
    assert trials[0] == trials[1] == 0  # the preparation, and the warm-up
    assert 0 < trials[2] < trials[3]
    assert after[-1]["bytes_up"] == after[-2]["bytes_up"] == got["bytes_up"]  # the end is known by then
    assert [line["proportion_tv"] for line in after[:-1]] == [line["proportion_tv"] for line in before[:-1]]
    scores = [line["validation_score"] for line in after]
    assert scores[:2] == [None, None]
    assert scores[-1] == max(scores[2:]) == got["validation_score"] == got["validation_accuracy"]


@pytest.fixture(scope="module")
def wholes() -> dict[str, tuple[Path, dict[str, Any]]]:
    """Runs by method that nobody killed, each made once."""
    return {}


@pytest.mark.parametrize("name", ["fedgmi", "fedavg", "ifca"])
@pytest.mark.parametrize("kill", [0, 2, 3, 4])
def test_killed_anywhere_it_ends_the_same(tmp_path, tmp_path_factory, monkeypatch, wholes, name, kill):
    """Round 2 is the best and 4 the last, so 3 lies between the best round and the stop."""
    words = (f"method.name={name}", "rounds=8", "training.patience=2")
    falling(monkeypatch, {2: 0.8})
    if name not in wholes:
        out = tmp_path_factory.mktemp("whole")
        wholes[name] = out, run(out, *words)
    where, whole = wholes[name]
    with pytest.raises(KeyboardInterrupt):
        experiment.run(settings(*words), tmp_path / "killed", listener=Killer(name, kill))
    resumed = run(tmp_path / "killed", *words, resume=True)
    assert without_seconds(resumed) == without_seconds(whole)
    assert whole["stopped_round"] == 4
    assert without_seconds(records(tmp_path / "killed")) == without_seconds(records(where))
    tensors = [
        {name: value for name, value in hashes(out).items() if name.endswith(".safetensors")}
        for out in (tmp_path / "killed", where)
    ]
    assert tensors[0] == tensors[1]


def test_beside_bounds_each_run_stops_by_itself(tmp_path):
    got = run(tmp_path, *ALL_BOUNDS, "rounds=4", "training.patience=1")
    for part in (got, got["oracle"], got["fedavg"], got["local"]):
        assert 1 <= part["best_round"] <= part["stopped_round"] <= 4


def test_held_out_rows_have_no_say(tmp_path, monkeypatch):
    """Other held-out rows change what is reported, and not what is chosen."""
    build = experiment.build_scenario

    def turned(*args):
        scenario = build(*args)
        federation = scenario.federation
        held_out = tuple(replace(client, y=(client.y + 1) % 10) for client in federation.held_out)
        return replace(scenario, federation=replace(federation, held_out=held_out))

    words = ("method.name=fedavg", "rounds=4", "training.patience=1", "training.lr=[0.001, 0.03]")
    usual = run(tmp_path / "usual", *words)
    monkeypatch.setattr(experiment, "build_scenario", turned)
    other = run(tmp_path / "other", *words)
    chosen = ("best_round", "stopped_round", "learning_rate", "validation_accuracy")
    assert [usual[key] for key in chosen] == [other[key] for key in chosen]
    assert usual["client_accuracy"] != other["client_accuracy"]


@pytest.mark.parametrize("metric", of_task("classification"))
def test_the_metric_chooses_rate_and_round_in_its_direction(tmp_path, metric):
    words = ("method.name=fedavg", "rounds=3", "training.patience=2", "training.lr=[1e-6, 0.03]")
    got = run(tmp_path, *words, f"evaluation.metric={metric}")
    assert got["metric"] == metric
    lines = records(tmp_path)
    by_rate = {
        rate: METRICS[metric].best([line["validation_score"] for line in lines if line["run"] == f"fedavg-lr{rate}"])
        for rate in ("1e-06", "0.03")
    }
    rate = repr(got["learning_rate"])
    scores = [line["validation_score"] for line in lines if line["run"] == f"fedavg-lr{rate}"]
    assert got["best_round"] == by_rate[rate]
    assert got["validation_score"] == scores[got["best_round"]]
    ends = [line["validation_score"] for line in lines if line["round"] == 4]
    assert got["validation_score"] == (max(ends) if METRICS[metric].higher else min(ends))


REFUSED = {
    "all rounds are warm-up": (("method.warm_up_rounds=2",), "set rounds to 3 or more"),
    "nobody has two classes": (
        ("scenario.rows_per_client=20", "evaluation.metric=auc"),
        "the AUC means nothing on them: no client has validation rows of two classes",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_chosen_is_refused_before_anything_is_written(tmp_path, monkeypatch, case):
    words, message = REFUSED[case]
    if "auc" in " ".join(words):
        one_class(monkeypatch)
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, "training.patience=1", *words)
    assert not (tmp_path / folder.RECORDS).exists()


def one_class(monkeypatch) -> None:
    build = experiment.build_scenario

    def poor(*args):
        scenario = build(*args)
        few = tuple(replace(client, x=client.x[:1], y=client.y[:1]) for client in scenario.federation.validation)
        return replace(scenario, federation=replace(scenario.federation, validation=few))

    monkeypatch.setattr(experiment, "build_scenario", poor)


@pytest.mark.parametrize("setting", ["training.patience=1", "training.lr=[0.01, 0.1]"])
@pytest.mark.parametrize("missing", ["rows", "labels"])
def test_without_validation_rows_nothing_is_chosen(tmp_path, monkeypatch, setting, missing):
    build = experiment.build_scenario

    def bare(*args):
        scenario = build(*args)
        bare = tuple(replace(client, y=None) for client in scenario.federation.validation)
        validation = () if missing == "rows" else bare
        return replace(scenario, federation=replace(scenario.federation, validation=validation))

    monkeypatch.setattr(experiment, "build_scenario", bare)
    why = "there are none" if missing == "rows" else "these have no labels"
    with pytest.raises(ConfigError, match=rf"{setting.partition('=')[0]}: validation rows choose .*, and {why}"):
        run(tmp_path, setting)


def test_without_patience_the_last_round_counts_and_nothing_more_is_said(tmp_path):
    got = run(tmp_path)
    assert "best_round" not in got
    assert "best_round" not in records(tmp_path)[-1]


def test_a_metric_by_which_nothing_is_chosen_is_told(tmp_path):
    with pytest.warns(FedgmiWarning, match=r"evaluation\.metric is auc, and nothing is chosen by it.*fedgmi compare"):
        run(tmp_path / "idle", "method.name=fedavg", "evaluation.metric=auc", "scenario.rows_per_client=20")
