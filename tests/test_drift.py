"""The drift monitor, on streams from Gaussians in closed form and on a fitted model."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedgmi.drift import Monitor, Report
from fedgmi.drift import monitor as monitors
from fedgmi.errors import CheckpointError, ConfigError, DataError, FedgmiWarning
from fedgmi.randomness import numpy_generator

DOCUMENT = Path(__file__).parents[1] / "docs" / "drift.md"
ALARMS = ("proportions moved", "rows no longer fit")


@dataclass(frozen=True)
class Identified:
    identified: bool


class Gaussians:
    """Unit Gaussians in K dimensions, the k-th at 4 on axis k; labels say nothing, but may be asked for."""

    def __init__(self, weights: list[float], *, needs_labels: bool = False, offset: float = 0.0) -> None:
        self.weights_ = np.array([weights, weights[::-1]])
        self.client_names_ = ["anna", "boris"]
        self.n_components_ = len(weights)
        self.needs_labels, self.offset = needs_labels, offset

    def component_log_prob(self, x: Any) -> np.ndarray:
        means = 4.0 * np.eye(self.n_components_) + self.offset
        return -0.5 * np.square(np.asarray(x)[:, None] - means).sum(2)

    def log_ratios(self, x: Any, y: Any = None) -> np.ndarray:
        logs = self.component_log_prob(x)
        return 0.0 * logs if self.needs_labels and y is None else logs - logs.max(1, keepdims=True)

    def infer_weights(self, x: Any, y: Any = None) -> Identified:
        return Identified(not self.needs_labels or y is not None)


THREE = [0.5, 0.3, 0.2]


def rows(n: int, shares: list[float], seed: int) -> np.ndarray:
    """Rows of the Gaussians above; shares beyond the dimensions are of rows at −4, where nothing was."""
    rng = numpy_generator(seed, "rows")
    means = 4.0 * np.eye(3)
    kind = rng.choice(len(shares), size=n, p=shares)
    centre = np.concatenate([means, np.full((1, 3), -4.0)])[kind]
    return centre + rng.normal(size=(n, 3))


def monitor(model: Gaussians | None = None, **options: Any) -> Monitor:
    options = {"reference": (rows(200, THREE, 0), None)} | options
    return Monitor(model or Gaussians(THREE), "anna", **options)


def feed(watcher: Monitor, shares: list[float], batches: int, *, size: int = 20, seed: int = 1) -> list[Report]:
    return [watcher.update(rows(size, shares, 1000 * seed + b)) for b in range(batches)]


def until_alarm(watcher: Monitor, shares: list[float], *, limit: int = 50, seed: int = 2) -> Report:
    for b in range(limit):
        report = watcher.update(rows(20, shares, 1000 * seed + b))
        if report.state in ALARMS:
            return report
    pytest.fail(f"no alarm in {limit} batches")


def test_a_stream_as_before_is_in_control():
    reports = feed(monitor(), THREE, 20)
    assert {report.state for report in reports} == {"in control"}
    assert [report.batch for report in reports] == list(range(1, 21))
    last = reports[-1]
    assert last.cause is last.change_point is last.weights_now is None
    assert last.weights_before.tolist() == THREE
    assert list(last.statistics) == ["component 0", "component 1", "component 2", "fit, low", "fit, high"]
    assert max(last.statistics.values()) < last.threshold


@pytest.mark.slow
def test_false_alarms_come_as_often_as_asked_for_however_wrong_the_model():
    """Mean of 60 run lengths of nominally 20 batches: standard error about 12%."""
    wrong = Gaussians([0.1, 0.1, 0.8], offset=1.0)
    lengths = []
    for seed in range(60):
        watcher = monitor(wrong, average_run_length=20, reference=(rows(50, THREE, seed), None), seed=seed)
        lengths.append(until_alarm(watcher, THREE, limit=1000, seed=10_000 + seed).batch)
    assert np.mean(lengths) == pytest.approx(20, rel=0.3)


@pytest.mark.parametrize(
    ("after", "towards"),
    [([0.2, 0.3, 0.5], "component 2"), ([0.1, 0.8, 0.1], "component 1"), ([1, 0, 0], "component 0")],
)
def test_moved_proportions_are_found_and_told(after, towards):
    watcher = monitor()
    feed(watcher, THREE, 10)
    report = until_alarm(watcher, after)
    assert (report.state, report.cause) == ("proportions moved", towards)
    assert report.batch <= 16
    assert abs(report.change_point - 10) <= 2
    later = feed(watcher, after, 20, seed=3)[-1]
    assert (later.state, later.change_point) == (report.state, report.change_point)
    assert later.weights_now == pytest.approx(after, abs=0.1)
    assert f"towards {towards} since batch {report.change_point + 1}" in later.verdict
    assert f"{later.weights_now[0]:.0%}" in later.verdict


def test_a_component_that_the_client_never_had_is_found():
    shares = [0.6, 0.4, 0.0]
    watcher = monitor(Gaussians(shares), reference=(rows(100, shares, 0), None))
    report = until_alarm(watcher, [0.5, 0.35, 0.15])
    assert (report.state, report.cause) == ("proportions moved", "component 2")


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_rows_of_no_component_no_longer_fit(share):
    watcher = monitor()
    feed(watcher, THREE, 10)
    report = until_alarm(watcher, [*((1 - share) * np.array(THREE)), share])
    assert (report.state, report.cause) == ("rows no longer fit", "fit, low")
    assert report.weights_now is None
    assert "less likely" in report.verdict


def test_rows_that_fit_too_well_do_not_fit_either():
    watcher = monitor()
    feed(watcher, THREE, 5)
    centre = 4.0 * np.eye(3)
    for b in range(5):
        report = watcher.update(centre[numpy_generator(b).choice(3, size=20, p=THREE)])
    assert (report.state, report.cause) == ("rows no longer fit", "fit, high")
    assert "more likely" in report.verdict


def test_moved_proportions_leave_the_fit_alone():
    watcher = monitor(average_run_length=1e6)
    feed(watcher, THREE, 10)
    fits = [report.statistics["fit, low"] for report in feed(watcher, [0.1, 0.1, 0.8], 3, size=10)]
    assert max(fits) < 3


def test_two_components_and_one():
    two = Monitor(Gaussians([0.5, 0.5]), "anna", reference=(rows(100, [0.5, 0.5], 0)[:, :2], None))
    for b in range(5):
        report = two.update(rows(20, [0.1, 0.9], b)[:, :2])
    assert (report.state, report.cause) == ("proportions moved", "component 1")
    one = Monitor(Gaussians([1.0]), "anna", reference=(rows(100, [1.0], 0)[:, :1], None))
    assert list(one.update(rows(20, [1.0], 1)[:, :1]).statistics) == ["fit, low", "fit, high"]


def test_without_a_reference_the_first_batches_are_it():
    watcher = monitor(reference=None)
    states = [report.state for report in feed(watcher, THREE, 5)]
    assert states == ["learning", "learning", "in control", "in control", "in control"]
    assert until_alarm(watcher, [0.05, 0.05, 0.9]).state == "proportions moved"


def test_a_short_reference_is_learnt_on():
    assert monitor(reference=(rows(20, THREE, 0), None)).state == "learning"
    assert monitor(reference=(rows(50, THREE, 0), None)).state == "in control"


def test_where_rows_cannot_tell_components_apart_only_the_fit_is_watched():
    model = Gaussians(THREE, needs_labels=True)
    with pytest.warns(FedgmiWarning, match="cannot tell components apart.*Give labels"):
        watcher = monitor(model)
    assert list(feed(watcher, [0, 0, 1], 3)[-1].statistics) == ["fit, low", "fit, high"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        labelled = Monitor(model, "anna", reference=(rows(100, THREE, 0), np.zeros(100)))
    for b in range(6):
        report = labelled.update(rows(20, [0, 0, 1], b), np.zeros(20))
    assert report.state == "proportions moved"


@settings(max_examples=8, deadline=None)
@given(cut=st.integers(0, 14))
def test_a_monitor_goes_on_from_its_state_as_if_nothing_had_happened(cut):
    def stream(watcher: Monitor, first: int, last: int) -> Monitor:
        for b in range(first, last):
            watcher.update(rows(10, THREE if b < 8 else [0.0, 0.1, 0.9], b))
        return watcher

    def start() -> Monitor:
        return monitor(reference=(rows(30, THREE, 0), None))

    through = stream(start(), 0, 15)
    text = json.dumps(stream(start(), 0, cut).to_dict(), allow_nan=False)
    resumed = stream(Monitor.from_dict(Gaussians(THREE), json.loads(text)), cut, 15)
    assert resumed.to_dict() == through.to_dict()
    assert resumed.state == "proportions moved"


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(monitors, "RECENT_ROWS", 100)
    monkeypatch.setattr("fedgmi.drift.charts.CAPACITY", 60)
    watcher = monitor(reference=None)
    sizes = []
    for shares in (THREE, [0, 0, 1], [0, 0, 1]):
        feed(watcher, shares, 20)
        sizes.append(len(json.dumps(watcher.to_dict())))
    assert watcher.state == "proportions moved"
    assert max(sizes) < 1.5 * sizes[0]


def test_after_a_false_alarm_the_reference_stays():
    watcher = monitor()
    until_alarm(watcher, [0, 0, 1])
    watcher.reset()
    assert watcher.state == "in control"
    assert feed(watcher, THREE, 3)[-1].state == "in control"
    assert until_alarm(watcher, [0, 0, 1]).state == "proportions moved"


def test_what_changed_for_good_becomes_the_new_normal():
    watcher = monitor()
    until_alarm(watcher, [0.1, 0.1, 0.8])
    found = feed(watcher, [0.1, 0.1, 0.8], 10)[-1].weights_now
    watcher.reset(new_normal=True)
    assert watcher.state == "learning"
    reports = feed(watcher, [0.1, 0.1, 0.8], 10, seed=5)
    assert [reports[0].state, reports[-1].state] == ["learning", "in control"]
    assert reports[-1].weights_before.tolist() == found.tolist()
    assert until_alarm(watcher, THREE).state == "proportions moved"


def test_the_example_of_the_documentation_runs(capsys):
    """It fits a model to two blobs, and anna's proportions move on day 11."""
    [block] = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {"__name__": "drift"}
    exec(compile(block, str(DOCUMENT), "exec"), names)
    report = names["report"]
    assert report.state == "proportions moved"
    assert 11 <= report.batch <= 16
    assert report.verdict in capsys.readouterr().out
    weights = names["model"].infer_weights(np.concatenate([names["rows"](20, 0.8) for _ in range(20)])).weights
    assert names["monitor"].update(names["rows"](400, 0.8)).weights_now == pytest.approx(weights, abs=0.1)


