"""How good predictions are: from log-probabilities and labels to numbers, for one client or for many.

Every number is defined for one row, one class, and classes that nobody has. Where it means nothing it is None, and
never NaN. Definitions are scikit-learn's, and tests hold them to it. They are computed here because clients are many
and small: scikit-learn takes 15 ms for each of them, most of it for checks, and 2 s to be imported.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from fedgmi.runs import survival_metrics, target_metrics
from fedgmi.settings.run import MetricName, TaskName

Floats: TypeAlias = npt.NDArray[np.float64]
Whole: TypeAlias = npt.NDArray[np.int64]

BINS = 15
"""Of the calibration error: confidences in (0, 1/15], (1/15, 2/15], …, as in Guo et al. (2017)."""
LARGEST_LOSS = -math.log(float(np.finfo(np.float64).eps))
"""Nats that one row may add to the log loss: 36.04, as in scikit-learn, whose probabilities are ε at least."""


@dataclass(frozen=True)
class Metric:
    """One number that says how good predictions are.

    Attributes:
        words: Its name in words.
        higher: Whether more of it is better.
        share: Whether it is a share of 1, which tables show in percent. The log loss is in nats, others in the
            target's units.
        compute: (log-probabilities [n, L], labels [n]) → the number, or None where it means nothing. n is 1 or more. Of
            other tasks: (predictions as the head has them [n, Q], targets [n]).
        task: Of which task it is.
        limits: Between these it is, where it is no share.
        aim: The value that is best, where neither more nor less is better.
    """

    words: str
    higher: bool
    share: bool
    compute: Callable[[Floats, Any], float | None]
    task: TaskName = "classification"
    limits: tuple[float, float] = (0.0, 1.0)
    aim: float | None = None

    def best(self, values: Sequence[float | None]) -> int:
        """The place of the best value; the first of several. None is the worst.

        Examples:
            >>> METRICS["log_loss"].best([None, 0.7, 0.5, 0.5])
            2
        """
        return max(range(len(values)), key=lambda i: self.rank(values[i]))

    def rank(self, value: float | None) -> float:
        """A number that is larger where the value is better; None is the worst."""
        if value is None:
            return -math.inf
        return -abs(value - self.aim) if self.aim is not None else value if self.higher else -value

    def worst_tenth(self, values: Iterable[float | None]) -> float | None:
        """The mean over the tenth of clients that fare worst, at least one client.

        Args:
            values: Of every client; None where nobody knows.

        Returns:
            The mean; None where no value is known.

        Examples:
            >>> METRICS["accuracy"].worst_tenth([0.9, None, 0.8, 0.7])
            0.7
        """
        known = sorted((value for value in values if value is not None), key=self.rank)
        return statistics.mean(known[: max(1, round(len(known) / 10))]) if known else None


def of_task(task: str) -> dict[str, Metric]:
    """The metrics of a task, by name.

    Examples:
        >>> list(of_task("regression"))
        ['rmse', 'mae', 'r2', 'nll', 'coverage']
    """
    return {name: metric for name, metric in METRICS.items() if metric.task == task}


def measure(
    log_prob: Any, y: Any, names: Iterable[str] = (), task: TaskName = "classification"
) -> dict[str, float | None]:
    """The metrics of one set of rows.

    Args:
        log_prob: log p(y | x) of every class, an array or a tensor [n, L], nats; of other tasks what predictors give.
        y: The true classes, numbered from 0 as the columns are [n]; of other tasks the targets.
        names: Which metrics; all of the task by default.
        task: Which task it is.

    Returns:
        By name. A metric is None where it means nothing: all of them without rows, the AUC where rows have one class.

    Raises:
        ValueError: Where shapes do not fit, or a label is no column.

    Examples:
        >>> import numpy as np
        >>> probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3]])
        >>> measure(np.log(probabilities), [0, 1, 1], ["accuracy", "auc"])
        {'accuracy': 0.6666666666666666, 'auc': 1.0}
    """
    logs, labels = _arrays(log_prob, y, task)
    return {name: METRICS[name].compute(logs, labels) if len(labels) else None for name in (names or of_task(task))}


def per_class(log_prob: Any, y: Any, classes: Sequence[Any] = ()) -> list[dict[str, Any]]:
    """Precision, recall and F1 of every class.

    Args:
        log_prob: As for `measure`. [n, L]
        y: As for `measure`. [n]
        classes: The classes' names; their numbers by default. [L]

    Returns:
        For each class `name`, `precision` (None where no row was given this class), `recall` (None where no row has
        it), `f1` (None where both are so) and `support`, the number of rows that have it. [L]

    Examples:
        >>> import numpy as np
        >>> per_class(np.log([[0.9, 0.1], [0.4, 0.6]]), [0, 0], ["no", "yes"])[0]
        {'name': 'no', 'precision': 1.0, 'recall': 0.5, 'f1': 0.6666666666666666, 'support': 2}
    """
    logs, labels = _arrays(log_prob, y)
    names = list(classes) or list(range(logs.shape[1]))
    right, has, given = _counts(logs, labels)
    return [
        {
            "name": str(names[k]),
            "precision": _ratio(right[k], given[k]),
            "recall": _ratio(right[k], has[k]),
            "f1": _ratio(2 * right[k], has[k] + given[k]),
            "support": int(has[k]),
        }
        for k in range(logs.shape[1])
    ]


def majority(train: Any, y: Any) -> float | None:
    """The accuracy of saying one class of all rows: the most frequent one of the client's training rows.

    Args:
        train: The classes of its training rows; of several most frequent ones the first counts. [m]
        y: The true classes of the rows in question. [n]

    Returns:
        The share of rows that have that class; None without rows on either side.

    Examples:
        >>> majority([1, 1, 0], [1, 0])
        0.5
    """
    seen, labels = np.asarray(train, dtype=np.int64), np.asarray(y, dtype=np.int64)
    return float((labels == np.bincount(seen).argmax()).mean()) if len(seen) and len(labels) else None


def of_clients(name: str, values: Sequence[float | None]) -> dict[str, Any]:
    """A metric over clients, as records have it.

    Args:
        name: The metric's.
        values: Of every client; None where nobody knows.

    Returns:
        Its `mean`, the mean over the `worst_tenth` of clients, and the values `per_client`.

    Examples:
        >>> of_clients("accuracy", [0.5, None, 1.0])
        {'mean': 0.75, 'worst_tenth': 0.5, 'per_client': [0.5, None, 1.0]}
    """
    return {"mean": mean(values), "worst_tenth": METRICS[name].worst_tenth(values), "per_client": list(values)}


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are known; None where none is."""
    known = torch.tensor([math.nan if value is None else value for value in values], dtype=torch.float64)
    found = float(known.nanmean())
    return None if math.isnan(found) else found


