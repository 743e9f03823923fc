"""A column's values as numbers, float32: numbers stay as they are, texts become one column each."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fedgmi.data.missing import MARK, RULE
from fedgmi.data.problems import Problems
from fedgmi.data.rows import Missing
from fedgmi.data.sources.arrays import is_missing, is_number, numbers
from fedgmi.data.sources.columns import Kind
from fedgmi.errors import DataError, FedgmiWarning

MAX_CATEGORIES = 256
"""A column of texts has so many different ones at most."""

Values = npt.NDArray[Any]

DATE = re.compile(r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{4})([T ]\d{1,2}:\d{2}.*)?")
"""A date as tables write it, with or without a time of day."""

MANY_NUMBERS = 20
"""With so many different ones, texts that are numbers are hardly names of categories."""

CODE = re.compile(r"0\d.*")
"""A number such as 007 is a code: nobody counts like that."""

TO_NUMBERS = "turn them into numbers, such as frame[column] = pandas.to_numeric(frame[column])"


def encode_feature(
    splits: Sequence[Values],
    kind: Kind,
    name: str,
    *,
    where: str,
    missing: Missing = "refuse",
    advice: str = "leave the column out with data.feature_columns",
) -> tuple[list[Values], list[str]]:
    """Bring one column to numbers: numbers stay as they are, texts become one column each.

    Args:
        splits: The column's values, None or NaN where one is missing. [n] each
        kind: What they are; all that are not numbers are encoded as texts.
        name: The column's name.
        where: Where it comes from, for messages.
        missing: The rule for missing values. A number's is NaN. A text's is NaN in all of the column's features, or, by
            the rule "indicator", the text "(missing)".
        advice: The likely fix of a column that cannot be used.

    Returns:
        The columns [n, width] per split, float32, and their names: `name`, or `name=text` for each text.

    Raises:
        DataError: For numbers that are infinite as float32, too many different texts, dates, missing values where they
            are refused, and a column without any value.

    Examples:
        >>> encode_feature([np.array(["b", "a"])], "text", "colour", where="")
        ([array([[0., 1.],
               [1., 0.]], dtype=float32)], ['colour=a', 'colour=b'])
    """
    if kind == "number":
        blocks = [number_block(values, where=where, missing=missing, advice=advice) for values in splits]
        _refuse_empty([np.isnan(block[:, 0]) for block in blocks], where, advice)
        return blocks, [name]
    gaps = [missing_texts(values) for values in splits]
    if any((values[~gap] == MARK).any() for gap, values in zip(gaps, splits, strict=True)):
        raise DataError(f"it holds the text {MARK!r}, which stands for no value", where=where, fix="write another text")
    for gap in gaps:
        if missing == "refuse" and gap.any():
            raise _missing_error(gap, where, advice)
    _refuse_empty(gaps, where, advice)
    filled = [np.where(gap, MARK, values).astype(str) for gap, values in zip(gaps, splits, strict=True)]
    there = filled if missing == "indicator" else [v[~gap] for gap, v in zip(gaps, filled, strict=True)]
    texts = np.unique(np.concatenate(there))
    _check_texts(texts, where, advice)
    known = texts.tolist()
    return [one_hot(values, known, where, missing) for values in filled], [f"{name}={text}" for text in known]


def number_block(values: Values, *, where: str, missing: Missing = "refuse", advice: str = "leave it out") -> Values:
    """A column of numbers; all of them may be missing, where the rule allows it.

    Args:
        values: The numbers, None or NaN where one is missing. [n]
        where: Where they come from, for messages.
        missing: The rule for missing values.
        advice: The likely fix of a column that cannot be used.

    Returns:
        The numbers, NaN where one is missing. [n, 1], float32

    Raises:
        DataError: For what are no numbers, infinite ones, and missing ones where they are refused.
    """
    block = numbers(values, where)[:, None]
    bad = np.flatnonzero(np.isinf(block))
    if len(bad):
        raise DataError(
            f"{len(bad)} values are infinite, or too large for 32 bits, the first at row {bad[0]}",
            where=where,
            fix=f"correct or drop these rows, or {advice}",
        )
    gap = np.isnan(block[:, 0])
    if missing == "refuse" and gap.any():
        raise _missing_error(gap, where, advice)
    return block


def one_hot(values: Values, known: Sequence[str], where: str, missing: Missing) -> npt.NDArray[np.float32]:
    """A column of texts as one column for each that is known.

    Args:
        values: The texts. `MARK` stands for a missing one. [n]
        known: The texts that have a column. [L]
        where: Where they come from, for the message.
        missing: What becomes of missing texts and of those that are not known. "mean": NaN in all columns.
            "indicator": a 1 in the column of `MARK`; NaN in all columns where there is none.

    Returns:
        A 1 for each row's text. [n, L], float32

    Raises:
        DataError: For a text that is not known, where missing values are refused.

    Examples:
        >>> one_hot(np.array(["f", "x"]), ["f", "m"], "", "mean")
        array([[ 1.,  0.],
               [nan, nan]], dtype=float32)
    """
    order = np.argsort(known)
    place = order[np.minimum(np.searchsorted(np.array(known)[order], values), len(known) - 1)]
    strange = np.array(known)[place] != values
    if strange.any() and missing == "refuse":
        _refuse_strange(values, strange, known, where)
    if MARK in known and missing == "indicator":
        place, strange = np.where(strange, list(known).index(MARK), place), np.zeros_like(strange)
    block = np.zeros((len(values), len(known)), dtype=np.float32)
    block[np.arange(len(values)), place] = 1.0
    block[strange] = np.nan
    return block


def _refuse_strange(values: Values, strange: npt.NDArray[np.bool_], known: Sequence[str], where: str) -> None:
    """Say which texts are missing, and which are none of the federation's."""
    problems, gaps = Problems(), strange & (values == MARK)
    others = strange & ~gaps
    with problems.noted():
        if gaps.any():
            raise _missing_error(gaps, where, "leave these rows out")
    with problems.noted():
        if others.any():
            row, n = int(others.argmax()), int(others.sum())
            more = f" ({n} such rows)" if n > 1 else ""
            fix = "leave these rows out, or make the federation anew with them, or with missing = "
            raise DataError(
                f"{str(values[row])!r} at row {row} is not among the federation's values: {', '.join(known)}{more}",
                where=where,
                fix=fix + '"indicator" or "mean"',
            )
    problems.tell()


