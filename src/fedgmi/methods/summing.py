"""Sums over clients; where the messages are wanted apart (`Rows.apart`), each client's own in their place."""

from __future__ import annotations

import torch
from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.protocol.message import Models


def over_clients(rows: Rows, shares: Tensor) -> Tensor:
    """Σ_i of what each client has; where messages are wanted apart, as it is.

    Args:
        rows: Of C clients.
        shares: Theirs. [C, …]

    Returns:
        […], or [C, …] where messages are wanted apart.

    Examples:
        >>> from dataclasses import replace
        >>> from fedgmi.data.rows import Client, pack
        >>> rows = pack([Client("a", torch.zeros(2, 1)), Client("b", torch.ones(1, 1))])
        >>> over_clients(rows, rows.counts), over_clients(replace(rows, apart=True), rows.counts)
        (tensor(3), tensor([2, 1]))
    """
    return shares if rows.apart else shares.sum(0)


def over_rows(rows: Rows, values: Tensor) -> Tensor:
    """Σ_x of a number a row; where messages are wanted apart, of each client's rows.

    Args:
        rows: Of C clients.
        values: [R]

    Returns:
        [], or [C] where messages are wanted apart.
    """
    if not rows.apart:
        return values.sum()
    return torch.stack([own.sum() for own in torch.split(values, rows.counts.tolist())])


def counted(rows: Rows) -> Tensor:
    """Σ_i n_i, the mass of one model that all train on all of their rows. [1], or [C, 1] where messages are apart."""
    return over_clients(rows, rows.counts.double()[:, None])


def by_mass(rows: Rows, models: Tensor, mass: Tensor) -> Models:
    """The sums of clients' own models by mass, held by those who have any.

    Args:
        rows: Of C clients.
        models: One for each. [C, P]
        mass: N_ik. [C, K], float64

    Returns:
        Σ_i N_ik θ_i [K, P] and Σ_i N_ik [K].
    """
    weights = mass.to(models.dtype)
    total = weights[:, :, None] * models[:, None] if rows.apart else weights.T @ models
    return Models(total, over_clients(rows, mass), (mass != 0).cpu())


class Totals:
    """Sums of K models over clients, to which jobs are added as they are done.

    Args:
        rows: Of C clients.
        like: Of the form of the sums. [K, …]

    Attributes:
        total: The sums. [K, …], or [C, K, …] where messages are wanted apart.
    """

    def __init__(self, rows: Rows, like: Tensor) -> None:
        self._apart = rows.apart
        self.total = torch.zeros_like(like.expand(rows.n_clients, *like.shape) if rows.apart else like)

    def add(self, client: Tensor, model: Tensor, shares: Tensor) -> None:
        """Add jobs' shares [J, …] to the sums of their models [J]; no client has two jobs of one model."""
        if self._apart:
            self.total[client, model] = shares
        else:
            self.total.index_add_(0, model, shares)

    def add_all(self, client: Tensor, weights: Tensor, models: Tensor) -> None:
        """Add K models of each job [J, K, H] to all sums, by their weights [J, K]; no client has two jobs."""
        if self._apart:
            self.total[client] = weights[:, :, None] * models
        elif weights.shape[1] == 1:
            self.total += weights[:, 0] @ models[:, 0]
        else:
            self.total += torch.einsum("jk,jkh->kh", weights, models)
