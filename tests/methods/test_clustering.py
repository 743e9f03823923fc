"""Hierarchical clustering of updates, against its definition, and each cluster's mean."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from federations import draw
from fedgmi.methods.baselines.clustering import agglomerate, cosine_distances, euclidean_distances, mean_updates

few = settings(max_examples=40, deadline=None)


def some_updates(n: int, seed: int, size: int = 4) -> Tensor:
    return torch.randn(n, size, generator=draw(seed))


def merged_by_hand(distances: Tensor, until: int) -> set[frozenset[int]]:
    """Start with every client alone; merge the two clusters whose farthest members are nearest."""
    clusters = [frozenset([i]) for i in range(len(distances))]
    while len(clusters) > until:
        pairs = [(a, b) for a in clusters for b in clusters if min(a) < min(b)]
        left, right = min(pairs, key=lambda pair: max(float(distances[i, j]) for i in pair[0] for j in pair[1]))
        clusters = [cluster for cluster in clusters if cluster not in (left, right)] + [left | right]
    return set(clusters)


def as_sets(labels: Tensor) -> set[frozenset[int]]:
    return {frozenset((labels == c).nonzero().flatten().tolist()) for c in labels.unique()}


@few
@given(n=st.integers(1, 9), n_clusters=st.integers(1, 4), seed=st.integers(0, 999), cosine=st.booleans())
def test_clusters_are_those_of_merging_by_hand(n, n_clusters, seed, cosine):
    updates = some_updates(n, seed)
    distances = cosine_distances(updates) if cosine else euclidean_distances(updates, updates)
    labels = agglomerate(distances, n_clusters)
    assert as_sets(labels) == merged_by_hand(distances, min(n, n_clusters))
    first = [labels.tolist().index(c) for c in range(int(labels.max()) + 1)]
    assert first == sorted(first)


@few
@given(seed=st.integers(0, 999), threshold=st.floats(0.1, 6.0))
def test_below_a_threshold_clusters_merge_and_above_they_do_not(seed, threshold):
    updates = some_updates(8, seed)
    distances = euclidean_distances(updates, updates)
    found = as_sets(agglomerate(distances, 1, threshold))
    assert all(float(distances[i, j]) < threshold for cluster in found for i in cluster for j in cluster if i != j)
    assert found == merged_by_hand(distances, len(found))


@few
@given(n=st.integers(2, 8), seed=st.integers(0, 999), scale=st.floats(0.01, 100.0))
def test_cosine_distance_is_one_minus_the_cosine_whatever_the_lengths(n, seed, scale):
    updates = some_updates(n, seed)
    expected = 1 - torch.nn.functional.cosine_similarity(updates[:, None], updates[None], dim=2).double()
    found = cosine_distances(updates * (scale * torch.arange(1, n + 1))[:, None])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert torch.equal(found.diagonal(), torch.zeros(n, dtype=torch.float64))


def test_an_update_of_zero_is_at_right_angles_to_all():
    distances = cosine_distances(torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.1]]))
    assert distances[0].tolist() == [0.0, 1.0, 1.0]
    assert agglomerate(distances, 2).tolist() == [0, 1, 1]


@few
@given(seed=st.integers(0, 999), n_clusters=st.integers(1, 4))
def test_the_mean_of_a_cluster_is_that_of_its_clients_by_weight(seed, n_clusters):
    updates, weights = some_updates(6, seed), torch.randint(1, 9, (6,), generator=draw(seed))
    cluster = torch.randint(0, n_clusters, (6,), generator=draw(seed + 1))
    means = mean_updates(updates, weights, cluster, n_clusters)
    for c in range(n_clusters):
        inside = cluster == c
        expected = torch.zeros(4)
        if bool(inside.any()):
            expected = torch.einsum("c,cp->p", weights[inside].float(), updates[inside]) / weights[inside].sum()
        torch.testing.assert_close(means[c], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("n_clusters", [1, 3])
def test_one_client_is_one_cluster(n_clusters):
    assert agglomerate(torch.zeros(1, 1), n_clusters).tolist() == [0]
