"""Proportions where clients scatter on their own: rows count for as much as they say."""

from __future__ import annotations

import torch

from federations import dirichlet
from fedgmi.mixture.matching import match_components, reorder, total_variation
from fedgmi.mixture.resampling import resample
from fedgmi.mixture.scatter import effective, scatter_beside
from fedgmi.mixture.topics import fit_topics
from fedgmi.randomness import numpy_generator
from wordcounts import mixture, topics_of

SIZES = torch.tensor([30, 60, 120, 2000] * 6)


def error(counts: torch.Tensor, drawn: torch.Tensor) -> float:
    found = fit_topics(counts, 3, 0).proportions
    return float(total_variation(reorder(found, match_components(found, drawn)), drawn).mean())


def test_clients_of_many_rows_do_not_decide_alone():
    """With ρ = 0.03 a client of 2,000 rows scatters 60 times as much as a multinomial, and one of 30 not twice."""
    plain, weighed = [], []
    for seed in range(4):
        drawn = dirichlet(24, 3, 1.0, seed)
        counts = resample(drawn @ topics_of(3).T, SIZES, 1, numpy_generator(seed), rho=0.03)[0]
        plain.append(error(counts, drawn))
        weighed.append(error(effective(counts, scatter_beside(counts, 3)), drawn))
    assert sum(weighed) < 0.9 * sum(plain)


def test_without_scatter_rows_count_as_they_are():
    counts, _ = mixture(3)
    torch.testing.assert_close(effective(counts, scatter_beside(counts, 3)), counts, rtol=0.1, atol=0.1)
    assert torch.equal(effective(counts, 0.0), counts)


def test_a_client_without_rows_has_none():
    counts = torch.tensor([[0.0, 0.0, 0.0], [4.0, 3.0, 2.0], [2.0, 5.0, 2.0], [3.0, 3.0, 3.0]])
    assert effective(counts, scatter_beside(counts, 1))[0].tolist() == [0.0, 0.0, 0.0]
