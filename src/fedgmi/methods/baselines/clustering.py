"""Clusters of clients by their updates: distances, hierarchical clustering, and each cluster's mean.

An update Δ_i = w_i − w is what training on client i's rows made of the model that it received.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def cosine_distances(updates: Tensor) -> Tensor:
    """1 − cos(Δ_i, Δ_j), in [0, 2]; 1 to an update that is zero.

    Args:
        updates: Δ. [C, P]

    Returns:
        Distances. [C, C], float64

    Examples:
        >>> cosine_distances(torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]))[0].tolist()
        [0.0, 1.0, 2.0]
    """
    unit = F.normalize(updates.double(), dim=1)
    return (1.0 - unit @ unit.T).clamp(min=0.0).fill_diagonal_(0.0)


def euclidean_distances(left: Tensor, right: Tensor) -> Tensor:
    """‖Δ_i − Δ_j‖ between the updates of two groups.

    Args:
        left: [C, P]
        right: [G, P]

    Returns:
        Distances. [C, G], float64
    """
    return torch.cdist(left.double(), right.double())


def agglomerate(distances: Tensor, n_clusters: int, threshold: float | None = None) -> Tensor:
    """Hierarchical clustering by complete linkage.

    Args:
        distances: Between C clients. [C, C]
        n_clusters: How many clusters there shall be. There are no more than clients.
        threshold: Clusters merge while all their members are within that distance of each other, however many
            clusters that leaves. None: until there are `n_clusters`.

    Returns:
        The number of each client's cluster, by first appearance. [C]

    Examples:
        >>> points = torch.tensor([[5.0], [0.0], [5.1], [0.2], [9.0]])
        >>> agglomerate(euclidean_distances(points, points), 3).tolist()
        [0, 1, 0, 1, 2]
    """
    n_clients = len(distances)
    if n_clients == 1:
        return torch.zeros(1, dtype=torch.long, device=distances.device)
    from sklearn.cluster import AgglomerativeClustering  # takes a second, in every process of a site

    fitted = AgglomerativeClustering(
        n_clusters=min(n_clusters, n_clients) if threshold is None else None,
        distance_threshold=threshold,
        metric="precomputed",
        linkage="complete",
    ).fit(distances.cpu().numpy())
    order: dict[int, int] = {}
    labels = [order.setdefault(int(label), len(order)) for label in fitted.labels_]
    return torch.tensor(labels, device=distances.device)


def mean_updates(updates: Tensor, weights: Tensor, cluster: Tensor, n_clusters: int, common: int = 0) -> Tensor:
    """Each cluster's mean update, Σ_{i∈c} weight_i Δ_i / Σ_{i∈c} weight_i.

    Args:
        updates: Δ. [C, P]
        weights: Of the clients. [C]
        cluster: Of the clients, from 0 to G − 1. [C]
        n_clusters: G.
        common: T. The first T numbers are of lower layers that all clusters share: their mean is over all clients.

    Returns:
        The means in the updates' type; zero for a cluster without clients, but for these layers. [G, P]

    Examples:
        >>> updates = torch.tensor([[1.0], [4.0], [8.0]])
        >>> mean_updates(updates, torch.tensor([2.0, 1.0, 1.0]), torch.tensor([0, 0, 2]), 3).flatten().tolist()
        [2.0, 0.0, 8.0]
        >>> mean_updates(updates, torch.ones(3), torch.tensor([0, 0, 1]), 2, common=1).tolist()
        [[4.333333492279053], [4.333333492279053]]
    """
    weights = weights.double()
    total = updates.new_zeros((n_clusters, updates.shape[1]), dtype=torch.float64)
    total.index_add_(0, cluster, updates.double() * weights[:, None])
    mass = weights.new_zeros(n_clusters).index_add_(0, cluster, weights)
    means = total / mass.where(mass > 0, 1.0)[:, None]
    everybody = mass.sum()
    means[:, :common] = total[:, :common].sum(0) / everybody.where(everybody > 0, 1.0)
    return means.to(updates.dtype)