def test_a_wrong_client_name_is_an_error_that_names_the_nearest():
    with pytest.raises(DataError, match=r"no client of that name .*'ana'.*did you mean 'anna'"):
        Monitor(Gaussians(THREE), "ana")


@pytest.mark.parametrize("length", [0, 9, -5, float("nan"), float("inf")])
def test_a_run_length_too_short_or_no_number_is_an_error(length):
    with pytest.raises(ConfigError, match=r"average_run_length.*10 to 1e\+09"):
        monitor(average_run_length=length)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((0, 3)), "batch 2: it has no rows"),
        (np.array([[0.0, 1.0, 2.0], [0.0, np.nan, 1.0]]), r"batch 2: 1 of 2 rows have no score \(the first is row 1\)"),
    ],
)
def test_rows_that_cannot_be_used_leave_the_monitor_as_it_was(x, message):
    watcher = monitor()
    feed(watcher, THREE, 1)
    before = watcher.to_dict()
    with pytest.raises(DataError, match=message):
        watcher.update(x)
    assert watcher.to_dict() == before


def test_scores_of_another_shape_are_an_error():
    class Broken(Gaussians):
        def log_ratios(self, x: Any, y: Any = None) -> np.ndarray:
            return super().log_ratios(x)[:, :2]

    with pytest.raises(DataError, match=r"reference: 200 rows have scores of shape \(200, 2\)"):
        monitor(Broken(THREE))


