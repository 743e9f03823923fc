"""What a federation is made of, from the user's own arrays or from a data set. `sources.frames` does tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedgmi.data.names import client_name
from fedgmi.data.rows import Client, Parts, Schema, client_names
from fedgmi.data.sources.by_column import split_by_column
from fedgmi.data.sources.frames import column_names
from fedgmi.data.sources.sources import load_source
from fedgmi.data.sources.values import Values, encode_labels, whole_labels
from fedgmi.errors import DataError, unknown
from fedgmi.settings.run import DataSettings


class Entry(NamedTuple):
    """One client's rows as they were given.

    Attributes:
        name: The client's.
        x: The features. [n, *shape], float32
        y: Labels as users know them, whole numbers or texts, or None. [n]
        columns: The names of the columns, where x came with some. [D], or empty
    """

    name: str
    x: Tensor
    y: Values | None
    columns: tuple[str, ...]


def from_arrays(
    clients: Sequence[Any],
    *,
    names: Sequence[str] | None = None,
    validation: Sequence[Any] | None = None,
    held_out: Sequence[Any] | None = None,
) -> Parts:
    """What `Federation.from_arrays` makes, before it is checked.

    Args:
        clients: An entry (x, y) or x for each client.
        names: The clients' names; "client-00", "client-01", … by default.
        validation: Rows for validation, as `clients` and in the same order.
        held_out: Rows that training never sees, as `clients` and in the same order.

    Returns:
        The schema and the clients. Classes are numbered over all of them.

    Raises:
        DataError: For entries that cannot be read as rows.
    """
    chosen = client_names(len(clients)) if names is None else [client_name(name) for name in names]
    groups = [_read(clients, chosen, "")]
    for rows, group in ((validation, " (validation)"), (held_out, " (held-out)")):
        groups.append([] if rows is None else _read(rows, chosen, group))
    labels, classes = _number([entry.y for group in groups for entry in group if entry.y is not None])
    training, for_choice, later = (
        tuple(Client(entry.name, entry.x, None if entry.y is None else next(labels)) for entry in group)
        for group in groups
    )
    return Parts(_schema(groups[0], classes), training, for_choice, later)


def from_dataset(
    path: str,
    client: str,
    label: str | None,
    features: Sequence[str] | None,
    *,
    n_clients: int | None,
    rows_per_client: int | None,
    held_out_rows: int | None,
    seed: int,
    data: Mapping[str, Any],
) -> Parts:
    """What `Federation.from_dataset` makes, before it is checked.

    Args:
        path: A local folder or file, or the name of a data set on the Hugging Face hub.
        client: The column that names each row's client.
        label: The column of classes, or None to look for one.
        features: A table's columns, or None for all.
        n_clients: How many clients to choose, or None for all.
        rows_per_client: At most so many training rows a client, or None for all.
        held_out_rows: So many rows of each client are held out, or None for a fifth.
        seed: The choice of clients and the split of their rows follow from it.
        data: Further settings of the section `data`.

    Returns:
        The schema and the clients.

    Raises:
        DataError: For a data set or a column that cannot be used.
        ConfigError: For an option that the section `data` does not have.
    """
    for name in data.keys() - DataSettings.model_fields.keys():
        raise unknown("option", name, DataSettings.model_fields, "from_dataset")
    columns = None if features is None else list(features)
    settings = DataSettings(path=path, label_column=label, feature_columns=columns, **data)
    return split_by_column(
        load_source(settings, extra_column=client),
        client,
        n_clients=n_clients,
        rows_per_client=rows_per_client,
        held_out_rows=held_out_rows,
        seed=seed,
    )


def _read(entries: Sequence[Any], names: Sequence[str], group: str) -> list[Entry]:
    """Each client's (x, y) or x."""
    if len(entries) != len(names):
        raise DataError(
            f"{len(names)} names for {len(entries)} clients",
            where=f"federation{group}",
            fix="give one entry (x, y) or x per client, in the same order everywhere",
        )
    read = []
    for name, entry in zip(names, entries, strict=True):
        where = f"client {name!r}{group}"
        if isinstance(entry, tuple) and len(entry) != 2:
            raise DataError(f"the entry is a tuple of {len(entry)}", where=where, fix="give (x, y), or x alone")
        x, y = entry if isinstance(entry, tuple) else (entry, None)
        read.append(Entry(name, _rows(x, where), None if y is None else _labels(y, where), column_names(x)))
    return read


def _schema(entries: Sequence[Entry], classes: tuple[str, ...]) -> Schema:
    """What the first client's rows look like; the others are held to it."""
    shape = tuple(entries[0].x.shape[1:]) if entries else (0,)
    if len(shape) > 1:
        return Schema(shape, len(classes), "image", classes)
    named = entries[0].columns if entries else ()
    return Schema(shape, len(classes), "tabular", classes, named or tuple(f"x{j}" for j in range(shape[0])))


def _rows(x: Any, where: str) -> Tensor:
    """A table [n, features], or pictures [n, channels, height, width]; grey pictures may lack the channel."""
    array = _array(x, where)
    if array.dtype.kind not in "biuf":
        raise DataError(
            f"x holds {array.dtype}, not numbers", where=where, fix="use Federation.from_frame, which encodes texts"
        )
    array = array[:, None] if array.ndim == 3 else array
    if array.ndim not in (2, 4) or 0 in array.shape[1:]:
        raise DataError(
            f"x of shape {array.shape} is neither a table nor pictures",
            where=where,
            fix="bring it to [n, features], [n, height, width] or [n, channels, height, width]",
        )
    with np.errstate(over="ignore"):
        return torch.from_numpy(array.astype(np.float32))


def _labels(y: Any, where: str) -> Values:
    values, where = _array(y, where), f"{where}, labels"
    if values.dtype.kind == "O" and all(isinstance(value, str) for value in values.flat):
        values = values.astype(str)
    if values.dtype.kind not in "biufU":
        raise DataError(f"y holds {values.dtype}", where=where, fix="give whole numbers or texts, one per row")
    return whole_labels(values, where=where, advice="give whole numbers or texts")


def _array(values: Any, where: str) -> Values:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return np.asarray((values.float() if values.is_floating_point() else values).numpy())
    try:
        return np.asarray(values)
    except ValueError as error:
        raise DataError("the rows differ in length", where=where, fix="give rectangular arrays") from error


def _number(labels: Sequence[Values]) -> tuple[Iterator[Tensor], tuple[str, ...]]:
    """All clients' labels as 0..L-1, one after the other, and the L classes; none where nobody has labels."""
    if len({values.dtype.kind for values in labels}) > 1:
        raise DataError(
            "some clients' labels are numbers and others' are texts", where="labels", fix="use one kind for all"
        )
    numbers, classes = encode_labels(labels, None, where="labels", advice="give classes") if labels else ([], ())
    return map(torch.from_numpy, numbers), classes
