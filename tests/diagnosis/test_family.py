"""Members of the family that words leave open."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from federations import dirichlet
from fedgmi.diagnosis.family import likelihood, members, moved
from fedgmi.diagnosis.simulated import looks, precision
from fedgmi.mixture.topics import fit_topics, plsa_of_many
from fedgmi.randomness import numpy_generator
from wordcounts import counts_from, mixture, topics_of


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.lists(st.floats(-0.05, 1.0), min_size=3, max_size=3))
def test_members_give_clients_the_same_words(seed, given_shares):
    proportions, topics, g = (
        dirichlet(6, 3, 1.0, seed),
        topics_of(3, seed=seed).T,
        torch.tensor([given_shares]).double(),
    )
    apart = (1 + g.sum()) * topics - g @ topics
    torch.testing.assert_close(moved(proportions, g)[0] @ apart, proportions @ topics)


def test_where_topics_have_words_of_their_own_and_clients_are_pure_little_is_left_open():
    pure = mixture(2, alpha=0.3, n_rows=500, anchored=True)[0]
    shares = 0.3 + 0.4 * dirichlet(30, 2)  # between .3 and .7
    none_pure, reaches = counts_from(shares @ topics_of(2, anchored=True).T, 500, 0), []
    for histograms in (pure, none_pure):
        family = members(histograms, fit_topics(histograms, 2, 0), 100, numpy_generator(0, "family"))
        reaches.append(float(family.given.max()))
        assert float(family.proportions.min()) >= -1e-12
        assert family.topics.sum(-1) == pytest.approx(1.0)
    assert 2 * reaches[0] < reaches[1]


def test_the_likelihood_falls_where_topics_would_need_negative_words():
    counts, _ = mixture(2, n_rows=500, anchored=True)
    values, _ = likelihood(counts, fit_topics(counts, 2, 0), torch.tensor([[0.0, 0.0], [0.5, 0.5]]).double())
    assert float(values[0] - values[1]) > 50


def test_the_fit_of_many_is_the_fit_of_each():
    many = torch.stack([mixture(3, seed=seed)[0] for seed in range(3)])
    found, topics = plsa_of_many(many, 3, tolerance=1e-6)
    for counts, proportions, words in zip(many, found, topics, strict=True):
        one = fit_topics(counts, 3, 0, restarts=0)
        torch.testing.assert_close(proportions, one.proportions, atol=1e-4, rtol=0)
        torch.testing.assert_close(words.T, one.counts / one.counts.sum(0), atol=1e-3, rtol=0)


def test_looks_grow_as_topics_part_and_clients_differ():
    proportions, topics = torch.stack([dirichlet(40, 3, a) for a in (0.3, 3.0)]), topics_of(3).T
    nearer = topics.mean(0) + 0.5 * (topics - topics.mean(0))
    apart, spread = looks(proportions, torch.stack([topics, nearer])).unbind(1)
    assert apart[0] > apart[1] + 1
    assert spread[0] > spread[1]


def test_precision_is_that_of_the_dirichlet_law():
    assert float(precision(dirichlet(20000, 3, 0.7)).exp()) == pytest.approx(2.1, abs=0.1)
    assert float(precision(torch.full((5, 2), 0.5).double()).exp()) > 100
    assert bool(precision(torch.eye(3).double()).isfinite())
