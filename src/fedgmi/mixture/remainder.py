"""Has what k directions leave over a shape? Statistics that know no scale, because clients' own scatter sets it."""

from __future__ import annotations

import torch
from torch import Tensor

from fedgmi.mixture.resampling import in_parts
from fedgmi.mixture.scatter import energies, gram, standardised

TRACY_WIDOM_SHAPE = 46.446
"""Shape of the gamma law that the Tracy-Widom law (real matrices) resembles, up to place and scale."""
SMALLEST_VARIANCE = 1e-3
"""Of a word, where the mean over words is 1: words of less are taken to have as much."""
TINY = 1e-300
"""No number is divided by less."""


def spectra(
    histograms: Tensor, draws: Tensor, k: int, rho: float, noise_variance: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Energies s_j² of the data and of the resamples, words brought to one variance as far as theirs differ.

    Scatter in nature is not quite Dirichlet: some words scatter more than others, and would look like directions. Word
    w is divided by √v_w, v_w = 1 − λ + λ·v̂_w, with v̂_w its variance outside the k leading directions. λ is the share of
    the differences among the v̂_w that resamples do not show, 1 − E Var_w(v̂*)/Var_w(v̂) (James & Stein 1961; such scaling
    is one half of biwhitening, Landa, Zhang & Kluger 2022). Under the model itself λ is about 0.

    Args:
        histograms: Counts. [C, W]
        draws: Counts of resamples. [R, C, W]
        k: Directions found so far.
        rho: ρ̂ with k directions.
        noise_variance: Variance of the noise in each word's count. None for exact counts. [W]

    Returns:
        Energies [M] and [R, M], M = min(C, W).
    """
    data = standardised(histograms, noise_variance, rho)
    seen = word_variances(data, k)
    chance = in_parts(draws, lambda some: word_variances(standardised(some, noise_variance, rho), k))
    differ = float(seen.var(-1, correction=0))
    share = max(0.0, 1 - float(chance.var(-1, correction=0).mean()) / differ) if differ > 0 else 0.0

    def evened(matrix: Tensor) -> Tensor:
        variances = word_variances(matrix, k).clamp(min=SMALLEST_VARIANCE) if share else 1.0
        return energies(matrix / torch.as_tensor(1 - share + share * variances).sqrt())

    return evened(data), in_parts(draws, lambda some: evened(standardised(some, noise_variance, rho)))


def word_variances(matrix: Tensor, k: int) -> Tensor:
    """v̂_w: the mean square of each word outside the k leading directions, of mean 1 over the words.

    Args:
        matrix: Standardised counts. [..., C, W]
        k: How many directions.

    Returns:
        [..., 1, W]
    """
    squares = matrix.square().sum(-2, keepdim=True)
    if k:  # less what the leading directions hold of the word
        values, vectors = torch.linalg.eigh(gram(matrix))
        values, vectors = values[..., None, -k:], vectors[..., -k:]
        by_client = matrix.shape[-2] <= matrix.shape[-1]
        own = (
            (vectors.mT @ matrix).square().sum(-2, keepdim=True)
            if by_client
            else (vectors.square() * values).sum(-1)[..., None, :]
        )
        squares = (squares - own).clamp(min=0.0)
    return squares / squares.mean(-1, keepdim=True).clamp(min=TINY)


def largest(energy: Tensor, k: int) -> Tensor:
    """T_k = s_{k+1}/√Σ_{j>k} s_j²: does one direction stand out? (Johnson & Graybill 1972; Nadler 2011.)

    Args:
        energy: s_j², the largest first. [..., M]
        k: How many directions are left out.

    Returns:
        [...]

    >>> float(largest(torch.tensor([9.0, 16.0, 9.0]), 1))
    0.800000011920929
    """
    return (energy[..., k] / energy[..., k:].sum(-1).clamp(min=TINY)).sqrt()


def roundness(energy: Tensor, k: int) -> Tensor:
    """U_k = Σ_{j>k} s_j⁴/(Σ_{j>k} s_j²)²: do many directions stand out a little? (John 1972; Ledoit & Wolf 2002.)

    Args:
        energy: s_j², the largest first. [..., M]
        k: How many directions are left out.

    Returns:
        [...]
    """
    rest = energy[..., k:]
    return rest.square().sum(-1) / rest.sum(-1).square().clamp(min=TINY)


def upper_limit(largest: Tensor, size: float) -> float:
    """What the largest singular value of noise exceeds with a given probability.

    Mean and deviation are those of resamples, the shape is that of the Tracy-Widom law (Johnstone 2001) as a shifted
    gamma law (Chiani 2014).

    Args:
        largest: The largest singular values of resamples, or T_k of theirs. [R]
        size: The probability.

    Returns:
        The value.
    """
    from scipy.special import gammaincinv  # sites need no SciPy, and scipy.stats takes half a second

    quantile = gammaincinv(TRACY_WIDOM_SHAPE, 1 - size)  # of the gamma distribution
    standard = (quantile - TRACY_WIDOM_SHAPE) / TRACY_WIDOM_SHAPE**0.5
    return float(largest.mean() + standard * largest.std())
