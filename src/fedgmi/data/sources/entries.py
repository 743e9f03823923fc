"""What users give for each client, arrays or tables, read as rows and labels with the names of their columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedgmi.data.names import client_name
from fedgmi.data.problems import Problems
from fedgmi.data.sources.arrays import Array, by_row, channels_last, numbers, plain_array
from fedgmi.data.sources.frames import column_names, number_columns
from fedgmi.data.sources.labels import label_values
from fedgmi.data.sources.row_numbers import without_row_numbers
from fedgmi.data.sources.row_order import refuse_other_order
from fedgmi.data.sources.targets import targets
from fedgmi.errors import DataError, nearest
from fedgmi.settings.run import TaskName

CHANNELS = (1, 3, 4)
"""So many channels a picture has."""


class Entry(NamedTuple):
    """One client's rows as they were given.

    Attributes:
        name: The client's.
        x: The features, NaN where a value is missing. [n, *shape], float32
        y: Labels as users know them, whole numbers or texts, or targets, or None. [n]
        columns: The names of the columns, where x came with some. [D], or empty
        where: Whose they are, for messages.
    """

    name: str
    x: Tensor
    y: Array | None
    columns: tuple[str, ...]
    where: str


def read(
    entries: Sequence[Any],
    names: Sequence[str],
    group: str,
    first: Entry | None = None,
    task: TaskName = "classification",
) -> list[Entry]:
    """Each client's (x, y) or x.

    Args:
        entries: As users gave them.
        names: The clients'.
        group: "", " (validation)" or " (held-out)".
        first: The first client of all, whose columns the others must have.
        task: What labels are.

    Returns:
        The entries, with columns in the order of the first one's.

    Raises:
        DataError: For all entries that cannot be read as rows, and for columns that differ.
    """
    if len(entries) != len(names):
        raise DataError(
            f"{len(names)} names for {len(entries)} clients",
            where=f"federation{group}",
            fix="give one entry (x, y) or x per client, in the same order everywhere",
        )
    problems, made = Problems(), []
    for name, entry in zip(names, entries, strict=True):
        with problems.noted():
            found = _entry(entry, name, f"client {name!r}{group}", task)
            first = first or found
            made.append(_in_order(found, first))
    problems.tell()
    return made


def by_name(given: Any, names: Sequence[str] | None, group: str) -> tuple[list[Any], list[str] | None]:
    """Entries that came as a dict, by the clients' names.

    Args:
        given: Entries in a list, or in a dict by name.
        names: The clients', where they are known.
        group: "", " (validation)" or " (held-out)".

    Returns:
        The entries in the order of the names, and the names; None where nobody said any.

    Raises:
        DataError: For what is no list of entries, and for a dict with other names.
    """
    where = f"federation{group}"
    if isinstance(given, Mapping):
        own = [client_name(name, where=where) for name in given]
        if names is None:
            return list(given.values()), own
        if sorted(own) != sorted(names):
            odd = sorted(set(own) ^ set(names))
            fix = "give every client its rows under the same name"
            raise DataError(f"the clients' names differ: {', '.join(map(repr, odd[:5]))}", where=where, fix=fix)
        return [dict(zip(own, given.values(), strict=True))[name] for name in names], list(names)
    if column_names(given):
        fix = "give Federation.from_frame(frame, client=…) the whole table, or here a list with one table a client"
        raise DataError("this is one table, not a list of clients", where=where, fix=fix)
    if not hasattr(given, "__len__"):
        given = list(given)
    return list(given), None if names is None else list(names)


def is_pair(entry: Any) -> bool:
    """Whether a client's entry is (x, y), as a tuple or as a list of rows and what else than such rows.

    Examples:
        >>> is_pair([[[1.0, 2.0], [3.0, 4.0]], ["a", "b"]]), is_pair([[1.0, 2.0], [3.0, 4.0]])
        (True, False)
    """
    if isinstance(entry, tuple):
        return len(entry) == 2
    if not isinstance(entry, list) or len(entry) != 2:
        return False
    if any(map(column_names, entry)):
        return True
    x, y = map(_shape, entry)
    return x is not None and y is not None and len(x) >= 2 and x != y


def _shape(values: Any) -> tuple[int, ...] | None:
    """The shape of an array or nested lists; None where lengths differ."""
    try:
        return tuple(np.shape(values))
    except ValueError:
        return None


def _entry(entry: Any, name: str, where: str, task: TaskName) -> Entry:
    if isinstance(entry, tuple) and len(entry) != 2:
        raise DataError(f"the entry is a tuple of {len(entry)}", where=where, fix="give (x, y), or x alone")
    x, y = entry if is_pair(entry) else (entry, None)
    refuse_other_order(x, y, "y", where)
    columns = column_names(x)
    if columns:
        keep = "rename it"
        columns = tuple(without_row_numbers(columns, where=where, keep=keep))
        rows = torch.from_numpy(number_columns(x, columns, where))
    else:
        rows = _rows(x, where)
    return Entry(name, rows, None if y is None else _labels(y, where, task), columns, where)


def _in_order(entry: Entry, first: Entry) -> Entry:
    """The entry with its columns in the order of the first client's."""
    if bool(entry.columns) != bool(first.columns):
        table, array = (entry, first) if entry.columns else (first, entry)
        raise DataError(
            f"it is {'a table' if entry.columns else 'an array'}, and {first.where} is "
            f"{'a table' if first.columns else 'an array'}: columns cannot be matched by name",
            where=entry.where,
            fix=f"give {array.where} as a table with the columns {', '.join(table.columns[:5])}"
            f"{', …' if len(table.columns) > 5 else ''}, or all as arrays (frame.to_numpy())",
        )
    if entry.columns == first.columns:
        return entry
    lacking = [name for name in first.columns if name not in entry.columns]
    strange = [name for name in entry.columns if name not in first.columns]
    if lacking or strange:
        what = [f"it has no column {', '.join(map(repr, lacking))}"] if lacking else []
        what += [f"{'' if lacking else 'it has '}{', '.join(map(repr, strange))} too much"] if strange else []
        guess = nearest(lacking[0], strange) if lacking and strange else ""
        fix = f"rename {guess!r} to {lacking[0]!r}" if guess else f"give the columns that {first.where} has"
        raise DataError(" and ".join(what), where=entry.where, fix=fix)
    return entry._replace(x=entry.x[:, [entry.columns.index(name) for name in first.columns]], columns=first.columns)


