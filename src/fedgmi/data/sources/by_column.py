"""Clients as the data give them: by writer, by hospital, by device."""

from __future__ import annotations

import numpy as np

from fedgmi.data.rows import Client, Parts
from fedgmi.data.sources.sources import Source, client_with
from fedgmi.errors import DataError
from fedgmi.randomness import numpy_generator

MIN_ROWS = 20


def split_by_column(
    source: Source,
    column: str,
    *,
    n_clients: int | None = None,
    rows_per_client: int | None = None,
    held_out_rows: int | None = None,
    seed: int = 0,
) -> Parts:
    """Clients: a seeded choice of `n_clients` (all, by default) values with at least 20 rows in the train split.

    They are in sorted order. Of each client's rows a fifth (or `held_out_rows`, at most half) is held out and a tenth
    is for validation; training takes the rest, `rows_per_client` at most.
    """
    owner = np.array([str(value) for value in source.train.columns[column]])
    names, counts = np.unique(owner, return_counts=True)
    large = names[counts >= MIN_ROWS]
    n_clients = n_clients or max(1, len(large))
    if len(large) < n_clients:
        raise DataError(
            f"{n_clients} client{'s are' if n_clients > 1 else ' is'} asked for, and {len(large)} of {len(names)} "
            f"values have {MIN_ROWS} rows or more",
            where=f"scenario.client_column {column!r}",
            fix=f"set scenario.n_clients to {len(large)} or less" if len(large) else "choose another column",
        )
    chosen = np.sort(numpy_generator(seed, "by-column", "clients").choice(large, n_clients, replace=False))
    made: tuple[list[Client], list[Client], list[Client]] = ([], [], [])
    for name in chosen.tolist():
        rows = numpy_generator(seed, "by-column", "rows", name).permutation(np.flatnonzero(owner == name))
        n_held_out = min(held_out_rows or len(rows) // 5, len(rows) // 2)
        n_validation = len(rows) // 10
        held_out, validation, train = np.split(rows, [n_held_out, n_held_out + n_validation])
        for clients, part in zip(made, (train[:rows_per_client], validation, held_out), strict=True):
            clients.append(client_with(name, source.train, part))
    return Parts(source.schema, *(tuple(clients) for clients in made))
