"""Clients as the data give them: by writer, by hospital, by device."""

from __future__ import annotations

import numpy as np
import torch

from fedgmi.config import DataSettings, ScenarioSettings
from fedgmi.data.federation import Client, Federation, Scenario
from fedgmi.data.sources import Split, load_source
from fedgmi.errors import ConfigError, DataError
from fedgmi.randomness import numpy_generator

MIN_ROWS = 20


def by_column(data: DataSettings, scenario: ScenarioSettings, seed: int) -> Scenario:
    """P_i = the rows whose `client_column` has the i-th value. Whether they are a mixture is for the data to say.

    Clients: a seeded choice of `n_clients` values with at least 20 rows in the train split, in sorted order. Of each
    client's rows a fifth (or `held_out_rows`, at most half) is held out and a tenth is for validation; training
    takes the rest, `rows_per_client` at most.
    """
    if scenario.client_column is None:
        raise ConfigError(
            "the by-column scenario needs to know whose row a row is",
            where="scenario.client_column",
            fix="set it to the column that says so, such as writer_id",
        )
    source = load_source(data, extra_column=scenario.client_column)
    owner = np.array([str(value) for value in source.train.columns[scenario.client_column]])
    names, counts = np.unique(owner, return_counts=True)
    large = names[counts >= MIN_ROWS]
    if len(large) < scenario.n_clients:
        raise DataError(
            f"{scenario.n_clients} clients are asked for, and {len(large)} of {len(names)} values have "
            f"{MIN_ROWS} rows or more",
            where=f"scenario.client_column {scenario.client_column!r}",
            fix=f"set scenario.n_clients to {len(large)} or less" if len(large) else "choose another column",
        )
    chosen = np.sort(numpy_generator(seed, "by-column", "clients").choice(large, scenario.n_clients, replace=False))
    made: tuple[list[Client], list[Client], list[Client]] = ([], [], [])
    for name in chosen.tolist():
        rows = numpy_generator(seed, "by-column", "rows", name).permutation(np.flatnonzero(owner == name))
        n_held_out = min(scenario.held_out_rows or len(rows) // 5, len(rows) // 2)
        n_validation = len(rows) // 10
        held_out, validation, train = np.split(rows, [n_held_out, n_held_out + n_validation])
        for clients, part in zip(made, (train[: scenario.rows_per_client], validation, held_out), strict=True):
            clients.append(_client(name, source.train, part))
    return Scenario(Federation(source.schema, *(tuple(clients) for clients in made)))


def _client(name: str, split: Split, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Client:
    index = torch.from_numpy(rows)
    return Client(name, split.x[index], None if split.y is None else split.y[index])
