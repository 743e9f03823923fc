"""Columns that number the rows, which some tools write beside the data: they say nothing of a row."""

from __future__ import annotations

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