def missing_texts(values: Values) -> npt.NDArray[np.bool_]:
    """Which texts are missing. [n]"""
    if values.dtype.kind != "O":
        return np.zeros(len(values), dtype=bool)
    return np.fromiter((is_missing(value) for value in values), dtype=bool, count=len(values))


def warn_of_numbers(values: Values, *, where: str, keep: str) -> None:
    """Warn of texts that are 20 different numbers or more: they are taken for categories, one column each.

    Args:
        values: The texts, None where one is missing. [n]
        where: Where they come from.
        keep: How to say that they are categories indeed.
    """
    texts = np.unique(np.asarray(values)[~missing_texts(values)].astype(str)).tolist()
    if MANY_NUMBERS <= len(texts) <= MAX_CATEGORIES and _are_numbers(texts):
        what = f"it holds {len(texts)} different texts, and all are numbers, such as {texts[0]!r}. Each is taken for a"
        told = f"{where}: {what} category. Likely fix: {TO_NUMBERS}; {keep}"
        warnings.warn(FedgmiWarning(told), stacklevel=2)


def _are_numbers(texts: Sequence[str]) -> bool:
    return all(map(is_number, texts)) and not any(map(CODE.fullmatch, texts))


def _refuse_empty(gaps: Sequence[npt.NDArray[np.bool_]], where: str, advice: str) -> None:
    if any(len(gap) for gap in gaps) and all(gap.all() for gap in gaps):
        raise DataError("it holds no value at all", where=where, fix=advice)


def _missing_error(gap: npt.NDArray[np.bool_], where: str, advice: str) -> DataError:
    what = f"{int(gap.sum())} values are missing, the first at row {int(gap.argmax())}"
    return DataError(what, where=where, fix=f"fill or drop these rows{RULE}, or {advice}")


def _check_texts(texts: Values, where: str, advice: str) -> None:
    written = [text for text in texts.tolist() if text != MARK]
    if written and all(DATE.fullmatch(text) for text in written):
        raise DataError(
            f"it holds dates, such as {written[0]!r}",
            where=where,
            fix=f"turn them into numbers, such as days since one of them, or {advice}",
        )
    if len(written) > MAX_CATEGORIES:
        raise DataError(
            f"{len(written)} different texts are too many for one column each; {MAX_CATEGORIES} is the most",
            where=where,
            fix=f"{TO_NUMBERS}, or {advice}" if _are_numbers(written) else advice,
        )
