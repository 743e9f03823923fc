"""How many components: singular values of the client-by-word counts against those of noise.

P_i is linear in π_i. So with K components (linearly independent, and proportions that vary in all directions) the
standardised counts are a matrix of rank K − 1 plus multinomial noise. Parallel analysis (Horn 1965) goes one direction
at a time: singular value k + 1 counts when it is larger than in federations drawn from the k leading directions alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedgmi.mixture.resampling import resample
from fedgmi.mixture.topics import scales, standardised
from fedgmi.privacy.geometric import Noise
from fedgmi.randomness import numpy_generator

TRACY_WIDOM_SHAPE = 46.446
"""Shape of the gamma law that the Tracy-Widom law (real matrices) resembles, up to place and scale."""
ROUNDING = 1e-6
"""Singular values below this are rounding errors."""


@dataclass(frozen=True)
class Spectrum:
    """Singular values of the counts, beside those of noise.

    Attributes:
        singular_values: Of the data, largest first. [min(C, W)], C clients with rows
        noise: Their mean where all clients are alike. [min(C, W)]
        threshold: What the first singular value that is taken for noise would have had to exceed. 0 where none is.
        n_components: K̂.
    """

    singular_values: Tensor
    noise: Tensor
    threshold: float
    n_components: int


def estimate_components(
    histograms: Tensor, seed: int, *, noise: Noise | None = None, size: float = 0.005, resamples: int = 100
) -> Spectrum:
    """K̂ = 1 + the number of singular values of the standardised counts that stand out of the noise.

    Singular value k + 1 is compared with that of federations drawn from the rank-k part of the data, whose signal is
    the k directions found so far. k = 0 is "all clients alike". The threshold has the mean and deviation of the
    resamples and the shape of the Tracy-Widom law, which the largest singular value of noise follows (Johnstone 2001),
    as a shifted gamma law (Chiani 2014). K̂ is at most min(C, W).

    Args:
        histograms: Counts. [C, W]
        seed: The run's seed.
        noise: What was added to the counts, which may then be negative. The resamples get the same. None for exact
            counts.
        size: The chance to count one component too many.
        resamples: How many federations each direction is compared with.

    Returns:
        K̂ and the values that it rests on.

    >>> alike = torch.tensor([[60.0, 40.0]]).expand(5, 2)
    >>> estimate_components(alike, seed=0).n_components
    1
    """
    histograms = histograms[histograms.sum(1) > 0].double()  # who has no rows says nothing
    variance = None if noise is None else noise.variance.to(histograms)
    values, totals = _spectrum(histograms, variance), histograms.sum(1)
    alike, threshold, found = torch.zeros_like(values), 0.0, 0
    while found < len(values) - 1:  # the last is zero: the counts are centred
        rng = numpy_generator(seed, "spectrum", found)
        draws = resample(leading(histograms, found, variance), totals, resamples, rng)
        if noise is not None:
            draws += noise.draw(resamples, len(histograms), rng)
        spectra = torch.stack([_spectrum(draw, variance) for draw in draws])
        alike = spectra.mean(0) if found == 0 else alike
        threshold = upper_limit(spectra[:, found], size)
        if values[found] <= threshold:
            break
        found += 1
    if found and values[found - 1] <= threshold:  # thresholds differ a little: report one between the two values
        threshold = float(values[found - 1 : found + 1].mean())
    return Spectrum(values, alike, threshold, found + 1)


def _spectrum(histograms: Tensor, variance: Tensor | None) -> Tensor:
    """Singular values of the standardised counts [min(C, W)], rounding errors set to zero."""
    values: Tensor = torch.linalg.svdvals(standardised(histograms, variance)).cpu()
    return values.where(values > ROUNDING, 0.0)


def upper_limit(largest: Tensor, size: float) -> float:
    """The value that the largest singular value of noise exceeds with a given probability.

    Args:
        largest: The largest singular values of resamples. [R]
        size: The probability.

    Returns:
        The value.
    """
    from scipy.special import gammaincinv  # sites need no SciPy, and scipy.stats takes half a second

    quantile = gammaincinv(TRACY_WIDOM_SHAPE, 1 - size)  # of the gamma distribution
    standard = (quantile - TRACY_WIDOM_SHAPE) / TRACY_WIDOM_SHAPE**0.5
    return float(largest.mean() + standard * largest.std())


def leading(histograms: Tensor, n_directions: int, noise_variance: Tensor | None = None) -> Tensor:
    """Each client's word distribution, with only the leading directions of the federation kept.

    Args:
        histograms: Counts. [C, W]
        n_directions: How many directions are kept.
        noise_variance: Variance of the noise in each word's count. None for exact counts. [W]

    Returns:
        Probabilities. Each row sums to one. [C, W]
    """
    pooled = histograms.sum(0) / histograms.sum()
    left, values, right = torch.linalg.svd(standardised(histograms, noise_variance), full_matrices=False)
    kept = (left[:, :n_directions] * values[:n_directions]) @ right[:n_directions]
    word_scale, client_scale = scales(histograms, noise_variance)
    probs: Tensor = (pooled + kept * (word_scale / client_scale)).clamp(min=0.0)
    return probs / probs.sum(1, keepdim=True)
