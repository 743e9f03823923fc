"""What FLUX knows of a client, and which clients are alike by it.

z(x)        what the joint model's last layer is given for a row x, projected to L numbers by a seeded rotation
descriptor  mean and deviation of z over all rows, then means by label, then deviations by label      [2·L + 2·L·L]
scaled      mean, deviation, and each label's mean and deviation to [0, 1] over all clients         [2 + 2·L blocks]
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.methods.baselines.memories import shared_features
from fedgmi.methods.contract import Task
from fedgmi.randomness import generator

MISSING = -1.0
"""In place of the moments of a label of which a client has less than two rows."""


def describe(task: Task, joint: Tensor, rows: Rows) -> Tensor:
    """Descriptors of clients.

    Args:
        task: Its expert has `features`; its seed turns them.
        joint: The model under which all clients are described. [1, P]
        rows: Of C clients. Where they have no labels, the blocks by label are left out.

    Returns:
        [C, 2·d + 2·L·d], or [C, 2·d] without labels; d is L, or the number of features where that is less.
    """
    z = shared_features(task, {"expert": joint}, rows.x).double()
    z = z @ turn(task, z.shape[1]).to(z)
    everything = torch.zeros(len(rows), dtype=torch.long, device=z.device)
    blocks = list(moments(z, everything, rows, 1, at_least=1))
    if rows.y is not None:
        blocks += moments(z, rows.y, rows, task.schema.n_classes, at_least=2)
    return torch.cat(blocks, 1)


def turn(task: Task, n_features: int) -> Tensor:
    """d orthonormal directions among the features.

    Args:
        task: Its seed draws.
        n_features: F.

    Returns:
        [F, d], float64; d is L, or F where that is less.
    """
    drawn = torch.randn(n_features, n_features, generator=generator(task.seed, "descriptors"), dtype=torch.float64)
    directions: Tensor = torch.linalg.qr(drawn)[0]
    return directions[:, : task.schema.n_classes]


def moments(z: Tensor, group: Tensor, rows: Rows, n_groups: int, at_least: int) -> tuple[Tensor, Tensor]:
    """Means and deviations of z, by client and group of rows.

    Args:
        z: [R, d]
        group: Of each row, from 0 to G − 1. [R]
        rows: Of C clients.
        n_groups: G.
        at_least: A group of fewer rows has MISSING.

    Returns:
        Two of [C, G·d].
    """
    place = rows.client_index * n_groups + group
    sums = z.new_zeros(rows.n_clients * n_groups, 1 + z.shape[1])
    sums.index_add_(0, place, torch.cat([torch.ones_like(z[:, :1]), z], 1))
    count = sums[:, :1].clamp(min=1.0)
    mean = sums[:, 1:] / count
    offset = (z - mean[place]).square()
    deviation = (torch.zeros_like(mean).index_add_(0, place, offset) / count).sqrt()
    known = sums[:, :1] >= at_least
    return (
        mean.where(known, MISSING).reshape(rows.n_clients, -1),
        deviation.where(known, MISSING).reshape(rows.n_clients, -1),
    )


def scale_of(descriptors: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """The least number and the span of each block, over all clients.

    Args:
        descriptors: [C, W]
        n_classes: L. There are 2 + 2·L blocks of as many columns: of all rows, and of each label's.

    Returns:
        For every column the least [W], and the span, 1 where there is none [W].
    """
    low, span = [], []
    for block in torch.split(descriptors, descriptors.shape[1] // (2 + 2 * n_classes), 1):
        low.append(block.min().expand(block.shape[1]))
        span.append((block.max() - block.min()).expand(block.shape[1]))
    spans = torch.cat(span)
    return torch.cat(low), spans.where(spans > 0, 1.0)


def alike(points: Tensor, reach: float = 1.0) -> Tensor:
    """DBSCAN with two points for a core: who is within ε of anybody is in one cluster with it, and others are alone.

    ε is where the distances to nearest neighbours, in order, bend upward; see `bend`.

    Args:
        points: [C, W]
        reach: ε is so many times that distance.

    Returns:
        The number of each point's cluster, by first appearance. [C]

    Examples:
        >>> alike(torch.tensor([[0.0], [5.0], [0.1], [5.1], [0.2], [30.0]])).tolist()
        [0, 1, 0, 1, 0, 2]
    """
    n = len(points)
    if n == 1:
        return torch.zeros(1, dtype=torch.long, device=points.device)
    distances = torch.cdist(points.double(), points.double(), compute_mode="donot_use_mm_for_euclid_dist")
    near = distances <= reach * bend(distances.clone().fill_diagonal_(torch.inf).amin(1))
    label = torch.arange(n, device=points.device)
    for _ in range(n):  # the least number spreads through a cluster
        spread = torch.where(near, label, n).amin(1)
        if torch.equal(spread, label):
            break
        label = spread
    order: Tensor = torch.unique(label, return_inverse=True)[1]  # the least is the first one's, so the order is theirs
    return order


def bend(lengths: Tensor) -> float:
    """Where lengths in order bend upward: the knee of Satopää et al. 2011 ("Kneedle"), with their sensitivity S = 1.

    How far the curve lies under its chord is followed from the longest on. A peak is the knee once the curve has come
    nearer to the chord by a step of 1/(n − 1) before it rises again. Where no peak is, it is the farthest of all.

    Args:
        lengths: In any order. [n], n ≥ 2

    Returns:
        One of them.

    Examples:
        >>> bend(torch.tensor([1.0, 1.1, 1.2, 1.3, 9.0]))
        1.2999999523162842
    """
    found = lengths.double().sort(descending=True).values
    fall = (found[0] - found) / (found[0] - found[-1]).clamp(min=1e-12)
    along = torch.linspace(0.0, 1.0, len(found), dtype=torch.float64, device=found.device)
    under, at, limit = (fall - along).tolist(), 0, -torch.inf
    padded = [under[0], *under, under[-1]]
    for i, here in enumerate(under[:-1]):
        before, after = padded[i], padded[i + 2]
        if here >= before and here >= after:
            at, limit = i, here - 1.0 / (len(found) - 1)
        if here <= before and here <= after:
            limit = -torch.inf
        if after < limit:
            return float(found[at])
    return float(found[max(range(len(under)), key=under.__getitem__)])
