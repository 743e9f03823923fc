"""Labels that are no classes: numbers to predict, checked and never changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedgmi.data.rows import Task
from fedgmi.data.sources.arrays import Array, is_missing
from fedgmi.data.sources.labels import WITHOUT_LABEL, Labels, encode_labels
from fedgmi.errors import DataError


def read_labels(
    task: Task,
    splits: Sequence[Array],
    names: Sequence[str] | None,
    *,
    where: str,
    advice: str = "choose another column with data.label_column",
) -> Labels:
    """Labels of all splits together, as the task has them.

    Args:
        task: Which task it is.
        splits: As the data have them. [n] each
        names: The classes, where the data set names them and labels are numbers already.
        where: Where they come from, for messages.
        advice: The likely fix of labels that cannot be used.

    Returns:
        Class numbers and classes; or targets, and no classes.

    Raises:
        DataError: For labels that the task cannot have.
    """
    if task == "classification":
        return encode_labels(splits, names, where=where, advice=advice)
    if names is not None:
        what = f"it holds classes ({', '.join(map(str, names[:3]))}, …), and data.task is {task}"
        raise DataError(what, where=where, fix='choose a column of numbers, or set data.task = "classification"')
    return Labels([targets(task, values, where=where) for values in splits], (), "float64")


def targets(task: Task, given: Any, *, where: str) -> Array:
    """Targets as numbers.

    Args:
        task: "regression".
        given: As they came. [n]
        where: Where they come from, for messages.

    Returns:
        [n], float32

    Raises:
        DataError: For texts, truth values, and numbers that are missing, infinite or too large.

    Examples:
        >>> targets("regression", [1, 2.5], where="y")
        array([1. , 2.5], dtype=float32)
    """
    return number_targets(np.asarray(given), where)


def number_targets(values: Array, where: str) -> Array:
    """Numbers of one column, all of them finite. [n], float32"""
    if values.dtype.kind in "OTU":
        values = _plain(values, where)
    if values.dtype.kind not in "iuf":
        kind = {"b": "truth values", "S": "bytes", "M": "dates", "c": "complex numbers"}
        what = f"the targets are {kind.get(values.dtype.kind, str(values.dtype))}, not numbers"
        raise DataError(what, where=where, fix='give numbers, or set data.task = "classification"')
    with np.errstate(over="ignore"):
        found = values.astype(np.float32)
    missing = np.flatnonzero(np.isnan(found))
    if len(missing):
        what = f"{len(missing)} of {len(found)} targets are missing (NaN), the first at row {missing[0]}"
        raise DataError(what, where=where, fix=WITHOUT_LABEL)
    infinite = np.flatnonzero(np.isinf(found))
    if len(infinite):
        what = f"target {values[infinite[0]]} at row {infinite[0]} is infinite, or too large for 32 bits"
        raise DataError(what, where=where, fix="correct or drop such rows, or choose another unit")
    return found


def _plain(values: Array, where: str) -> Array:
    """An array of objects as one of numbers, NaN where one is missing."""
    texts = [value for value in values.flat if isinstance(value, str | bytes)]
    if texts:
        what = f"the targets are texts, not numbers; the first is {texts[0][:40]!r}"
        raise DataError(what, where=where, fix='give numbers, or set data.task = "classification"')
    if any(isinstance(value, bool | np.bool_) for value in values.flat):
        return values.astype(bool)
    try:
        return np.array([np.nan if is_missing(value) else float(value) for value in values.flat])
    except (TypeError, ValueError) as error:
        kinds = ", ".join(sorted({type(value).__name__ for value in values.flat}))
        raise DataError(f"the targets are of type {kinds}", where=where, fix="give numbers") from error
