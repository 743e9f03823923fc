"""Columns that number the rows, which some tools write beside the data: they say nothing of a row."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Sequence

import numpy as np

from fedgmi.data.sources.arrays import Array
from fedgmi.errors import FedgmiWarning

WRITTEN = re.compile(r"Unnamed: \d+|__index_level_\d+__|")
"""Names that pandas gives to a frame's index: in CSV, where the header's cell is empty, and in Parquet."""

ENOUGH = 50
"""In a table of fewer rows a column may count by chance."""

RARE = 1e-3
"""More seldom than this, values that do not depend on each other are taken for numbers that were given out."""


def is_row_number(name: str) -> bool:
    """Whether a tool wrote a column of that name to number the rows.

    Examples:
        >>> is_row_number("Unnamed: 0"), is_row_number("age")
        (True, False)
    """
    return WRITTEN.fullmatch(name) is not None


def without_row_numbers(names: Sequence[str], *, where: str, keep: str) -> list[str]:
    """The columns without those that a tool wrote to number the rows.

    Args:
        names: The columns that nobody has named.
        where: Where they come from, for the warning.
        keep: How to use such a column all the same.

    Returns:
        The others, in their order. A FedgmiWarning names those that are left out.

    Examples:
        >>> without_row_numbers(["age", "sex"], where="", keep="")
        ['age', 'sex']
    """
    numbered = [name for name in names if is_row_number(name)]
    if numbered:
        what = f"{where}: left out {', '.join(map(repr, numbered))}, which numbers the rows. To use it, {keep}"
        warnings.warn(FedgmiWarning(f"{what}."), stacklevel=2)
    return [name for name in names if name not in numbered]


def warn_of_counter(values: Array, *, where: str) -> None:
    """Warn of a column that counts all rows, whatever it is called: 0, 1, 2, … or 1, 2, 3, …, in any order.

    It is kept: the hour of a measurement counts too.

    Args:
        values: The column's, of all rows. [n]
        where: Where they come from.
    """
    if len(values) < ENOUGH or values.dtype.kind not in "iu":
        return
    first, last = int(values.min()), int(values.max())
    if first in (0, 1) and last - first == len(values) - 1 and len(np.unique(values)) == len(values):
        what = f"it counts the rows from {first} to {last}. Leave it out of the features if it is a row's number"
        warnings.warn(FedgmiWarning(f"{where}: {what}."), stacklevel=2)


def given_out(values: Array) -> bool:
    """Whether whole numbers look given out one after another, as patients' numbers are, and not measured.

    Take pairs of rows. With T of equal values, N of values that are one step apart, and any distribution p of values
    that do not depend on each other, E[N] = n(n − 1)·Σ p(v)p(v + 1) ≤ n(n − 1)·Σ p(v)² = 2·E[T], by Cauchy and
    Schwarz. Numbers that are given out have neighbours and hardly an equal. Of T + N such pairs, each equal with
    probability 1/3 or more, T or fewer are equal with probability exp(−(T + N)·D) at most, where D is the divergence
    of T/(T + N) from 1/3 (Chernoff 1952; Hoeffding 1963, Theorem 1): the answer is yes where that is below `RARE`. A
    step is the greatest number that divides all distances. Pairs share rows, so that this is no bound but a rule of
    thumb; docs/decisions.md has measured it.

    Numbers that lie far apart (of 100 patients in a series of 10,000) say nothing either way: the answer is no.

    Args:
        values: Whole numbers. [n]

    Returns:
        Whether they do.

    Examples:
        >>> given_out(np.array([*range(7000, 7100), 7050]))  # one patient twice
        True
        >>> given_out(np.random.default_rng(0).normal(60, 12, 500).round())  # ages
        False
    """
    if not len(values) or np.abs(values).max() >= 2**53:  # decimals of 64 bits know no neighbours there
        return False
    distinct, counts = np.unique(values.astype(np.int64), return_counts=True)
    distances = np.diff(distinct)
    near = distances == np.gcd.reduce(distances)
    equal = int((counts * (counts - 1) // 2).sum())
    apart = int((counts[:-1] * counts[1:])[near].sum())
    if 2 * equal >= apart:
        return False
    share = equal / (equal + apart)
    divergence = share * math.log(3 * share) if share else 0.0
    divergence += (1 - share) * math.log(1.5 * (1 - share))
    return (equal + apart) * divergence > -math.log(RARE)
