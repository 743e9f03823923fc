"""Rows and what belongs to them go by place: an index of pandas that holds the same in another order is a slip."""

from __future__ import annotations

from collections import Counter
from typing import Any

from fedgmi.errors import DataError


def refuse_other_order(x: Any, values: Any, what: str, where: str) -> None:
    """Refuse labels or clients whose index has the rows' entries in another order.

    Args:
        x: Rows.
        values: What belongs to them, row by row. Only where both have an index of pandas is there an order to compare.
        what: What the values are called.
        where: Where they were given, for the message.

    Raises:
        DataError: The indices hold the same, and not in the same order.

    Examples:
        >>> refuse_other_order([[1.0], [2.0]], ["a", "b"], "y", "fit")
    """
    rows, own = _index(x), _index(values)
    if rows is None or own is None or len(rows) != len(own) or rows.equals(own):
        return
    known, given = rows.tolist(), own.tolist()
    if Counter(known) == Counter(given):
        row = next(row for row, (one, other) in enumerate(zip(known, given, strict=True)) if one != other)
        found = f"{what} has the index of X in another order: at row {row} X has {known[row]!r}, {what} {given[row]!r}"
        fix = f"give {what}.loc[X.index], or {what}.to_numpy() where the rows agree by place"
        raise DataError(found, where=where, fix=fix)


def _index(values: Any) -> Any:
    """The index of a table or column of pandas, or None."""
    return values.index if type(values).__module__.partition(".")[0] == "pandas" and hasattr(values, "index") else None