def accuracy(logs: Floats, y: Whole) -> float | None:
    """The share of rows whose likeliest class is the true one."""
    return float((logs.argmax(1) == y).mean())


def balanced_accuracy(logs: Floats, y: Whole) -> float | None:
    """The mean recall of the classes that rows have."""
    right, has, _ = _counts(logs, y)
    return float((right[has > 0] / has[has > 0]).mean())


def macro_f1(logs: Floats, y: Whole) -> float | None:
    """The mean F1 of the classes that rows have, or were given."""
    right, has, given = _counts(logs, y)
    there = has + given > 0
    return float((2 * right[there] / (has + given)[there]).mean())


def auc(logs: Floats, y: Whole) -> float | None:
    """The area under the ROC curve; with three classes or more the mean of one-vs-rest over the classes that rows have.

    None where all rows have one class. Of two classes the second is the positive one.
    """
    if logs.shape[1] == 2:  # the difference has its full precision where one of both is nearly certain
        return _area(logs[:, 1] - logs[:, 0], y == 1)
    return mean(_area(logs[:, k], y == k) for k in np.unique(y))


def log_loss(logs: Floats, y: Whole) -> float | None:
    """The mean of −log p(true class), nats. One row adds 36.04 at most."""
    return float(np.minimum(-logs[np.arange(len(y)), y], LARGEST_LOSS).mean())


