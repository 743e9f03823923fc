"""Clients' memories of their own rows, as the shared model's last layer is given them, and what these say of a row.

z(x)                what the last layer is given for a row x                                            [F]
q_i(y | x) ∝ Σ_j exp(−‖z(x) − z(x_j)‖² / F) · [y_j = y]      over the k remembered rows nearest to x
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fedgmi.data.rows import Rows
from fedgmi.methods.contract import Task
from fedgmi.models.density import rows_per_chunk
from fedgmi.tree import Tree

EMPTY = -1
"""The label of a place in a memory that holds no row."""


def shared_log_prob(task: Task, server: Tree, rows: Rows) -> Tensor:
    """log p(y | x) by the shared model.

    Args:
        task: Whose expert it is.
        server: With the leaf `expert`. [1, P]
        rows: R of them.

    Returns:
        Of every class. [R, L], float64, nats
    """
    return task.expert.log_prob(server["expert"], rows.x)[:, 0].double()


def shared_features(task: Task, server: Tree, x: Tensor) -> Tensor:
    """z of rows under the shared model.

    Args:
        task: Its expert has `features`.
        server: With the leaf `expert`. [1, P]
        x: [R, *shape]

    Returns:
        [R, F]
    """
    features = task.expert.features
    assert features is not None
    parts = torch.split(x, rows_per_chunk(task.expert.floats_per_row))
    with torch.no_grad():
        return torch.cat([features(server["expert"], part[None])[0] for part in parts])


def remembered(task: Task, server: Tree, rows: Rows, capacity: int) -> Tree:
    """What clients keep of their rows: all of them, or so many that are evenly spaced.

    Args:
        task: Its expert has `features`.
        server: With the leaf `expert`.
        rows: Of C clients. Where they have no labels, memories are empty.
        capacity: M.

    Returns:
        The leaves `memory` [C, M, F] and `labels` [C, M]. The label of a place without a row is EMPTY.
    """
    memory, labels = [], []
    sizes = rows.counts.tolist()
    place = torch.arange(len(rows), device=rows.x.device)
    for mine in torch.split(place, sizes):
        n = 0 if rows.y is None else len(mine)
        spaced = torch.linspace(0, max(n - 1, 0), min(n, capacity), dtype=torch.float64).round().long()
        kept = mine[spaced.to(mine.device)]
        room = capacity - len(kept)
        memory.append(F.pad(shared_features(task, server, rows.x[kept]), (0, 0, 0, room)))
        labels.append(F.pad(kept if rows.y is None else rows.y[kept], (0, room), value=EMPTY))
    return {"memory": torch.stack(memory), "labels": torch.stack(labels)}


def memory_votes(task: Task, server: Tree, memory: Tree, rows: Rows, neighbours: Tensor, logs: Tensor) -> Tensor:
    """q_i(y | x) by the memory of the client that holds a row.

    Args:
        task: Its expert has `features`.
        server: With the leaf `expert`.
        memory: With the leaves `memory` and `labels`. [C, …]
        rows: Of these C clients.
        neighbours: k. [C]
        logs: log p(y | x), whose p stands for q where a memory is empty. [R, L], nats

    Returns:
        [R, L], float64
    """
    found = logs.exp()
    place = torch.arange(len(rows), device=rows.x.device)
    for i, mine in enumerate(torch.split(place, rows.counts.tolist())):
        known = memory["labels"][i] != EMPTY
        if len(mine) and bool(known.any()):
            z = shared_features(task, server, rows.x[mine])
            there, labels = memory["memory"][i][known], memory["labels"][i][known]
            found[mine] = by_neighbours(z, there, labels, int(neighbours[i]), logs.shape[1])
    return found


def mixed(logs: Tensor, votes: Tensor, share: Tensor | float) -> Tensor:
    """log((1 − λ)·p + λ·q).

    Args:
        logs: log p. [R, L], nats
        votes: q. [R, L]
        share: λ < 1: one for all rows, or one for each. [R, 1]

    Returns:
        [R, L], nats
    """
    return ((1.0 - share) * logs.exp() + share * votes).log()


def by_neighbours(z: Tensor, memory: Tensor, labels: Tensor, k: int, n_classes: int) -> Tensor:
    """The k nearest rows of a memory vote.

    Args:
        z: [R, F]
        memory: [n, F]
        labels: [n]
        k: All n where there are fewer.
        n_classes: L.

    Returns:
        q(y | x). [R, L], float64

    Examples:
        >>> by_neighbours(torch.zeros(1, 1), torch.tensor([[0.0], [0.0], [9.0]]), torch.tensor([1, 1, 0]), 2, 2)
        tensor([[0., 1.]], dtype=torch.float64)
    """
    squares = torch.cdist(z.double(), memory.double()).square() / z.shape[1]
    nearest, place = squares.topk(min(k, len(memory)), dim=1, largest=False)
    votes = (-nearest).softmax(1)  # the same shares, and none is lost where all are far
    return votes.new_zeros(len(z), n_classes).scatter_add_(1, labels[place], votes)
