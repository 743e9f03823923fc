"""Users' arrays, whatever they are of, as plain ones: numbers with NaN where a value is missing."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from fedgmi.errors import DataError, FedgmiWarning

Array = npt.NDArray[Any]


def plain_array(values: Any, where: str) -> Array:
    """An array of NumPy, with None or NaN where a mask hides a value.

    Args:
        values: An array, masked or not, a tensor, a column of a table, or nested lists.
        where: Whose they are, for the message.

    Returns:
        The same values.

    Raises:
        DataError: For what is no dense array.

    Examples:
        >>> plain_array(np.ma.masked_array([[1.0, -999.0]], mask=[[0, 1]]), "x").tolist()
        [[1.0, nan]]
    """
    if isinstance(values, Tensor):
        if values.is_sparse or values.layout != values.new_empty(0).layout:
            raise DataError("this is a sparse tensor", where=where, fix="give x.to_dense()")
        values = values.detach().cpu()
        return np.asarray((values.float() if values.dtype.is_floating_point else values).numpy())
    if isinstance(values, np.ma.MaskedArray):
        hidden = np.ma.getmaskarray(values)
        if not hidden.any():
            return np.asarray(values.data)
        kind = np.float64 if values.dtype.kind in "biuf" else object
        plain = np.asarray(values.data).astype(kind)
        plain[hidden] = np.nan if kind is np.float64 else None
        return plain
    if isinstance(values, Mapping):
        fix = "give its values as one array, or a DataFrame with columns of these names"
        raise DataError("this is a dict, not an array", where=where, fix=fix)
    if type(values).__module__.startswith("scipy.sparse"):
        raise DataError("this is a sparse matrix", where=where, fix="give x.toarray()")
    if isinstance(values, list | tuple) and values and all(isinstance(value, np.ma.MaskedArray) for value in values):
        values = np.ma.stack(values)
        return plain_array(values, where)
    try:
        return np.asarray(values)
    except (ValueError, TypeError) as error:
        raise DataError("the rows differ in length", where=where, fix="give rectangular arrays") from error


def by_row(values: Any, where: str) -> Array:
    """Labels or names of clients, one a row, as they were given: NumPy would make texts of all where one is a text.

    Args:
        values: As for `plain_array`.
        where: Whose they are, for the message.

    Returns:
        An array; of objects where kinds are mixed, or a value is missing or masked.

    Raises:
        DataError: See `plain_array`.

    Examples:
        >>> by_row(["a", 1], "y").tolist(), by_row([1, 2], "y").dtype.kind
        (['a', 1], 'i')
    """
    if isinstance(values, list | tuple) and not any(isinstance(value, list | tuple | np.ndarray) for value in values):
        kinds = {np.asarray(value).dtype.kind for value in values}
        if len(kinds) > 1 and not kinds <= set("iuf"):
            mixed = np.empty(len(values), dtype=object)
            mixed[:] = values
            return mixed
    return plain_array(values, where)


def channels_last(shape: tuple[int, ...]) -> str:
    """The advice for pictures whose channels are the last axis.

    Args:
        shape: Of the pictures. [n, height, width, channels]
    """
    n, height, width, channels = shape
    return f"bring them to {n}×{channels}×{height}×{width}, channels first: numpy.moveaxis(x, -1, 1)"


def numbers(array: Array, where: str) -> Array:
    """Float32 numbers, NaN where a value is missing.

    Args:
        array: As `plain_array` gives it.
        where: Whose they are, for the message.

    Returns:
        The numbers. What float32 cannot hold is infinite.

    Raises:
        DataError: For what are no numbers. It says what they are, and where the first one is.

    Examples:
        >>> numbers(np.array([[1, None], [True, 2.5]], dtype=object), "x").tolist()
        [[1.0, nan], [1.0, 2.5]]
    """
    kind = array.dtype.kind
    if kind == "O":
        array = np.reshape([_number(value, where) for value in array.flat], array.shape)
    elif kind not in "biuf":
        what, fix = WRONG.get(kind, (f"values of type {array.dtype}", "give numbers"))
        raise DataError(f"x holds {what}, not numbers", where=where, fix=fix)
    with np.errstate(over="ignore"):
        found = array.astype(np.float32)
    warn_of_rounding(array, found)
    return found


def warn_of_rounding(array: Array, found: Array) -> None:
    """Warn of large numbers that differ, and are one and the same in float32: codes, seconds since 1970.

    Args:
        array: The numbers. [n, …]
        found: The same in float32. [n, …]
    """
    with np.errstate(invalid="ignore"):
        large = (np.abs(found) >= EXACT) & np.isfinite(found)
    if not large.any():
        return
    differ = np.unique(array[large])
    merged = np.flatnonzero(np.diff(differ.astype(np.float32)) == 0)
    if len(merged):
        one, other = differ[merged[0]], differ[merged[0] + 1]
        what = f"numbers such as {one} and {other} become one, for float32 has 24 bits"
        told = f"{what}. Likely fix: subtract a constant that you choose, or leave out what is a code"
        warnings.warn(FedgmiWarning(told), stacklevel=3)


EXACT = 2**24
"""Up to here float32 holds all whole numbers."""


DATES = "dates", "turn them into numbers, such as days since a day that you choose"
TEXTS = "texts", "put the rows into a DataFrame for Federation.from_frame, which encodes texts"
WRONG = {
    "c": ("complex numbers", "give the real and the imaginary part as two columns, or the absolute value"),
    "M": DATES,
    "m": ("durations", "turn them into numbers, such as seconds"),
    "U": TEXTS,
    "S": TEXTS,
    "T": TEXTS,
    "V": ("records", "put the rows into a DataFrame for Federation.from_frame"),
}


def is_missing(value: Any) -> bool:
    """Whether an object stands for no value: None, NaN, and what pandas has for them.

    Args:
        value: Any.
    """
    return (
        value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value)
    )


def missing_values(values: Array) -> npt.NDArray[np.bool_]:
    """Which of some values are missing. [n]"""
    if values.dtype.kind == "f":
        return np.isnan(values)
    if values.dtype.kind != "O":
        return np.zeros(len(values), dtype=bool)
    return np.fromiter(map(is_missing, values), dtype=bool, count=len(values))


def is_number(text: str) -> bool:
    """Whether a text is a finite number.

    Examples:
        >>> is_number("1e3"), is_number("nan"), is_number("²")
        (True, False, False)
    """
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def _number(value: Any, where: str) -> float:
    if is_missing(value):
        return float("nan")
    if isinstance(value, str | bytes):
        what, fix = TEXTS
        raise DataError(f"x holds {what}, not numbers; the first is {value[:40]!r}", where=where, fix=fix)
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        kind = type(value).__name__
        ragged = isinstance(value, list | tuple | np.ndarray)
        what = "the rows differ in length" if ragged else f"x holds objects of type {kind}, not numbers"
        fix = "give rectangular arrays" if ragged else "give numbers"
        if kind in ("datetime", "date", "Timestamp", "datetime64"):
            what, fix = f"x holds {DATES[0]}, not numbers", DATES[1]
        raise DataError(what, where=where, fix=fix) from error