def calibration_error(logs: Floats, y: Whole) -> float | None:
    """The expected calibration error: how far confidence is from accuracy, over 15 bins of the same width.

    Confidence is the largest probability. A bin counts by its rows: Σ_b n_b/n · |accuracy_b − confidence_b|.
    """
    confidence, right = np.exp(logs.max(1)), (logs.argmax(1) == y).astype(np.float64)
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    return float(np.abs(np.bincount(bins, right - confidence, BINS)).sum() / len(y))


METRICS: dict[str, Metric] = {
    "accuracy": Metric("accuracy", True, True, accuracy),
    "balanced_accuracy": Metric("balanced accuracy", True, True, balanced_accuracy),
    "macro_f1": Metric("macro-F1", True, True, macro_f1),
    "auc": Metric("AUC", True, True, auc),
    "log_loss": Metric("log loss", False, False, log_loss, limits=(0.0, LARGEST_LOSS)),
    "calibration_error": Metric("calibration error", False, True, calibration_error),
    "rmse": Metric("RMSE", False, False, target_metrics.rmse, "regression", (0.0, math.inf)),
    "mae": Metric("MAE", False, False, target_metrics.mae, "regression", (0.0, math.inf)),
    "r2": Metric("R²", True, False, target_metrics.r2, "regression", (-math.inf, 1.0)),
    "nll": Metric("−log density", False, False, target_metrics.nll, "regression", (-math.inf, math.inf)),
    "coverage": Metric("coverage of 90% intervals", True, True, target_metrics.coverage, "regression", aim=0.9),
    "c_index": Metric("C-index", True, True, survival_metrics.c_index, "survival"),
}
"""By the name that `evaluation.metric` has."""
USUAL: dict[TaskName, MetricName] = {"classification": "accuracy", "regression": "rmse", "survival": "c_index"}
"""By which methods are judged where nothing is said."""


def _arrays(log_prob: Any, y: Any, task: TaskName = "classification") -> tuple[Floats, Any]:
    """As arrays, checked. Tensors may lie anywhere."""
    logs, labels = (value.detach().cpu() if hasattr(value, "detach") else value for value in (log_prob, y))
    if task != "classification":
        return np.asarray(logs, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    logs, labels = np.asarray(logs, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    if logs.ndim != 2 or labels.shape != logs.shape[:1]:
        raise ValueError(f"log-probabilities are {logs.shape} and labels {labels.shape}, expected [n, L] and [n]")
    if len(labels) and not 0 <= labels.min() <= labels.max() < logs.shape[1]:
        raise ValueError(f"labels are from {labels.min()} to {labels.max()}, expected 0 to {logs.shape[1] - 1}")
    return logs, labels


def _counts(logs: Floats, y: Whole) -> tuple[Whole, Whole, Whole]:
    """By class: rows that have it and were given it, that have it, that were given it. [L] each"""
    guess, size = logs.argmax(1), logs.shape[1]
    return (
        np.bincount(y[guess == y], minlength=size),
        np.bincount(y, minlength=size),
        np.bincount(guess, minlength=size),
    )


def _area(scores: Floats, positive: npt.NDArray[np.bool_]) -> float | None:
    """How often a positive row's score is above a negative one's; equal ones count half (Mann & Whitney 1947)."""
    ours, theirs = scores[positive], np.sort(scores[~positive])
    if not len(ours) or not len(theirs):
        return None
    below, level = (np.searchsorted(theirs, ours, side).sum() for side in ("left", "right"))
    return float(below + level) / (2 * len(ours) * len(theirs))


def _ratio(part: Any, whole: Any) -> float | None:
    return float(part / whole) if whole else None
