"""How much clients scatter on their own: counts of words ~ Dirichlet-multinomial around what clients share.

    h_i ~ Multinomial(n_i, P_i)        P_i ~ Dirichlet(c·q_i)        ρ = 1/(1 + c)

so that Var h_iw = n_i q_iw (1 − q_iw)·φ_i with φ_i = 1 + (n_i − 1)·ρ. ρ = 0 is the multinomial. Standardised with φ_i,
such scatter looks like multinomial noise: it has another scale, and the same shape in all directions. So its scale is
estimated, and `remainder` asks of what is left whether it has a shape.
"""

from __future__ import annotations

import torch
from torch import Tensor

MOST = 0.999
"""Of ρ. At 1 a client has a single word."""
LEAST = 1e-6
"""A smaller ρ is none."""
PRECISION = 1e-3
"""Of ρ, relative."""
TINY = 1e-12
"""No number is divided by less."""


def dispersion(totals: Tensor, rho: float) -> Tensor:
    """φ_i = 1 + (n_i − 1)·ρ: the variance of a client's counts, as a multiple of that of rows drawn independently.

    Args:
        totals: Rows n_i. [...]
        rho: ρ.

    Returns:
        [...]

    >>> dispersion(torch.tensor([1.0, 101.0]), 0.01).tolist()
    [1.0, 2.0]
    """
    return 1 + (totals - 1).clamp(min=0.0) * rho


def effective(histograms: Tensor, rho: float) -> Tensor:
    """h_i/φ_i: counts of as many independently drawn rows as would say as much.

    With them the likelihood of words is a quasi-likelihood (McCullagh & Nelder 1989). Clients whose counts vary more
    weigh less. A client of many rows weighs hardly more than others once its own scatter is all that is left.

    Args:
        histograms: Counts. [..., C, W]
        rho: ρ.

    Returns:
        [..., C, W]

    >>> effective(torch.tensor([[30.0, 70.0]]), 1 / 99).round().tolist()
    [[15.0, 35.0]]
    """
    return histograms / dispersion(histograms.sum(-1, keepdim=True), rho)


def scatter_beside(histograms: Tensor, n_components: int) -> float:
    """ρ̂ of exact counts beside K components; clients without rows say nothing.

    Args:
        histograms: Counts. [C, W]
        n_components: K.

    Returns:
        ρ̂.
    """
    return overdispersion(histograms[histograms.sum(1) > 0].double(), n_components - 1)


def mean_words(histograms: Tensor, rho: float = 0.0) -> Tensor:
    """p_w: the mean of the clients' word distributions, weighted by n_i/φ_i.

    Args:
        histograms: Counts. [..., C, W]
        rho: ρ.

    Returns:
        [..., 1, W]
    """
    weighted = effective(histograms, rho)
    mean: Tensor = weighted.sum(-2, keepdim=True) / weighted.sum((-2, -1), keepdim=True)
    return mean


def standardised(histograms: Tensor, noise_variance: Tensor | None = None, rho: float = 0.0) -> Tensor:
    """A_iw = (h_iw/n_i − p_w)·a_i/s_w. Where clients share all but their scatter, every entry has mean 0 and variance
    about 1 − p_w.

    Args:
        histograms: Counts. [..., C, W]
        noise_variance: Variance of the noise in each word's count, which may then be negative. None for exact counts.
            [W]
        rho: ρ of the clients' own scatter.

    Returns:
        The standardised counts. [..., C, W]
    """
    totals = histograms.sum(-1, keepdim=True).clamp(min=1.0)
    word_scale, client_scale = scales(histograms, noise_variance, rho)
    return (histograms / totals - mean_words(histograms, rho)) / word_scale * client_scale


def scales(histograms: Tensor, noise_variance: Tensor | None = None, rho: float = 0.0) -> tuple[Tensor, Tensor]:
    """s_w = √p_w and a_i = √m_i, m_i = n_i/φ_i: with them (h_iw/n_i − p_w)·a_i/s_w has unit variance.

    With noise of variance σ_w² in the counts, s_w² = p_w + σ_w²/m̄' and a_i² = m_i·(1 + S/m̄')/(1 + S/m'_i), where
    m'_i = n_i·φ_i and S = Σ_w σ_w². s_w²/a_i² is then close to the variance p_w·φ_i/n_i + σ_w²/n_i², as in biwhitening
    (Landa, Zhang & Kluger 2022).

    Args:
        histograms: Counts. [..., C, W]
        noise_variance: σ_w². None for exact counts. [W]
        rho: ρ.

    Returns:
        s [..., 1, W] and a [..., C, 1].
    """
    totals = histograms.sum(-1, keepdim=True).clamp(min=1.0)
    phi, mean = dispersion(totals, rho), mean_words(histograms, rho)
    if noise_variance is None:
        return mean.clamp(min=TINY).sqrt(), (totals / phi).sqrt()
    inflated, summed = totals * phi, noise_variance.sum()
    typical = inflated.mean(-2, keepdim=True)
    word_scale = (mean.clamp(min=0.0) + noise_variance / typical).clamp(min=TINY).sqrt()
    return word_scale, (totals / phi * (1 + summed / typical) / (1 + summed / inflated)).sqrt()


def energies(matrix: Tensor) -> Tensor:
    """Squared singular values, the largest first, by the smaller Gram matrix.

    Args:
        matrix: [..., C, W]

    Returns:
        [..., min(C, W)]

    >>> energies(torch.tensor([[3.0, 0.0], [0.0, 4.0]])).tolist()
    [16.0, 9.0]
    """
    values: Tensor = torch.linalg.eigvalsh(gram(matrix))
    return values.flip(-1).clamp(min=0.0)


def gram(matrix: Tensor) -> Tensor:
    """A·Aᵀ or Aᵀ·A, whichever is smaller. [..., C, W] → [..., min(C, W), min(C, W)]"""
    return matrix @ matrix.mT if matrix.shape[-2] <= matrix.shape[-1] else matrix.mT @ matrix


def overdispersion(
    histograms: Tensor, k: int, *, target: float | None = None, noise_variance: Tensor | None = None
) -> float:
    """ρ̂: with it, the energy outside the k leading directions, Σ_{j>k} s_j²(ρ), is what noise of unit variance has.

    That is (C − 1 − k)(W − 1 − k): the moment estimator of Paule & Mandel (1982), where k strong directions take k
    degrees of freedom from rows and from columns (Kritchman & Nadler 2009). The energy falls as ρ grows, so ρ̂ is
    bisected.

    Args:
        histograms: Counts. [C, W]
        k: How many directions clients share.
        target: The energy that noise of unit variance has, where it is known better.
        noise_variance: Variance of the noise in each word's count. None for exact counts. [W]

    Returns:
        ρ̂ from 0, where clients do not scatter more than rows drawn independently, to 0.999.

    >>> overdispersion(torch.tensor([[50.0, 30.0, 20.0]]).expand(9, 3), 0)
    0.0
    """
    n_clients, n_words = histograms.shape
    aim = max((n_clients - 1 - k) * (n_words - 1 - k), 1) if target is None else target

    def beyond(rho: float) -> bool:
        return float(energies(standardised(histograms, noise_variance, rho))[k:].sum()) > aim

    if not beyond(0.0):
        return 0.0
    if beyond(MOST):
        return MOST
    low, high = 0.0, MOST
    while high - low > PRECISION * high and high > LEAST:
        middle = (low + high) / 2
        low, high = (middle, high) if beyond(middle) else (low, middle)
    return (low + high) / 2