def _rows(x: Any, where: str) -> Tensor:
    """A table [n, features], or pictures [n, channels, height, width]; grey pictures may lack the channel."""
    array = plain_array(x, where)
    if array.dtype == object and array.ndim == 1 and any(isinstance(cell, list | tuple | np.ndarray) for cell in array):
        raise DataError("the rows differ in length", where=where, fix="give rectangular arrays")
    rows = numbers(array, where)
    rows = rows[:, None] if rows.ndim == 3 else rows
    if rows.ndim not in (2, 4) or 0 in rows.shape[1:]:
        raise DataError(
            f"x of shape {array.shape} is neither a table nor pictures",
            where=where,
            fix="bring it to [n, features], [n, height, width] or [n, channels, height, width]",
        )
    if rows.ndim == 4 and rows.shape[3] in CHANNELS and rows.shape[1] not in CHANNELS and rows.shape[2] > max(CHANNELS):
        n, height, width, channels = rows.shape
        raise DataError(
            f"pictures of shape {height}×{width}×{channels} have their channels last, and would be taken as {height} "
            "channels",
            where=where,
            fix=channels_last((n, height, width, channels)),
        )
    return torch.from_numpy(rows)


def _labels(y: Any, where: str, task: TaskName) -> Array:
    """As they came, objects too, so that their type is known; checked."""
    where = f"{where}, labels"
    values = by_row(y, where)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if task != "classification":
        return targets(task, values, where=where)
    label_values(values, where=where, advice="give whole numbers or texts")
    return values
