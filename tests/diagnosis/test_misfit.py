"""Whether a federation is a mixture of K components, and which clients are not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from fedgmi.diagnosis.misfit import deviance, misfit, off_simplex, refit, tail, upper_tail
from fedgmi.mixture.spectrum import estimate_components
from fedgmi.mixture.topics import fit_topics
from wordcounts import ODD, counts_from, mixture, ring, topics_of


def test_one_component_is_the_likelihood_ratio_test_of_homogeneity():
    counts, _ = mixture(2)
    fitted = fit_topics(counts, 1, 0)
    expected = refit(counts[None], fitted)
    total = float(deviance(counts[None], expected).sum())
    assert total == pytest.approx(stats.chi2_contingency(counts, lambda_="log-likelihood").statistic)
    assert float(off_simplex(counts[None], expected, 1)) == pytest.approx(1.0, abs=1e-6)


def test_deviance_of_a_perfect_fit_is_zero():
    counts = ODD["empty word"].double()[None]
    assert deviance(counts, counts).tolist() == [[0.0] * 4]
    assert float(deviance(torch.tensor([[[6.0, 2.0]]]), torch.tensor([[[4.0, 4.0]]]))) == pytest.approx(
        2.0930, abs=1e-4
    )


def test_refitting_lowers_the_deviance_and_keeps_rows_and_words():
    counts, _ = mixture(3)
    expected = refit(counts[None], fit_topics(counts, 3, 0))
    alike = counts.sum(1, keepdim=True) * counts.sum(0) / counts.sum()
    assert float(deviance(counts[None], expected).sum()) < 0.5 * float(deviance(counts[None], alike[None]).sum())
    torch.testing.assert_close(expected[0].sum(1), counts.sum(1))
    torch.testing.assert_close(expected[0].sum(0), counts.sum(0), rtol=1e-3, atol=0)
    assert float(off_simplex(counts[None], expected, 3)) > 1


def test_true_mixtures_fit_with_misfit_one():
    found = [
        misfit(counts, fit_topics(counts, 3, seed), seed) for seed in range(12) for counts in [mixture(3, seed=seed)[0]]
    ]
    assert sum(result.p_value < 0.01 for result in found) <= 1
    assert sum(result.p_value > 0.5 for result in found) >= 3
    each = torch.cat([result.client_per_dof for result in found])
    assert float(each.mean()) == pytest.approx(1.0, abs=0.06)  # below 1: scatter is estimated as 0 or more
    assert sum(len(result.unfit) for result in found) <= 1


def test_p_values_of_clients_are_nearly_uniform():
    values = torch.cat(
        [
            misfit(counts, fit_topics(counts, 2, s), s).client_p_value
            for s in range(8)
            for counts in [mixture(2, seed=s)[0]]
        ]
    )
    assert stats.kstest(values.numpy(), "uniform").statistic < 0.1


def test_too_few_components_do_not_fit():
    counts, _ = mixture(4)
    result = misfit(counts, fit_topics(counts, 2, 0), 0)
    assert result.p_value < 1e-6
    assert result.against in ("direction", "roundness")


def test_a_ring_lies_in_a_plane_and_is_no_mixture_of_three():
    """Three singular directions explain it, so the words fit tolerably; three distributions do not enclose it."""
    for seed in range(3):
        counts = ring(seed=seed)
        assert estimate_components(counts, seed).n_components == 3
        found = misfit(counts, fit_topics(counts, 3, seed), seed)
        assert found.p_value < 0.01
        assert found.against == "simplex"


def test_the_client_that_does_not_fit_is_named():
    counts, _ = mixture(2)
    stranger = counts_from(topics_of(3, seed=9)[:, 2].flip(0)[None], 300, 7)
    result = misfit(torch.cat([counts, stranger]), fit_topics(torch.cat([counts, stranger]), 2, 0), 0)
    assert result.unfit == (30,)
    assert float(result.client_per_dof[30]) > 2
    assert float(result.client_per_dof[:30].mean()) == pytest.approx(1.0, abs=0.25)  # the stranger counts as scatter


@pytest.mark.parametrize("n_components", [1, 2])
@pytest.mark.parametrize("name", ODD)
def test_odd_federations_are_not_accused(name, n_components):
    counts = ODD[name].double()
    result = misfit(counts, fit_topics(counts, n_components, 0), 0)
    assert bool(result.client_per_dof.isfinite().all())
    assert bool(((result.client_p_value >= 0) & (result.client_p_value <= 1)).all())
    if name in ("one client", "alike", "one word"):
        assert result.p_value > 0.05
        assert not result.unfit
    if name == "no rows and one":
        assert float(result.client_per_dof[0]) == float(result.client_p_value[0]) == 1.0


def test_upper_tail_has_place_deviation_and_skewness_of_the_resamples():
    """A gamma law of shape 4 has skewness 1, and exceeds 15.51/2 with probability 0.05."""
    null = torch.from_numpy(stats.gamma.ppf((np.arange(4000) + 0.5) / 4000, 4))
    assert upper_tail(torch.tensor(15.507 / 2), null) == pytest.approx(0.05, abs=3e-3)
    assert upper_tail(torch.tensor(3.0), torch.ones(5)) == 1.0


def test_tail_of_a_chi_square_with_these_moments():
    """Mean 8 and variance 16: 8 degrees of freedom, scale 1."""
    null = torch.tensor([[8 - 4 * (3 / 4) ** 0.5], [8 + 4 * (3 / 4) ** 0.5]] * 2, dtype=torch.float64)
    assert float(tail(torch.tensor([15.507]), null)) == pytest.approx(0.05, abs=1e-4)
    assert float(tail(torch.tensor([3.0]), torch.zeros(4, 1, dtype=torch.float64))) == 1.0
