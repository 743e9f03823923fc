"""Numbers that tables and pictures share, computed from a run's summary alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from fedgmi.errors import made_up
from fedgmi.report.formats import listed, number, percent

Summary = dict[str, Any]
"""What `summary.json` holds."""


class Shown(NamedTuple):
    """How a metric is shown.

    Attributes:
        head: Of its column.
        show: A value as text.
        unit: Of differences.
        higher: Whether more is better.
    """

    head: str
    show: Callable[[Any], str]
    unit: str
    higher: bool

    def said(self, value: Any) -> str:
        """A value within a sentence: shares with their sign."""
        return self.show(value) + " %" * self.head.endswith("%")


METRICS: dict[str, Shown] = {
    "accuracy": Shown("client accuracy %", percent, "points", True),
    "balanced_accuracy": Shown("balanced accuracy %", percent, "points", True),
    "macro_f1": Shown("macro-F1 %", percent, "points", True),
    "auc": Shown("AUC %", percent, "points", True),
    "log_loss": Shown("log loss, nats", partial(number, digits=3), "nats", False),
    "calibration_error": Shown("calibration error, points", percent, "points", False),
    "rmse": Shown("RMSE", partial(number, digits=3), "RMSE", False),
    "mae": Shown("MAE", partial(number, digits=3), "MAE", False),
    "r2": Shown("R²", partial(number, digits=3), "R²", True),
    "nll": Shown("−log density, nats", partial(number, digits=3), "nats", False),
    "coverage": Shown("coverage %", percent, "points", True),
    "c_index": Shown("C-index %", percent, "points", True),
}
"""By name."""


def total_variation(estimated: Sequence[float], true: Sequence[float]) -> float:
    """½·Σ_k |π̂_k − π_k|. A component that one side lacks has no share there.

    Args:
        estimated: π̂ of one client, in matched order. [K̂]
        true: π. [K]

    >>> total_variation([0.5, 0.5], [0.75, 0.25, 0.0])
    0.25
    """
    n = max(len(estimated), len(true))
    left, right = ([*side, *[0.0] * (n - len(side))] for side in (estimated, true))
    return sum(abs(mine - theirs) for mine, theirs in zip(left, right, strict=True)) / 2


def errors(summary: Summary) -> list[float | None]:
    """Every client's total variation. None where no truth is known.

    Args:
        summary: What `summary.json` holds.
    """
    estimated, true = summary.get("proportions"), summary.get("true_proportions")
    if estimated is None or true is None:
        return [None] * len(summary["clients"])
    return [total_variation(mine, theirs) for mine, theirs in zip(estimated, true, strict=True)]


def few_counted(summary: Summary) -> str:
    """That a deployment's components are made without some sites, in words; "" where they are not.

    Args:
        summary: What `summary.json` holds.

    Examples:
        >>> few_counted({"counted": ["a", "b"], "sites": 4, "clients": ["a", "b", "c"]})
        'Components come from the histograms of 2 of 4 sites: a and b.'
    """
    counted, sites = summary.get("counted"), summary.get("sites")
    if counted is None or sites is None or len(counted) >= sites:
        return ""
    return f"Components come from the histograms of {len(counted)} of {sites} sites: {listed(counted)}."


def beware(summary: Summary) -> list[str]:
    """What makes the components less than they look.

    Args:
        summary: What `summary.json` holds.

    Returns:
        Sentences; none where nothing does.

    Examples:
        >>> beware({"n_components": 3, "clients": ["a", "b"]})
        ['3 components cannot be told apart from 2 clients: their proportions are made up.']
    """
    return [line for line in (few_counted(summary), made_up(summary["n_components"], len(summary["clients"]))) if line]


def judged_by(summary: Summary) -> str:
    """The metric that tables show by client: the one that chooses, where it was measured; else the accuracy."""
    metric = str(summary.get("metric", "accuracy"))
    return metric if metric in (summary.get("metrics") or {}) else "accuracy"


def per_client(summary: Summary, run: str | None = None) -> list[float | None] | None:
    """What every client has by the metric of `judged_by`.

    Args:
        summary: What `summary.json` holds.
        run: None for the method's own. Otherwise "fedavg", "local" or "oracle", the runs beside it.

    Returns:
        None where there was no such run.
    """
    part = summary if run is None else summary.get(run) or {}
    name = judged_by(summary)
    if name != "accuracy":
        found: list[float | None] | None = ((part.get("metrics") or {}).get(name) or {}).get("per_client")
        return found
    accuracy: list[float | None] | None = part.get("client_accuracy_per_client")
    return accuracy


def own_and_others(matrix: Sequence[Sequence[float]] | None, component: int) -> tuple[float | None, float | None]:
    """How a component's expert, or density, does on its own rows and on those of others.

    Args:
        matrix: [true component × expert or density].
        component: A column.

    Returns:
        The value on its own rows, and the mean on the others' rows. None where there is none.
    """
    if not matrix or component >= min(len(matrix), len(matrix[0])):
        return None, None
    column = [row[component] for row in matrix]
    others = [value for true, value in enumerate(column) if true != component and value is not None]
    return column[component], sum(others) / len(others) if others else None