def test_labels_are_given_always_or_never():
    watcher = monitor()
    with pytest.raises(DataError, match="earlier rows had none, these have labels"):
        watcher.update(rows(20, THREE, 1), np.zeros(20))
    labelled = monitor(reference=(rows(60, THREE, 0), np.zeros(60)))
    with pytest.raises(DataError, match="earlier rows had labels, these have none"):
        labelled.update(rows(20, THREE, 1))


def test_a_reference_without_its_place_for_labels_is_an_error():
    with pytest.raises(DataError, match=r"reference: it is no pair.*\(x, None\)"):
        monitor(reference=rows(60, THREE, 0))


def test_a_state_of_another_version_or_model_is_an_error():
    state = monitor().to_dict()
    with pytest.raises(CheckpointError, match="no state of a drift monitor of this version"):
        Monitor.from_dict(Gaussians(THREE), state | {"format": 0})
    with pytest.raises(CheckpointError, match="watched 3 components, and the model has 2"):
        Monitor.from_dict(Gaussians([0.5, 0.5]), state)


def test_rows_so_strange_that_their_density_is_zero_are_watched_too():
    class Bounded(Gaussians):
        def component_log_prob(self, x: Any) -> np.ndarray:
            logs = super().component_log_prob(x)
            return np.where(logs < -50, -np.inf, logs)

    watcher = monitor(Bounded(THREE))
    watcher._model.log_ratios = Gaussians(THREE).log_ratios
    report = until_alarm(watcher, [0, 0, 0, 1.0])
    assert report.state == "rows no longer fit"
    json.dumps(watcher.to_dict(), allow_nan=False)
