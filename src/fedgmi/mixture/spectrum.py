"""How many components: directions in which clients differ, against those of chance and of each client's own scatter.

P_i is linear in π_i. So with K components (linearly independent, and proportions that vary in all directions) the
standardised counts are a matrix of rank K − 1, plus noise without a shape: that of drawing rows, and each client's own
scatter (`scatter`). Parallel analysis (Horn 1965) goes one direction at a time. Its noise level is estimated too, so
what it compares has no scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedgmi.mixture.remainder import largest, spectra, upper_limit
from fedgmi.mixture.resampling import in_parts, resample
from fedgmi.mixture.scatter import energies, mean_words, overdispersion, scales, standardised
from fedgmi.privacy.geometric import Noise
from fedgmi.randomness import numpy_generator

ROUNDING = 1e-6
"""Singular values below this are rounding errors."""
KEPT = 2**25
"""Counts of resamples that are kept, for the sake of memory: of federations with more, fewer resamples are drawn."""
FEWEST = 20
"""Resamples that are drawn all the same."""
SHOWN = 20
"""Resamples for the mean singular values of noise, which are shown and decide nothing."""


BY_CHANCE = 0.05
"""How many federations of clients that are all alike differ by more than `reliability` takes for chance."""


@dataclass(frozen=True)
class Spectrum:
    """Singular values of the counts, beside those of noise.

    Attributes:
        singular_values: Of the data, standardised with ρ̂, largest first. [min(C, W)], C clients with rows
        noise: Their mean where clients share all but their own scatter ρ̂. [min(C, W)]
        threshold: What the first singular value that is taken for noise would have had to exceed. 0 where there is
            none.
        n_components: K̂.
        rho: ρ̂ beside K̂ − 1 directions.
    """

    singular_values: Tensor
    noise: Tensor
    threshold: float
    n_components: int
    rho: float


def estimate_components(
    histograms: Tensor, seed: int, *, noise: Noise | None = None, size: float = 0.005, resamples: int = 60
) -> Spectrum:
    """K̂ = 1 + the number of directions that stand out of drawing rows and of clients' own scatter together.

    For k = 0, 1, …: ρ̂_k is estimated from what k directions leave over (Paule & Mandel 1982), federations are drawn
    around these directions with that scatter, words are brought to one variance, and direction k + 1 counts where
    T_k = s_{k+1}/√Σ_{j>k} s_j² exceeds the resamples' limit (see `remainder`). A remainder of one direction has nothing
    to stand out of, so K̂ is at most min(C, W) − 1, or 1. With two clients, what they differ by may be anybody's.

    Args:
        histograms: Counts. [C, W]
        seed: The run's seed.
        noise: What was added to the counts, which may then be negative. The resamples get the same. None for exact
            counts.
        size: The chance to count one component too many.
        resamples: How many federations each direction is compared with, at most; fewer where C·W is above half a
            million.

    Returns:
        K̂ and the values that it rests on.

    >>> alike = torch.tensor([[60.0, 40.0]]).expand(5, 2)
    >>> estimate_components(alike, seed=0).n_components
    1
    """
    histograms = histograms[histograms.sum(1) > 0].double().cpu()  # who has no rows says nothing
    resamples = resamples_of(histograms, resamples)
    found, last = 0, min(histograms.shape) - 2
    while True:
        rng = numpy_generator(seed, "spectrum", found)
        rho, draws = around(histograms, found, resamples, rng, noise)
        energy, null = spectra(histograms, draws, found, rho, variance_of(noise, histograms))
        limit = upper_limit(largest(null, found), size)
        if found >= last or float(largest(energy, found)) <= limit:
            break
        found += 1
    values, rest = rounded(energy), float(energy[found:].sum().sqrt())
    threshold = max(limit * rest, float(values[found])) if rest > ROUNDING else 0.0
    if found and values[found - 1] <= threshold:  # scales differ a little from step to step: report one between the two
        threshold = float(values[found - 1 : found + 1].mean())
    shared = alone(histograms, rho, numpy_generator(seed, "spectrum", "alone"), noise)
    return Spectrum(values, shared, threshold, found + 1, rho)


def reliability(histograms: Tensor, n_components: int, seed: int, *, noise: Noise | None = None) -> float:
    """Of what clients differ by along the K − 1 leading directions, the share that chance does not reach.

    1 − u/Σ_{j<K} s_j², with s the singular values of the counts, and u what Σ_{j<K} s_j² of 95 in 100 federations stays
    below whose clients are all alike. With many clients and words u is little more than the mean of these. Few differ
    much by chance. Clients' own scatter is no chance here: they do differ by it.

    Args:
        histograms: Counts. [C, W]
        n_components: K.
        seed: The run's seed.
        noise: What was added to the counts. None for exact counts.

    Returns:
        From 0, where clients differ no more than clients that are alike, to 1. 1 for K = 1: there is nothing to know.

    >>> reliability(torch.tensor([[60.0, 40.0]]).expand(5, 2), 2, seed=0)
    0.0
    """
    if n_components == 1:
        return 1.0
    histograms = histograms[histograms.sum(1) > 0].double().cpu()  # who has no rows says nothing
    variance, leading_ones = variance_of(noise, histograms), slice(n_components - 1)
    draws = alike(histograms, 0.0, resamples_of(histograms), numpy_generator(seed, "reliability"), noise)
    drawn = in_parts(draws, lambda some: energies(standardised(some, variance)))[:, leading_ones].sum(1)
    found = float(energies(standardised(histograms, variance))[leading_ones].sum())
    return max(0.0, 1 - upper_limit(drawn, BY_CHANCE) / found) if found > ROUNDING else 0.0


def around(
    histograms: Tensor, k: int, n: int, rng: np.random.Generator, noise: Noise | None = None
) -> tuple[float, Tensor]:
    """ρ̂ beside k directions, and federations that have these directions, that scatter, and that noise.

    The degrees of freedom of counts with noise are not known in closed form: they are simulated without scatter.

    Args:
        histograms: Counts. [C, W]
        k: How many directions clients share.
        n: How many federations.
        rng: Where the draws come from.
        noise: In the counts.

    Returns:
        ρ̂, and counts [n, C, W].
    """
    totals, variance, target = histograms.sum(1), variance_of(noise, histograms), None
    if noise is not None:
        plain = resample(leading(histograms, k, variance), totals, n, rng) + noise.draw(n, len(histograms), rng)
        target = float(in_parts(plain, lambda some: energies(standardised(some, variance)))[:, k:].sum(1).mean())
    rho = overdispersion(histograms, k, target=target, noise_variance=variance)
    draws = resample(leading(histograms, k, variance, rho), totals, n, rng, rho=rho)
    return rho, draws if noise is None else draws + noise.draw(n, len(histograms), rng)


def alone(histograms: Tensor, rho: float, rng: np.random.Generator, noise: Noise | None) -> Tensor:
    """Mean singular values of federations that share one word distribution and have this scatter. [min(C, W)]"""
    variance = variance_of(noise, histograms)
    draws = alike(histograms, rho, SHOWN, rng, noise)
    return rounded(in_parts(draws, lambda some: energies(standardised(some, variance, rho)))).mean(0)


def alike(histograms: Tensor, rho: float, n: int, rng: np.random.Generator, noise: Noise | None) -> Tensor:
    """Counts of n federations that share one word distribution and have this scatter and that noise. [n, C, W]"""
    shared = leading(histograms, 0, variance_of(noise, histograms), rho)
    draws = resample(shared, histograms.sum(1), n, rng, rho=rho)
    return draws if noise is None else draws + noise.draw(n, len(histograms), rng)


def resamples_of(histograms: Tensor, most: int = 60) -> int:
    """How many resamples of such counts are drawn."""
    return min(most, max(FEWEST, KEPT // histograms.numel()))


def variance_of(noise: Noise | None, histograms: Tensor) -> Tensor | None:
    """Variance of the noise in each word's count, as the counts are stored; None for exact counts. [W]"""
    return None if noise is None else noise.variance.to(histograms)


def rounded(energy: Tensor) -> Tensor:
    """Singular values of energies, rounding errors set to zero. [..., M]"""
    values = energy.sqrt()
    return values.where(values > ROUNDING, 0.0)


def leading(histograms: Tensor, n_directions: int, noise_variance: Tensor | None = None, rho: float = 0.0) -> Tensor:
    """Each client's word distribution, with only the leading directions of the federation kept.

    Args:
        histograms: Counts. [C, W]
        n_directions: How many directions are kept.
        noise_variance: Variance of the noise in each word's count. None for exact counts. [W]
        rho: ρ of the clients' own scatter.

    Returns:
        Probabilities. Each row sums to one. [C, W]
    """
    matrix = standardised(histograms, noise_variance, rho)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    kept = (left[:, :n_directions] * values[:n_directions]) @ right[:n_directions]
    word_scale, client_scale = scales(histograms, noise_variance, rho)
    probs: Tensor = (mean_words(histograms, rho) + kept * (word_scale / client_scale)).clamp(min=0.0)
    return probs / probs.sum(1, keepdim=True)
