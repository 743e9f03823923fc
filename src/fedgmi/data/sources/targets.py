"""Labels that are no classes: numbers to predict, checked and never changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedgmi.data.sources.arrays import Array, is_missing, warn_of_rounding
from fedgmi.data.sources.labels import WITHOUT_LABEL, Labels, encode_labels
from fedgmi.errors import DataError
from fedgmi.settings.run import TaskName


def read_labels(
    task: TaskName,
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
    made = [targets(task, values, where=where) for values in splits]
    return Labels(made, (), "float64")


def targets(task: TaskName, given: Any, *, where: str) -> Array:
    """Targets as numbers.

    Args:
        task: "regression" or "survival".
        given: As they came: numbers [n], or for survival times and events side by side [n, 2].
        where: Where they come from, for messages.

    Returns:
        [n], or [n, 2], float32

    Raises:
        DataError: For texts, truth values, and numbers that are missing, infinite or too large; for times below 0, and
            events that are neither 0 nor 1.

    Examples:
        >>> targets("regression", [1, 2.5], where="y")
        array([1. , 2.5], dtype=float32)
    """
    values = np.asarray(given)
    if task == "regression":
        return number_targets(values, where)
    if values.ndim != 2 or values.shape[1] != 2:
        what = f"the shape is {values.shape}, and survival needs a time and an event for each row"
        raise DataError(what, where=where, fix="give two columns [n, 2]: the time, and 1 for an event or 0")
    return with_events(values[:, 0], values[:, 1], where)


def with_events(times: Array, events: Array, where: str) -> Array:
    """Times, and beside them whether they ended in an event. [n, 2], float32"""
    time = number_targets(np.asarray(times), f"{where}, time")
    kind = np.asarray(events)
    event = number_targets(kind.astype(np.float32) if kind.dtype.kind == "b" else kind, f"{where}, event")
    below = np.flatnonzero(time < 0)
    if len(below):
        what = f"{len(below)} times are below 0, the first {time[below[0]]:g} at row {below[0]}"
        raise DataError(what, where=where, fix="count time from where each row's begins; drop rows that have none")
    other = np.flatnonzero((event != 0) & (event != 1))
    if len(other):
        what = f"event {event[other[0]]:g} at row {other[0]} is neither 0 nor 1"
        fix = "write 1 where the time ended in an event, and 0 where nobody looked any more"
        raise DataError(what, where=where, fix=fix)
    return np.stack([time, event], 1)


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
    warn_of_rounding(values, found)
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
