"""Labels: read as they were given, and numbered as classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fedgmi.data.sources.arrays import Array, is_missing
from fedgmi.errors import DataError

MAX_CLASSES = 1000
"""A data set has so many different labels at most."""

TEXT, TRUTH, NUMBER = "texts", "truth values", "numbers"
KIND = {"U": TEXT, "b": TRUTH, "i": NUMBER, "u": NUMBER, "f": NUMBER}
WITHOUT_LABEL = "leave rows without a label out"
REGRESSION = 'to predict the number itself set data.task = "regression" (in Python task="regression")'


class Labels(NamedTuple):
    """Labels as numbers of classes.

    Attributes:
        numbers: From 0 to L − 1. [n] per split, int64
        classes: The labels as texts, in order. [L]
        type: What users gave them as; see `Schema.label_type`.
    """

    numbers: list[Array]
    classes: tuple[str, ...]
    type: str


NO_LABELS = Labels([], (), "")
"""Of a federation without labels."""


def encode_labels(
    splits: Sequence[Array],
    names: Sequence[str] | None,
    *,
    where: str,
    advice: str = "choose another column with data.label_column",
) -> Labels:
    """Number the labels of all splits together.

    Args:
        splits: Labels as the data set has them. [n] each
        names: The classes, where the data set names them and labels are numbers already. [L]
        where: Where the labels come from, for messages.
        advice: The likely fix of labels that are no classes.

    Returns:
        Class numbers, and the L classes, sorted unless the data set names them.

    Raises:
        DataError: For labels that are no whole numbers, out of range, of two kinds, or too many to be classes.

    Examples:
        >>> encode_labels([np.array(["b", "a", "b"])], None, where="y")
        Labels(numbers=[array([1, 0, 1])], classes=('a', 'b'), type='str')
    """
    given = [label_values(values, where=where, advice=advice) for values in splits]
    if names is not None:
        return _named(given, names, where)
    kinds = sorted({KIND[values.dtype.kind] for values in given})
    if len(kinds) > 1:
        what = f"some labels are {kinds[0]} and others are {kinds[1]}"
        raise DataError(what, where=where, fix="use one kind for all clients")
    common = _in_common(given, where, advice)
    classes = np.unique(np.concatenate(common))
    if len(classes) > MAX_CLASSES:
        raise DataError(
            f"there are {len(classes)} different labels, which looks like measurements or names and not like classes",
            where=where,
            fix=advice if classes.dtype.kind == "U" else f"{advice}, or {REGRESSION}",
        )
    numbers = [np.searchsorted(classes, values).astype(np.int64) for values in common]
    objects = any(np.asarray(values).dtype.kind == "O" for values in splits)
    type_ = ("object" if objects else "str") if classes.dtype.kind == "U" else classes.dtype.name
    return Labels(numbers, tuple(label_names(classes)), type_)


def label_values(labels: Any, *, where: str, advice: str) -> Array:
    """Labels as they were given: whole numbers, truth values, whole decimals, or texts, never changed into each other.

    Args:
        labels: Labels. [n]
        where: Where they come from, for the message.
        advice: The likely fix.

    Returns:
        The same values; objects as the type that all of them have. [n]

    Raises:
        DataError: For missing labels, numbers that are not whole or that no 64 bits can tell apart, and other types.

    Examples:
        >>> label_values(np.array(["01", "1"], dtype=object), where="y", advice="")
        array(['01', '1'], dtype='<U2')
    """
    values: Array = np.asarray(labels)
    if values.dtype.kind == "T":  # NumPy's texts of any length
        values = values.astype(object)
    if values.dtype.kind == "O":
        values = _of_one_type(values, where, advice)
    if values.dtype.kind not in KIND:
        what, fix = WRONG.get(values.dtype.kind, (str(values.dtype), f"{advice}: whole numbers or texts"))
        raise DataError(f"the labels are {what}", where=where, fix=fix)
    if values.dtype.kind == "f":
        _refuse_fractions(values, where, advice)
        _refuse_large(np.abs(values) >= 2.0 ** (np.finfo(values.dtype).nmant + 1), values, where, advice)
    if values.dtype.kind == "u":
        _refuse_large(values > np.iinfo(np.int64).max, values, where, advice)
    return values


def label_names(values: Array) -> list[str]:
    """Labels as the texts by which classes are known.

    Args:
        values: As `label_values` gives them. [n]

    Returns:
        Texts; of a whole decimal, those of the whole number. [n]

    Examples:
        >>> label_names(np.array([2.0, 10.0])), label_names(np.array(["02", "2"]))
        (['2', '10'], ['02', '2'])
    """
    return [str(int(value)) if isinstance(value, float) else str(value) for value in values.tolist()]


WRONG = {
    "M": ("dates", "cut them into classes, such as years as whole numbers"),
    "S": ("bytes", "decode them to texts, with y.astype(str)"),
    "c": ("complex numbers", "give whole numbers or texts"),
}


def _named(given: Sequence[Array], names: Sequence[str], where: str) -> Labels:
    """Numbers that stand for names already."""
    for values in given:
        outside = values[(values < 0) | (values >= len(names))]
        if len(outside):
            raise DataError(
                f"label {outside[0]} is out of range 0..{len(names) - 1}",
                where=where,
                fix='rows without labels cannot be used; data.test_split = "" leaves the test split out',
            )
    return Labels([values.astype(np.int64) for values in given], tuple(names), "str")


def _in_common(given: Sequence[Array], where: str, advice: str) -> list[Array]:
    """Labels of one type; no two different ones become equal."""
    kind = np.result_type(*given)
    if kind.kind == "f" and all(values.dtype.kind in "iu" for values in given):
        kind = np.dtype(np.int64)  # uint64 beside int64, and every label fits into that
    common = [values.astype(kind) for values in given]
    if kind.kind == "f":
        for values in common:
            label_values(values, where=where, advice=advice)  # a whole number may be too large beside decimals
    return common


def _refuse_fractions(values: Array, where: str, advice: str) -> None:
    bad = np.flatnonzero(~np.isfinite(values) | (values != np.round(values)))
    if not len(bad):
        return
    row = bad[0]
    if np.isnan(values[row]):
        raise _without(np.flatnonzero(np.isnan(values)), len(values), where)
    fix = f"{advice}, or cut the values into classes, or {REGRESSION}"
    raise DataError(f"label {values[row]:g} at row {row} is not a whole number", where=where, fix=fix)


def _refuse_large(large: Array, values: Array, where: str, advice: str) -> None:
    """Refuse numbers that 64 bits, or their own, cannot tell from their neighbours."""
    if large.any():
        row = int(large.argmax())
        why = "2⁶³ or more" if values.dtype.kind == "u" else f"too large for {values.dtype} to tell it from others"
        fix = f"{advice}, or give the labels as texts"
        raise DataError(f"label {values[row]} at row {row} is {why}", where=where, fix=fix)


def _without(rows: Any, n: int, where: str) -> DataError:
    what = f"{len(rows)} of {n} labels are missing, the first at row {rows[0]}"
    return DataError(what, where=where, fix=WITHOUT_LABEL)


def _of_one_type(values: Array, where: str, advice: str) -> Array:
    """An array of objects as one of texts or numbers."""
    missing = [row for row, value in enumerate(values.flat) if is_missing(value)]
    if missing:
        raise _without(missing, values.size, where)
    kinds = {type(value) for value in values.flat}
    if all(issubclass(kind, str) for kind in kinds):
        return values.astype(str)
    if all(issubclass(kind, bool | np.bool_) for kind in kinds):
        return values.astype(bool)
    found = " and ".join(sorted(kind.__name__ for kind in kinds))
    if any(issubclass(kind, str | bool | np.bool_) for kind in kinds):
        raise DataError(f"the labels are a mixture of {found}", where=where, fix="give all labels one type")
    try:
        whole = all(issubclass(kind, int | np.integer) for kind in kinds)
        return np.array(values.tolist(), dtype=np.int64 if whole else np.float64)
    except OverflowError as error:
        fix = f"{advice}, or give the labels as texts"
        raise DataError("a label needs more than 64 bits", where=where, fix=fix) from error
    except (TypeError, ValueError) as error:
        raise DataError(
            f"the labels are of type {found}", where=where, fix=f"{advice}: whole numbers or texts"
        ) from error
