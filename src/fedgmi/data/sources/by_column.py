"""Clients as the data give them: by writer, by hospital, by device."""

from __future__ import annotations

import numpy as np

from fedgmi.data.rows import Client, Parts
from fedgmi.data.sources.sources import Source, client_with
from fedgmi.errors import DataError
from fedgmi.randomness import numpy_generator

MIN_ROWS = 20
"""A value of the column is a client where it has so many rows or more."""


def split_by_column(
    source: Source,
    column: str,
    *,
    n_clients: int | None = None,
    rows_per_client: int | None = None,
    held_out_rows: int | None = None,
    seed: int = 0,
) -> Parts:
    """Make clients of the values of a column that have 20 rows or more in the train split.

    Of each client's rows a fifth is held out, a tenth is for validation, and training takes the rest.

    Args:
        source: A data set with this column among its split's.
        column: It names each row's client.
        n_clients: How many of the values to choose by the seed; all by default.
        rows_per_client: At most so many training rows a client; all by default.
        held_out_rows: So many rows of each client are held out in place of a fifth, but half of them at most.
        seed: The choice of clients and the split of their rows follow from it.

    Returns:
        The schema and the clients, in the order of their names.

    Raises:
        DataError: Where too few values have 20 rows.
    """
    row_names = np.array([str(value) for value in source.train.columns[column]])
    names, counts = np.unique(row_names, return_counts=True)
    large = names[counts >= MIN_ROWS]
    n_clients = n_clients or max(1, len(large))
    if len(large) < n_clients:
        raise DataError(
            f"{n_clients} client{'s are' if n_clients > 1 else ' is'} asked for, but {len(large)} of {len(names)} "
            f"values have {MIN_ROWS} rows or more",
            where=f"scenario.client_column {column!r}",
            fix=f"set scenario.n_clients to {len(large)} or less" if len(large) else "choose another column",
        )
    chosen = np.sort(numpy_generator(seed, "by-column", "clients").choice(large, n_clients, replace=False))
    made: tuple[list[Client], list[Client], list[Client]] = ([], [], [])
    for name in chosen.tolist():
        rows = numpy_generator(seed, "by-column", "rows", name).permutation(np.flatnonzero(row_names == name))
        n_held_out = min(held_out_rows or len(rows) // 5, len(rows) // 2)
        n_validation = len(rows) // 10
        later, for_choice, train = np.split(rows, [n_held_out, n_held_out + n_validation])
        for clients, part in zip(made, (train[:rows_per_client], for_choice, later), strict=True):
            clients.append(client_with(name, source.train, part))
    training, validation, held_out = (tuple(group) for group in made)
    return Parts(source.schema, training, validation, held_out)
