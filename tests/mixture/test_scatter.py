"""How much clients scatter on their own, and whether what is left has a shape."""

from __future__ import annotations

import pytest
import torch

from fedgmi.mixture.remainder import largest, roundness, spectra, word_variances
from fedgmi.mixture.resampling import resample
from fedgmi.mixture.scatter import dispersion, energies, overdispersion, standardised
from fedgmi.privacy.geometric import Noise
from fedgmi.randomness import numpy_generator
from wordcounts import counts_from, mixture, scattered, topics_of


@pytest.mark.parametrize(("n_topics", "phi"), [(1, 1.0), (1, 2.0), (3, 2.0), (3, 5.0)])
def test_scatter_is_estimated_beside_the_components(n_topics, phi):
    found = [overdispersion(scattered(n_topics, phi, seed=seed), n_topics - 1) for seed in range(4)]
    assert 1 + 299 * sum(found) / 4 == pytest.approx(phi, rel=0.1)


def test_components_that_are_left_out_count_as_scatter():
    counts = mixture(3)[0]
    assert overdispersion(counts, 0) > 10 * overdispersion(counts, 2)


def test_scatter_with_its_own_scale_looks_like_rows_drawn_at_random():
    sizes = torch.tensor([50, 200, 800] * 700)
    probs = topics_of(1, 5).T.expand(2100, -1)
    values = standardised(resample(probs, sizes, 1, numpy_generator(0), rho=0.02)[0], rho=0.02)
    for n in range(3):
        torch.testing.assert_close(values[n::3].var(0), 1 - probs[0], atol=0.15, rtol=0)


def test_noise_that_is_known_is_no_scatter():
    counts, noise = scattered(1, 1.0), Noise(0.5, torch.ones(24, dtype=torch.int64))
    noisy = counts + noise.draw(1, 30, numpy_generator(1))[0]
    assert overdispersion(noisy, 0, noise_variance=noise.variance) < 0.2 * overdispersion(noisy, 0)


def test_resamples_vary_as_they_should():
    probs, totals = torch.tensor([[0.2, 0.8]], dtype=torch.float64), torch.tensor([101])
    draws = resample(probs, totals, 4000, numpy_generator(0), rho=0.05)
    assert draws.sum(-1).unique().tolist() == [101.0]
    wanted = 101 * 0.16 * float(dispersion(totals.double(), 0.05)[0])
    assert float(draws[:, 0, 0].var()) == pytest.approx(wanted, rel=0.1)


def test_scatter_so_strong_that_a_client_has_one_word():
    draws = resample(topics_of(1).T.expand(4, -1), torch.full((4,), 9), 5, numpy_generator(0), rho=0.999)
    assert draws.sum(-1).unique().tolist() == [9.0]


@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
def test_energies_and_word_variances_are_those_of_the_singular_directions(shape):
    matrix = counts_from(torch.full(shape, 1 / shape[1], dtype=torch.float64), 20, 0) - 2
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    torch.testing.assert_close(energies(matrix), values.square())
    rest = ((left[:, 2:] * values[2:]) @ right[2:]).square().sum(0, keepdim=True)
    torch.testing.assert_close(word_variances(matrix, 2), rest / rest.mean())


def test_statistics_of_the_remainder_know_no_scale():
    energy = torch.tensor([100.0, 4.0, 3.0, 2.0])
    for statistic in (largest, roundness):
        assert float(statistic(7 * energy, 1)) == pytest.approx(float(statistic(energy, 1)))
    assert float(roundness(torch.tensor([9.0, 2.0, 2.0]), 1)) == pytest.approx(0.5)


def test_words_are_left_as_they_are_where_the_model_holds():
    counts = scattered(1, 2.0)
    rho = overdispersion(counts, 0)
    draws = resample(counts.sum(0).expand_as(counts), counts.sum(1), 40, numpy_generator(0), rho=rho)
    found, _ = spectra(counts, draws, 0, rho)
    torch.testing.assert_close(found, energies(standardised(counts, rho=rho)), rtol=0.1, atol=0.1)
