"""A column's values as numbers: labels as class numbers, features as float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fedgmi.data.sources.columns import Kind
from fedgmi.errors import DataError

MAX_CATEGORIES = 256
"""A column of texts has so many different ones at most."""

MAX_CLASSES = 1000
"""A data set has so many different labels at most."""

Values = npt.NDArray[Any]


def whole_labels(values: Values, *, where: str, advice: str) -> Values:
    """Bring labels to whole numbers where they are numbers.

    Args:
        values: Labels. [n]
        where: Where they come from, for the message.
        advice: The likely fix.

    Returns:
        Numbers and truth values as int64, texts as they are. [n]

    Raises:
        DataError: For a number that is not whole.
    """
    if values.dtype.kind == "f":
        bad = np.flatnonzero(~np.isfinite(values) | (values != np.round(values)))
        if len(bad):
            raise DataError(
                f"label {values[bad[0]]:g} at row {bad[0]} is not a whole number",
                where=where,
                fix=f"{advice}, or cut the values into classes",
            )
    return values.astype(np.int64) if values.dtype.kind in "biuf" else values


def encode_labels(
    splits: Sequence[Values],
    names: Sequence[str] | None,
    *,
    where: str,
    advice: str = "choose another column with data.label_column",
) -> tuple[list[Values], tuple[str, ...]]:
    """Number the labels of all splits together.

    Args:
        splits: Labels as the data set has them. [n] each
        names: The classes, where the data set names them and labels are numbers already. [L]
        where: Where the labels come from, for messages.
        advice: The likely fix of labels that are no classes.

    Returns:
        Class numbers from 0 to L − 1 [n] per split, and the L classes, sorted unless the data set names them.

    Raises:
        DataError: For labels that are no whole numbers, out of range, or too many to be classes.

    Examples:
        >>> encode_labels([np.array(["b", "a", "b"])], None, where="y")
        ([array([1, 0, 1])], ('a', 'b'))
    """
    whole = [whole_labels(values, where=where, advice=advice) for values in splits]
    if names is not None:
        for values in whole:
            outside = values[(values < 0) | (values >= len(names))]
            if len(outside):
                raise DataError(
                    f"label {outside[0]} is out of range 0..{len(names) - 1}",
                    where=where,
                    fix='rows without labels cannot be used; data.test_split = "" leaves the test split out',
                )
        return [v.astype(np.int64) for v in whole], tuple(names)
    classes = np.unique(np.concatenate(whole))
    if len(classes) > MAX_CLASSES:
        raise DataError(
            f"there are {len(classes)} different labels, which looks like measurements or names and not like classes",
            where=where,
            fix=advice,
        )
    return [np.searchsorted(classes, v).astype(np.int64) for v in whole], tuple(str(c) for c in classes)


def encode_feature(
    splits: Sequence[Values],
    kind: Kind,
    name: str,
    *,
    where: str,
    advice: str = "leave the column out with data.feature_columns",
) -> tuple[list[Values], list[str]]:
    """Bring one column to numbers: numbers stay as they are, texts become one column each.

    Args:
        splits: The column's values. [n] each
        kind: What they are; all that are not numbers are encoded as texts.
        name: The column's name.
        where: Where it comes from, for messages.
        advice: The likely fix of a column that cannot be used.

    Returns:
        The columns [n, width] per split, float32, and their names: `name`, or `name=text` for each text.

    Raises:
        DataError: For numbers that are NaN or infinite as float32, and for too many different texts.

    Examples:
        >>> encode_feature([np.array(["b", "a"])], "text", "colour", where="")
        ([array([[0., 1.],
               [1., 0.]], dtype=float32)], ['colour=a', 'colour=b'])
    """
    if kind == "number":
        with np.errstate(over="ignore"):
            numbers = [v.astype(np.float32) for v in splits]
        for values in numbers:
            bad = np.flatnonzero(~np.isfinite(values))
            if len(bad):
                raise DataError(
                    f"{len(bad)} values are NaN or infinite, the first at row {bad[0]}",
                    where=where,
                    fix=f"fill or drop these rows, or {advice}",
                )
        return [v[:, None] for v in numbers], [name]
    texts = np.unique(np.concatenate(splits))
    if len(texts) > MAX_CATEGORIES:
        raise DataError(
            f"{len(texts)} different texts are too many for one column each; {MAX_CATEGORIES} is the most",
            where=where,
            fix=advice,
        )
    one_hot = np.eye(len(texts), dtype=np.float32)
    return [one_hot[np.searchsorted(texts, v)] for v in splits], [f"{name}={text}" for text in texts]
