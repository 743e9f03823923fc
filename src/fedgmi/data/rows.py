"""Rows, whose they are, and what they look like: the forms that all client functions work on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fedgmi.data.standardise import Standardisation


@dataclass(frozen=True)
class Schema:
    """What every client's rows look like.

    shape: of one row of x, `(channels, height, width)` for images and `(features,)` for tables.
    n_classes: number of labels; 0 when there are none.
    """

    shape: tuple[int, ...]
    n_classes: int
    kind: Literal["image", "tabular"]
    classes: tuple[str, ...] = ()
    features: tuple[str, ...] = ()

    @property
    def n_features(self) -> int:
        return int(torch.Size(self.shape).numel())


@dataclass(frozen=True)
class Client:
    """One client's rows: x [n, *shape] float32 (images in [0, 1]) and y [n] int64, or None without labels."""

    name: str
    x: Tensor
    y: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)


class Parts(NamedTuple):
    """What a federation is made of, before it is checked.

    Attributes:
        schema: What rows look like.
        clients: With their training rows.
        validation: The same clients with their rows for validation; none where there are no such rows.
        held_out: The same with the rows that training never sees.
    """

    schema: Schema
    clients: tuple[Client, ...]
    validation: tuple[Client, ...] = ()
    held_out: tuple[Client, ...] = ()


@dataclass(frozen=True)
class Rows:
    """The rows of several clients end to end (a ragged batch): the form that client functions work on.

    x [R, *shape] · y [R] or None · client_index [R] which of the C clients a row belongs to (0..C-1, ascending)
    · counts [C] rows per client · ids: the clients' indices in the federation · component [R] the truth,
    present only in the oracle's and the evaluation's hands · cache: what a client may keep between two
    exchanges (never needed for correctness).
    """

    x: Tensor
    y: Tensor | None
    client_index: Tensor
    counts: Tensor
    ids: tuple[int, ...]
    component: Tensor | None = None
    cache: dict[str, Tensor] = field(default_factory=dict, compare=False)

    @property
    def n_clients(self) -> int:
        return len(self.ids)

    def __len__(self) -> int:
        return len(self.x)

    def sum_by_client(self, values: Tensor) -> Tensor:
        """Σ over each client's rows: values [R, …] → [C, …], in the order of rows, so reproducibly."""
        out = values.new_zeros((self.n_clients, *values.shape[1:]))
        return out.index_add_(0, self.client_index, values)


def pack(
    clients: Sequence[Client],
    ids: Sequence[int] | None = None,
    components: Sequence[Tensor] | None = None,
    device: torch.device | str = "cpu",
) -> Rows:
    """Lay the clients `ids` (all by default) end to end."""
    chosen = tuple(range(len(clients))) if ids is None else tuple(ids)
    counts = torch.tensor([len(clients[i]) for i in chosen])
    labels = [clients[i].y for i in chosen]
    y = torch.cat([label for label in labels if label is not None]) if all(v is not None for v in labels) else None
    truth = torch.cat([components[i] for i in chosen]) if components is not None else None
    return Rows(
        x=torch.cat([clients[i].x for i in chosen]).to(device),
        y=None if y is None else y.to(device),
        client_index=torch.repeat_interleave(torch.arange(len(chosen)), counts).to(device),
        counts=counts.to(device),
        ids=chosen,
        component=None if truth is None else truth.to(device),
    )


CHUNK_BYTES = 1 << 30  # of rows that are worked on at once


def chunks(clients: Sequence[Client], ids: Iterable[int], max_bytes: int = CHUNK_BYTES) -> list[tuple[int, ...]]:
    """Clients in groups whose rows fit in memory together, in the order given.

    >>> chunks([Client("a", torch.zeros(4, 1)), Client("b", torch.zeros(4, 1))], [0, 1], max_bytes=16)
    [(0,), (1,)]
    """
    groups: list[list[int]] = []
    room = 0
    for i in ids:
        size = clients[i].x.nbytes
        if not groups or size > room:
            groups.append([])
            room = max_bytes
        groups[-1].append(i)
        room -= size
    return [tuple(group) for group in groups]


def rescale(clients: Sequence[Client], scale: Standardisation) -> tuple[Client, ...]:
    """The same clients with standardised rows."""
    return tuple(replace(client, x=scale.apply(client.x)) for client in clients)
