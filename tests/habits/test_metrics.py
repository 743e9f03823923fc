"""Metrics are scikit-learn's, closed forms hold, and a client with one row or one class gets a number or None."""

from __future__ import annotations

import json
import math
import warnings
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as theirs

from fedgmi.runs.metrics import BINS, LARGEST_LOSS, METRICS, majority, mean, measure, of_task, per_class
from fedgmi.settings.run import MetricName


def draw(n: int, n_classes: int, seed: int = 0, present: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities and labels; of the classes the first `present` occur."""
    rng = np.random.default_rng(seed)
    return np.log(rng.dirichlet(np.ones(n_classes), n)), rng.integers(0, present or n_classes, n)


SIZES = [(1, 2), (2, 2), (50, 2), (200, 3), (120, 10)]


@pytest.mark.parametrize(("n", "n_classes"), SIZES)
def test_every_metric_is_scikit_learns(n, n_classes):
    logs, y = draw(n, n_classes)
    y[: min(n, n_classes)] = np.arange(n_classes)[:n]  # every class occurs, where there are rows enough
    p, guess, classes = np.exp(logs), logs.argmax(1), np.arange(n_classes)
    found = measure(logs, y)
    assert found["accuracy"] == pytest.approx(theirs.accuracy_score(y, guess), abs=1e-12)
    assert found["macro_f1"] == pytest.approx(theirs.f1_score(y, guess, average="macro", zero_division=0), abs=1e-12)
    assert found["log_loss"] == pytest.approx(theirs.log_loss(y, p, labels=classes), abs=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that are guessed and never true
        assert found["balanced_accuracy"] == pytest.approx(theirs.balanced_accuracy_score(y, guess), abs=1e-12)
    if len(set(y)) == n_classes:
        scores = p[:, 1] if n_classes == 2 else p
        expected = theirs.roc_auc_score(y, scores, multi_class="ovr", labels=classes if n_classes > 2 else None)
        assert found["auc"] == pytest.approx(expected, abs=1e-12)
    else:
        assert found["auc"] is None


@pytest.mark.parametrize(("n", "n_classes"), SIZES)
def test_per_class_is_scikit_learns(n, n_classes):
    logs, y = draw(n, n_classes, seed=1)
    found = per_class(logs, y)
    *numbers, support = theirs.precision_recall_fscore_support(
        y, logs.argmax(1), labels=np.arange(n_classes), zero_division=np.nan
    )
    for key, values in zip(("precision", "recall"), numbers, strict=False):
        assert [math.nan if c[key] is None else c[key] for c in found] == pytest.approx(values, nan_ok=True)
    assert [c["support"] for c in found] == support.tolist()
    f1 = theirs.f1_score(y, logs.argmax(1), labels=np.arange(n_classes), average=None, zero_division=0)
    assert [c["f1"] or 0.0 for c in found] == pytest.approx(f1)


def test_auc_of_three_classes_is_the_mean_over_those_that_occur():
    logs, y = draw(60, 3, present=2)
    expected = [theirs.roc_auc_score(y == k, np.exp(logs[:, k])) for k in (0, 1)]
    assert measure(logs, y, ["auc"])["auc"] == pytest.approx(np.mean(expected))


CLOSED = {
    "one right row": ([[0.8, 0.2]], [0], {"accuracy": 1, "macro_f1": 1, "auc": None, "log_loss": -math.log(0.8)}),
    "one wrong row": ([[0.8, 0.2]], [1], {"accuracy": 0, "balanced_accuracy": 0, "calibration_error": 0.8}),
    "one class": ([[0.9, 0.1], [0.2, 0.8]], [0, 0], {"balanced_accuracy": 0.5, "macro_f1": 1 / 3, "auc": None}),
    "a tie counts half": ([[0.5, 0.5], [0.5, 0.5]], [0, 1], {"auc": 0.5, "log_loss": math.log(2)}),
    "a certain error": ([[1.0, 0.0]], [1], {"log_loss": LARGEST_LOSS, "calibration_error": 1}),
    "no row": (np.zeros((0, 3)), [], dict.fromkeys(of_task("classification"))),
    "one class alone": ([[1.0], [1.0]], [0, 0], {"accuracy": 1, "auc": None, "log_loss": 0, "calibration_error": 0}),
    # confidence 0.7 in both, half of them right
    "calibration": ([[0.7, 0.3], [0.7, 0.3]], [0, 1], {"calibration_error": 0.2}),
    # two bins: confident 0.95 and wrong, unsure 0.6 and right
    "two bins": ([[0.95, 0.05], [0.6, 0.4]], [1, 0], {"calibration_error": (0.95 + 0.4) / 2}),
}


@pytest.mark.parametrize("case", CLOSED)
def test_closed_forms(case):
    p, y, expected = CLOSED[case]
    with np.errstate(divide="ignore"):
        found = measure(np.log(np.asarray(p)), y)
    assert {name: found[name] for name in expected} == {
        name: None if value is None else pytest.approx(value, abs=1e-12) for name, value in expected.items()
    }


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 30), st.integers(1, 5), st.integers(0, 10_000), st.data())
def test_whatever_the_rows(n, n_classes, seed, data):
    """No NaN, a known range, and the same numbers in another order of rows and as float32 tensors."""
    logs, y = draw(n, n_classes, seed, data.draw(st.integers(1, n_classes)))
    logs = np.round(logs, 1) if seed % 2 else logs  # with ties
    found, classes = measure(logs, y), per_class(logs, y)
    assert "NaN" not in json.dumps([found, classes])
    for name, value in found.items():
        assert (value is None) == (n == 0 or (name == "auc" and len(set(y)) < 2)), name
        assert value is None or 0 <= value <= (LARGEST_LOSS if name == "log_loss" else 1 + 0.06), name
    order = np.random.default_rng(seed).permutation(n)
    again = measure(torch.tensor(logs[order]), torch.tensor(y[order]))
    assert again == {name: None if v is None else pytest.approx(v, abs=1e-12) for name, v in found.items()}
    assert sum(c["support"] for c in classes) == n


def test_a_certain_prediction_keeps_its_order():
    """Probabilities of 1 − 1e-12 and 1 − 1e-10 are one number in float32; their log-odds are not."""
    logs = torch.tensor([[-23.0, -1e-10], [-27.6, -1e-12]], dtype=torch.float32)
    assert measure(logs, [0, 1], ["auc"])["auc"] == 1.0


def test_what_is_no_label_is_refused():
    with pytest.raises(ValueError, match="labels are from 0 to 2"):
        measure(np.zeros((2, 2)), [0, 2])
    with pytest.raises(ValueError, match="expected"):
        measure(np.zeros((2, 2)), [0])


@pytest.mark.parametrize(
    ("train", "y", "expected"),
    [
        ([0, 1, 1], [1, 1, 0], 2 / 3),
        ([1, 0], [0, 1, 1], 1 / 3),  # a tie: the first class
        ([], [0], None),
        ([0], [], None),
        ([2], [0, 1], 0.0),
    ],
)
def test_majority_class(train, y, expected):
    assert majority(train, y) == (None if expected is None else pytest.approx(expected))


WORST = [
    ("accuracy", [0.9, 0.5, 0.8], 0.5),
    ("log_loss", [0.1, None, 2.0], 2.0),
    ("accuracy", [i / 20 for i in range(20)], 0.025),
    ("log_loss", [i / 20 for i in range(20)], 0.925),
    ("auc", [None, None], None),
    ("auc", [], None),
]


@pytest.mark.parametrize(("name", "values", "expected"), WORST)
def test_worst_tenth_knows_what_is_worse(name, values, expected):
    assert METRICS[name].worst_tenth(values) == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize("name", of_task("classification"))
def test_the_best_value_is_in_the_metrics_direction(name):
    perfect, poor = np.log([[0.99, 0.01], [0.01, 0.99]]), np.log([[0.2, 0.8], [0.9, 0.1]])
    values = [None, *(measure(logs, [0, 1])[name] for logs in (poor, perfect, perfect))]
    assert METRICS[name].best(values) == 2


def test_settings_name_every_metric():
    assert get_args(MetricName) == tuple(METRICS)


def test_mean_of_what_is_known():
    assert mean([None, 0.5, 1.0]) == 0.75
    assert mean([None]) is None
    assert mean([]) is None
    assert BINS == 15
