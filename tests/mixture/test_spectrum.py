"""How many components: singular values against those of noise."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedgmi.mixture.remainder import upper_limit
from fedgmi.mixture.resampling import resample, word_probs
from fedgmi.mixture.spectrum import estimate_components, leading, reliability
from fedgmi.mixture.topics import fit_topics
from fedgmi.privacy.geometric import Noise
from fedgmi.randomness import numpy_generator
from wordcounts import ODD, counts_from, mixture, scattered, topics_of


@pytest.mark.parametrize("n_topics", [1, 2, 3, 5])
def test_components_of_a_mixture_are_counted(n_topics):
    found = [estimate_components(mixture(n_topics, seed=seed)[0], seed).n_components for seed in range(4)]
    assert found == [n_topics] * 4


@pytest.mark.parametrize(("n_topics", "phi"), [(1, 1.1), (1, 2.0), (1, 5.0), (2, 2.0), (3, 2.0)])
def test_clients_own_scatter_is_no_component(n_topics, phi):
    found = [estimate_components(scattered(n_topics, phi, seed=seed), seed).n_components for seed in range(4)]
    assert found == [n_topics] * 4


def test_words_that_scatter_more_than_others_are_no_component():
    """Four words of 24 have φ = 6, the others 1: not of Dirichlet, yet without a shape."""
    for seed in range(3):
        calm, wild = counts_from(torch.full((30, 20), 0.05), 250, seed), scattered(1, 6.0, n_rows=50, seed=seed)[:, :4]
        assert estimate_components(torch.cat([calm, wild], 1), seed).n_components == 1


def test_what_two_clients_differ_by_may_be_anybodys():
    assert estimate_components(mixture(2, n_clients=2, n_rows=2000)[0], 0).n_components == 1


def test_one_component_too_many_as_often_as_the_size_says():
    """60 federations of clients all alike: 0.2 · 60 = 12, and 6 to 18 within two standard deviations."""
    alike = topics_of(1).T.expand(20, -1)
    found = [
        estimate_components(counts_from(alike, 100, seed), seed, size=0.2, resamples=40).n_components
        for seed in range(60)
    ]
    assert 6 <= sum(n > 1 for n in found) <= 18


def test_a_weak_component_needs_rows_to_be_seen():
    weak = topics_of(2)
    weak[:, 1] = 0.85 * weak[:, 0] + 0.15 * weak[:, 1]
    probs = torch.linspace(0, 1, 30, dtype=torch.float64)[:, None]
    probs = (1 - probs) * weak[:, 0] + probs * weak[:, 1]
    assert [estimate_components(counts_from(probs, n, 0), 0).n_components for n in (20, 5000)] == [1, 2]


@pytest.mark.parametrize("name", ODD)
def test_odd_federations_have_no_more_components_than_clients_or_words(name):
    spectrum = estimate_components(ODD[name], seed=0)
    assert 1 <= spectrum.n_components <= min(ODD[name].shape)
    assert spectrum.singular_values.shape == spectrum.noise.shape == (min(ODD[name].shape),)
    if name in ("one client", "alike", "one word"):
        assert spectrum.n_components == 1


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 60), st.integers(0, 10**6))
def test_as_many_values_above_the_threshold_as_there_are_further_components(n_clients, n_words, n_rows, seed):
    probs = torch.from_numpy(numpy_generator(seed).dirichlet([0.3] * n_words, size=n_clients))
    counts = resample(probs, torch.full((n_clients,), n_rows), 1, numpy_generator(seed, "rows"))[0]
    counts[0, 0] += 1
    spectrum = estimate_components(counts, seed, resamples=10)
    assert int((spectrum.singular_values > spectrum.threshold).sum()) == spectrum.n_components - 1


def test_limit_is_the_tracy_widom_quantile():
    """99% and 95% of the law for real matrices are at 2.0234 and 0.9793; its mean is −1.2065, its deviation 1.2680."""
    standard = torch.tensor([-1.0, 1.0, -1.0, 1.0], dtype=torch.float64) * (3 / 4) ** 0.5
    assert upper_limit(standard, 0.01) == pytest.approx((2.0234 + 1.2065) / 1.2680, abs=0.02)
    assert upper_limit(5 + 2 * standard, 0.05) == pytest.approx(5 + 2 * (0.9793 + 1.2065) / 1.2680, abs=0.04)


def test_no_direction_is_the_pooled_distribution_and_all_are_the_clients_own():
    counts = mixture(3)[0]
    torch.testing.assert_close(leading(counts, 0), (counts.sum(0) / counts.sum()).expand_as(counts))
    torch.testing.assert_close(leading(counts, 24), counts / counts.sum(1, keepdim=True))


def test_same_seed_same_answer():
    counts = mixture(2)[0]
    one, other = estimate_components(counts, 5), estimate_components(counts, 5)
    assert one.threshold == other.threshold != estimate_components(counts, 6).threshold


def test_resamples_keep_rows_and_follow_the_probabilities():
    probs = torch.tensor([[0.2, 0.3, 0.5], [0.0, 1.0, 0.0]], dtype=torch.float64)
    draws = resample(probs, torch.tensor([1000, 0]), 50, numpy_generator(0))
    assert draws.sum(-1).unique().tolist() == [0.0, 1000.0]
    torch.testing.assert_close(draws[:, 0].mean(0) / 1000, probs[0], atol=0.01, rtol=0)


def test_fitted_word_distributions_sum_to_one_and_resemble_the_clients():
    counts, _ = mixture(2, n_rows=4000)
    probs = word_probs(fit_topics(counts, 2, 0))
    torch.testing.assert_close(probs.sum(1), torch.ones(30, dtype=torch.float64))
    torch.testing.assert_close(probs, counts / 4000, atol=0.03, rtol=0)


def test_clients_that_differ_by_chance_are_told_from_those_that_are_mixtures():
    by_chance = [reliability(mixture(1, seed=seed)[0], 3, seed) for seed in range(4)]
    by_components = [reliability(mixture(3, seed=seed)[0], 3, seed) for seed in range(4)]
    assert max(by_chance) < 0.25
    assert min(by_components) > 0.6


def test_two_clients_that_differ_by_chance_are_not_believed_to_be_of_two_kinds():
    """Every second one of their federations differs by more than chance makes on average."""
    known = [reliability(mixture(1, n_clients=2, seed=seed)[0], 2, seed) for seed in range(20)]
    assert sum(value >= 0.2 for value in known) <= 2
    assert reliability(torch.tensor([[90.0, 60.0, 50.0], [50.0, 60.0, 90.0]]), 2, 0) > 0.5


def test_what_clients_scatter_on_their_own_is_no_chance():
    assert reliability(scattered(1, 4.0), 3, 0) > 0.6


def test_noise_in_counts_is_chance():
    rng = numpy_generator(0, "noisy")
    alike, noise = mixture(1, n_rows=100)[0], Noise(0.1, torch.ones(24, dtype=torch.long))
    noisy = alike + noise.draw(1, len(alike), rng)[0]
    assert reliability(noisy, 3, 0) > 0.5
    assert reliability(noisy, 3, 0, noise=noise) < 0.25


def test_of_a_single_component_there_is_nothing_to_know():
    assert reliability(mixture(3)[0], 1, 0) == 1.0
    assert reliability(torch.tensor([[4.0, 3.0, 2.0]]), 2, 0) == 0.0
