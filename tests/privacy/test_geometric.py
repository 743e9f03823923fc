"""The geometric mechanism: its law, what it guarantees, and what a coordinator makes of noisy counts."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from federations import dirichlet
from fedgmi.mixture import topics
from fedgmi.mixture.matching import match_components, reorder, total_variation
from fedgmi.mixture.spectrum import estimate_components
from fedgmi.privacy.geometric import Noise, geometric_noise, noise_variance, release
from fedgmi.randomness import KeyedBits
from wordcounts import counts_from, topics_of

EPSILONS = (10.0, 1.0, 0.3, 0.12345, 0.02)


class OnlyWholeNumbers(KeyedBits):
    """A source of which nobody may ask for a float."""

    def getrandbits(self, k: int, /) -> int:
        return super().getrandbits(k)

    def random(self) -> float:
        raise AssertionError("a float was drawn")


class Scripted(random.Random):
    """Answers `randrange` with these numbers in turn, and every bit with 0."""

    def __init__(self, *answers: int) -> None:
        super().__init__()
        self._answers = iter(answers)

    def randrange(self, stop: int) -> int:  # type: ignore[override]
        return min(next(self._answers), stop - 1)

    def getrandbits(self, k: int, /) -> int:
        return 0


def draws(epsilon: float, n: int = 3000, key: str = "test") -> np.ndarray:
    source = OnlyWholeNumbers(0, key, repr(epsilon))
    return np.array([geometric_noise(epsilon, source) for _ in range(n)])


def sources(n_clients: int, seed: int = 0) -> list[KeyedBits]:
    return [KeyedBits(seed, "noise", i) for i in range(n_clients)]


def p_value(values: np.ndarray, law: stats.rv_discrete) -> float:
    """Of the chi-square test, with the tails in cells of their own; cells hold 10 expected draws at least."""
    edges = np.unique(law.ppf(np.linspace(0.01, 0.99, 15)))
    observed = np.bincount(np.searchsorted(edges, values), minlength=len(edges) + 1)
    below = law.cdf(edges)
    expected = len(values) * np.diff([0.0, *below, 1.0])
    kept = expected >= 10
    observed, expected = [np.append(v[kept], v[~kept].sum()) for v in (observed, expected)]
    kept = expected > 0
    return float(stats.chisquare(observed[kept], expected[kept]).pvalue) if kept.sum() > 1 else 1.0


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_noise_follows_the_discrete_laplace_law(epsilon):
    values = draws(epsilon)
    assert p_value(values, stats.dlaplace(epsilon)) > 0.01
    if epsilon <= 1:  # the test can fail: a law that is a fifth off
        assert p_value(values, stats.dlaplace(1.2 * epsilon)) < 1e-6


def test_the_tail_has_no_end():
    """An inverse distribution function of a 53-bit uniform number ends at 37/ε; 100 heads in a row make 100/ε here."""
    heads, tails = [0, 0, 1], [0, 1]
    assert geometric_noise(1.0, Scripted(0, 0, *heads * 100, *tails)) == 100


@given(
    st.lists(st.integers(0, 50), min_size=2, max_size=6),
    st.lists(st.integers(-80, 120), min_size=6, max_size=6),
    st.sampled_from(EPSILONS),
    st.data(),
)
def test_one_row_changes_no_release_by_more_than_e_to_epsilon(counts, out, epsilon, data):
    """P(out | h) / P(out | h') ≤ e^ε with a row more, ≤ e^2ε with a row in another cell, whatever comes out."""

    def log_prob(histogram: list[int]) -> float:
        return sum(
            math.log(math.tanh(epsilon / 2)) - epsilon * abs(z - h) for z, h in zip(out, histogram, strict=False)
        )

    here = data.draw(st.integers(0, len(counts) - 1))
    there = data.draw(st.integers(0, len(counts) - 1).filter(lambda w: w != here))
    added = [h + (w == here) for w, h in enumerate(counts)]
    replaced = [h + (w == here) - (w == there) for w, h in enumerate(counts)]
    assert abs(log_prob(added) - log_prob(counts)) == pytest.approx(epsilon)  # no more, and no less: all of ε is used
    assert abs(log_prob(replaced) - log_prob(counts)) <= 2 * epsilon + 1e-9


def test_every_count_gets_noise_of_its_own_that_does_not_look_at_it():
    counts = torch.tensor([[0, 0, 500, 3], [7, 0, 0, 1]])
    noise = release(counts, 0.1, sources(2)) - counts
    assert torch.equal(release(10 * counts, 0.1, sources(2)) - 10 * counts, noise)
    assert len(noise.unique()) == 8
    assert torch.equal(release(counts[1:], 0.1, sources(2)[1:]), (counts + noise)[1:])  # alone as among others
    assert not torch.equal(release(counts, 0.1, sources(2, seed=1)), counts + noise)


def test_bits_are_uniform_and_those_of_the_key():
    source = KeyedBits("key", 7)
    values = [source.randrange(6) for _ in range(6000)]
    assert stats.chisquare(np.bincount(values)).pvalue > 0.01
    assert values[:50] != [KeyedBits("key", 8).randrange(6) for _ in range(50)]
    again = KeyedBits("key", 7)
    assert values[:50] == [again.randrange(6) for _ in range(50)]
    assert {again.getrandbits(k).bit_length() <= k for k in range(1, 200)} == {True}
    assert 0.0 <= again.random() < 1.0


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_variance_and_phantom_rows_are_those_of_the_law(epsilon):
    law, noise = stats.dlaplace(epsilon), Noise(epsilon, torch.tensor([1, 4]))
    z = np.arange(int(60 / epsilon) + 2)
    assert noise_variance(epsilon) == pytest.approx(float(law.var()))
    assert noise.phantom_rows.tolist() == pytest.approx([n * float((z * law.pmf(z)).sum()) for n in (1, 4)])
    assert noise.variance.tolist() == pytest.approx([n * float(law.var()) for n in (1, 4)])
    drawn = noise.draw(40, 100, np.random.default_rng(0))
    assert drawn.shape == (40, 100, 2)
    assert drawn.var((0, 1)).tolist() == pytest.approx(noise.variance.tolist(), rel=0.15, abs=0.01)


def noisy_federation(epsilon: float, seed: int = 0) -> tuple[Tensor, Tensor, Noise, Tensor]:
    """Released counts, the exact ones, their noise, true proportions: 30 clients of 100 to 1600 rows, 24 words."""
    drawn = dirichlet(30, 3, seed=seed)
    sizes = [100 * 2 ** (i % 5) for i in range(30)]
    rows = [counts_from((drawn @ topics_of(3).T)[i : i + 1], n, 50 * seed + i) for i, n in enumerate(sizes)]
    exact = torch.cat(rows)
    released = release(exact.long(), epsilon, sources(30, seed)).double()
    return released, exact, Noise(epsilon, torch.ones(24, dtype=torch.int64)), drawn


def error(estimated: Tensor, true: Tensor) -> float:
    return float(total_variation(reorder(estimated, match_components(estimated, true)), true).mean())


@pytest.mark.parametrize("seed", [0, 1])
def test_phantom_rows_are_not_taken_for_a_component(seed):
    """Mean counts, 60 words: a client of 100 rows seems to have 300 more, and so has one of 1600."""
    drawn, table = dirichlet(30, 3, seed=seed), topics_of(3, 60, anchored=True)
    sizes = torch.tensor([[100.0 * 2 ** (i % 5)] for i in range(30)], dtype=torch.float64)
    phantom = torch.full((60,), 5.0, dtype=torch.float64)
    told, untold = (
        error(topics.fit_topics(sizes * drawn @ table.T + phantom, 3, seed, phantom_rows=rows).proportions, drawn)
        for rows in (phantom, None)
    )
    assert told < 0.035
    assert untold > 0.08


def test_without_phantom_rows_nothing_changes():
    _, exact, _, _ = noisy_federation(1.0)
    plain = topics.fit_topics(exact, 3, 0)
    none = topics.fit_topics(exact, 3, 0, phantom_rows=torch.zeros(24, dtype=torch.float64))
    torch.testing.assert_close(none.proportions, plain.proportions, atol=1e-6, rtol=0)
    torch.testing.assert_close(none.counts, plain.counts, atol=1e-2, rtol=1e-4)


def test_topic_counts_account_for_what_was_released_and_fold_in_takes_it_out_again():
    released, exact, noise, drawn = noisy_federation(0.3)
    sent = released.clamp(min=0)
    fitted = topics.fit_topics(sent, 3, 0, phantom_rows=noise.phantom_rows)
    torch.testing.assert_close(fitted.counts.sum(1), sent.sum(0))
    start = torch.full_like(drawn, 1 / 3)
    _, own = topics.fold_in(exact, fitted.counts, start, None, released=sent)
    proportions, own = topics.fold_in(exact, fitted.counts, start, own, released=sent)
    torch.testing.assert_close(own.sum(2), sent)
    torch.testing.assert_close(proportions.sum(1), torch.ones(30, dtype=torch.float64))
    assert bool((fitted.counts - own >= -1e-9).all())


def test_components_are_counted_in_spite_of_noise():
    for seed in range(3):
        released, _, noise, _ = noisy_federation(0.3, seed)
        assert estimate_components(released, seed, noise=noise).n_components == 3
        alike = counts_from(topics_of(1).T.expand(20, -1), 200, seed)
        noisy = release(alike.long(), 0.3, sources(20, seed)).double()
        assert estimate_components(noisy, seed, noise=noise).n_components == 1
