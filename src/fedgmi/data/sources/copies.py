"""Columns that tell the label or the client by another writing: as features they would tell the answer."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedgmi.data.sources.row_numbers import ENOUGH
from fedgmi.errors import FedgmiWarning

FEW = 16
"""So many rows show that most columns differ."""

FRACTIONS = ("halffloat", "float", "double")
"""Types of Arrow whose numbers may have a fraction."""

CODES = 20
"""So many different values a recoding has at most: with more, every row could have its own."""


def copies(table: Any, values: list[Any]) -> list[str]:
    """The columns that hold given values row by row, as they are or as texts.

    Args:
        table: A pyarrow Table.
        values: Two or more different ones; of constant values there are no copies. [n]

    Returns:
        The columns' names.
    """
    if len(values) != len(table) or len(set(map(str, values))) < 2:
        return []

    def same(held: list[Any], given: list[Any]) -> bool:
        return held == given or list(map(str, held)) == list(map(str, given))

    columns = ((name, table.column(name)) for name in table.column_names)
    return [
        name
        for name, column in columns
        if same(column.slice(0, FEW).to_pylist(), values[:FEW]) and same(column.to_pylist(), values)
    ]


def recodings(table: Any, values: list[Any]) -> list[str]:
    """The columns that put the rows into the same groups as given values do: each value has one code, and back.

    Args:
        table: A pyarrow Table.
        values: From 2 to 20 different ones; of others there are no recodings. [n]

    Returns:
        The columns' names. Copies are among them.

    Examples:
        >>> import pyarrow
        >>> recodings(pyarrow.table({"code": [0, 1, 0], "age": [30, 40, 50]}), ["ill", "well", "ill"])
        ['code']
    """
    given = list(map(str, values))
    if len(given) != len(table) or not 2 <= len(set(given)) <= CODES:
        return []
    spread = np.unique(np.linspace(0, len(given) - 1, 4 * FEW).astype(int))

    def paired(held: list[Any], wanted: list[str]) -> bool:
        codes = list(map(str, held))
        return len(set(codes)) == len(set(wanted)) == len(set(zip(codes, wanted, strict=True)))

    columns = ((name, table.column(name)) for name in table.column_names)
    return [
        name
        for name, column in columns
        if paired(column.take(spread).to_pylist(), [given[row] for row in spread]) and paired(column.to_pylist(), given)
    ]


def is_measured(column: Any) -> bool:
    """Whether a column has numbers with a fraction: what was measured at each client is no code of its name."""
    return str(column.type) in FRACTIONS and any(value is not None and value % 1 for value in column.to_pylist())


def without_copies(
    table: Any,
    chosen: Sequence[str],
    client: str | None,
    label: str | None,
    event: str | None = None,
    *,
    keep: str,
    where: str = "",
) -> list[str]:
    """The features that nobody has named, but for copies and recodings of the label, the event and the client.

    Args:
        table: A pyarrow Table. In one of fewer than 50 rows two columns may agree by chance, and all are kept.
        chosen: The features' columns.
        client: The column of the clients' names, or None.
        label: The column of labels, or None.
        event: The column of events, with survival.
        keep: How to use one all the same.
        where: Where the table comes from.

    Returns:
        The others, in their order. A FedgmiWarning names each that is left out.
    """
    kept = list(chosen)
    if len(table) < ENOUGH:
        return kept
    for role, column in (("label", label), ("event", event), ("client", client)):
        if column is None:
            continue
        values = table.column(column).to_pylist()
        equal = copies(table, values)
        for name in dict.fromkeys(equal + recodings(table, values)):
            measured = role == "client" and is_measured(table.column(name))
            if name in kept and not measured:
                kept.remove(name)
                holds = f"holds what the {role} {column!r} holds"
                told = f"column {name!r} {holds}{'' if name in equal else ', in other words'}, so it is no feature"
                said = f"{where}{', ' if where else ''}{told}. To use it all the same, {keep}"
                warnings.warn(FedgmiWarning(said), stacklevel=2)
    return kept
