"""Is it a mixture of K components at all? What the fitted mixture leaves over, for the federation and each client."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from fedgmi.mixture.multiple_tests import holm
from fedgmi.mixture.remainder import largest, roundness, spectra
from fedgmi.mixture.resampling import resample, word_probs
from fedgmi.mixture.scatter import energies, scatter_beside, standardised
from fedgmi.mixture.topics import Topics, word_log_probs
from fedgmi.randomness import numpy_generator

CHUNK = 25
"""Federations that are refitted at once."""
REFIT_STEPS = 50
"""Steps of EM in a refit."""
TINY = 1e-300
"""No number is divided by less."""
NOTHING = 1e-6
"""A mean deviance below this is rounding."""
SKEWNESS = 0.05, 2.0
"""Resamples are too few to tell a skewness outside of this."""


@dataclass(frozen=True)
class Misfit:
    """How badly the model fits.

    Attributes:
        p_value: Of "a mixture of these K components, around which each client scatters without a shape".
        parts: The p-values that it is made from: "direction", "roundness" and "simplex", as far as there is anything
            left over to ask.
        client_per_dof: Misfit of each client. 1 is expected. [C]
        client_p_value: Of each client. [C]
        unfit: The clients that do not fit, after Holm's correction for there being so many of them.
    """

    p_value: float
    parts: dict[str, float]
    client_per_dof: Tensor
    client_p_value: Tensor
    unfit: tuple[int, ...]

    @property
    def against(self) -> str | None:
        """Which part speaks most against a mixture; None where there is none to ask."""
        return min(self.parts, key=self.parts.__getitem__) if self.parts else None


def misfit(histograms: Tensor, fitted: Topics, seed: int, *, size: float = 0.01, resamples: int = 100) -> Misfit:
    """Three questions about the federation and one about each client, answered by a parametric bootstrap.

    What K − 1 directions leave over is chance and each client's own scatter, ρ̂ (`scatter`). It must have no shape:

    - direction: T_{K−1}, no further direction stands out;
    - roundness: U_{K−1}, nor do many stand out a little;
    - simplex: a mixture lies in a simplex of K distributions, and leaves over hardly more than the best flat of as many
      dimensions does. See `off_simplex`. With K = 1 both are a point, and this is not asked.

    None depends on how large the scatter is. The p-value is their number times the smallest (Bonferroni). Client i is
    judged by its deviance D_i = 2 Σ_w h_iw log(h_iw / (n_i Σ_k π_ik p_k(w))). Words are many and rows few, so degrees
    of freedom are not counted but measured: they are D_i's mean over federations that are drawn from the fitted mixture
    with that scatter, and refitted like the data, from the same start.

    Args:
        histograms: Counts h. [C, W]
        fitted: Topics and proportions of these counts.
        seed: Of the resamples.
        size: The chance to call one client or more unfit where all fit.
        resamples: How many federations are drawn.

    Returns:
        The misfit of the federation and of each client.
    """
    histograms = histograms.double().cpu()
    totals, k = histograms.sum(1), fitted.proportions.shape[1] - 1
    held = totals > 0
    rho = scatter_beside(histograms, k + 1)
    draws = resample(word_probs(fitted), totals, resamples, numpy_generator(seed, "misfit"), rho=rho)
    own, own_off = statistics(histograms[None], held, fitted)
    null, null_off = statistics(draws, held, fitted)
    parts = {}
    if k < min(int(held.sum()), histograms.shape[1]) - 1:  # else nothing is left over
        energy, drawn = spectra(histograms[held], draws[:, held], k, rho)
        parts = {
            "direction": upper_tail(largest(energy, k), largest(drawn, k)),
            "roundness": upper_tail(roundness(energy, k), roundness(drawn, k)),
        } | ({"simplex": upper_tail(own_off[0], null_off)} if k else {})
    client_p_value = tail(own[0], null)
    return Misfit(
        p_value=min([1.0, *(len(parts) * p for p in parts.values())]),
        parts=parts,
        client_per_dof=ratio(own[0], null.mean(0)),
        client_p_value=client_p_value,
        unfit=tuple(i for i, p in enumerate(holm(client_p_value.tolist())) if p <= size),
    )


def statistics(histograms: Tensor, held: Tensor, fitted: Topics) -> tuple[Tensor, Tensor]:
    """Deviances and `off_simplex` of federations that are refitted.

    Args:
        histograms: Counts h of B federations. [B, C, W]
        held: Which clients have rows. [C]
        fitted: Topics and proportions to start from.

    Returns:
        Deviances [B, C], and energy outside the simplex [B].
    """
    deviances, outside = [], []
    for start in range(0, len(histograms), CHUNK):
        some = histograms[start : start + CHUNK]
        expected = refit(some, fitted)
        deviances.append(deviance(some, expected))
        outside.append(off_simplex(some[:, held], expected[:, held], fitted.proportions.shape[1]))
    return torch.cat(deviances), torch.cat(outside)


def refit(histograms: Tensor, start: Topics) -> Tensor:
    """Expected counts after plain EM (Hofmann 1999): own rows included, nothing smoothed.

    With matrix products in place of the responsibilities [B, C, W, K]: π_ik ← π_ik·Σ_w R_iw p_k(w) / n_i and
    p_k(w) ∝ p_k(w)·Σ_i R_iw π_ik, where R = h / Σ_k π_ik p_k(w).

    Args:
        histograms: Counts h of B federations. [B, C, W]
        start: Topics and proportions to start from.

    Returns:
        n_i Σ_k π_ik p_k(w). [B, C, W]
    """
    proportions: Tensor = start.proportions.cpu().expand(len(histograms), -1, -1)  # [B, C, K]
    probs = word_log_probs(start.counts.cpu()).exp().expand(len(histograms), -1, -1)  # [B, W, K]
    for _ in range(REFIT_STEPS):
        surprise = histograms / (proportions @ probs.mT).clamp(min=TINY)
        shares, words = proportions * (surprise @ probs), probs * (surprise.mT @ proportions)
        proportions = shares / shares.sum(-1, keepdim=True).clamp(min=TINY)
        probs = words / words.sum(-2, keepdim=True).clamp(min=TINY)
    return histograms.sum(-1, keepdim=True) * (proportions @ probs.mT)


def deviance(histograms: Tensor, expected: Tensor) -> Tensor:
    """2 Σ_w h_iw log(h_iw / e_iw): twice the log likelihood ratio to a model that gives each client its own words.

    Args:
        histograms: Counts h. [B, C, W]
        expected: Counts e under the model. [B, C, W]

    Returns:
        [B, C]
    """
    return 2 * torch.xlogy(histograms, histograms / expected.clamp(min=TINY)).sum(-1).clamp(min=0.0)  # but for rounding


def off_simplex(histograms: Tensor, expected: Tensor, n_components: int) -> Tensor:
    """Energy that the mixture leaves over, as a multiple of what the best flat of K − 1 dimensions leaves over.

    Σ_iw (h_iw − e_iw)²/(n_i p_w) / Σ_{j ≥ K} s_j², with s the singular values of the standardised counts. Every matrix
    of the mixture's rank leaves over as much as the flat (Eckart & Young 1936), which need not hold a simplex. 1 where
    nothing is left over.

    Args:
        histograms: Counts h; each client has a row. [B, C, W]
        expected: Counts e under the model. [B, C, W]
        n_components: K.

    Returns:
        [B]
    """
    weights = histograms.sum(-1, keepdim=True) * histograms.sum(-2, keepdim=True)
    weights = weights / histograms.sum((-2, -1), keepdim=True)
    outside = ((histograms - expected).square() / weights.clamp(min=TINY)).where(weights > 0, 0.0).sum((-2, -1))
    return ratio(outside, energies(standardised(histograms))[:, n_components - 1 :].sum(-1))


def ratio(observed: Tensor, expected: Tensor) -> Tensor:
    """Observed over expected. 1 where nothing is expected.

    Args:
        observed: Of the data.
        expected: Of the same shape.
    """
    return torch.where(expected > NOTHING, observed / expected.clamp(min=NOTHING), 1.0)


def tail(observed: Tensor, null: Tensor) -> Tensor:
    """P(statistic ≥ observed) for a scaled χ² with the mean and variance of the resamples.

    Args:
        observed: Statistics of the data. [M]
        null: Statistics of B resamples. [B, M]

    Returns:
        p-values, 1 where the resamples say nothing. [M]
    """
    mean, variance = null.mean(0), null.var(0)
    known = (mean > NOTHING) & (variance > NOTHING**2)
    mean, variance = mean.where(known, 1.0), variance.where(known, 1.0)
    values = stats.chi2.sf((2 * mean / variance * observed).numpy(), (2 * mean**2 / variance).numpy())
    return torch.from_numpy(values).where(known, 1.0)


def upper_tail(observed: Tensor, null: Tensor) -> float:
    """P(statistic ≥ observed) for a gamma law with the place, deviation and skewness of the resamples (Pearson's III).

    Args:
        observed: The statistic. []
        null: Of the resamples. [B]

    Returns:
        A p-value, 1 where the resamples say nothing.
    """
    values = null.numpy()
    if values.std() <= NOTHING * abs(values.mean()):
        return 1.0
    skewness = float(np.clip(stats.skew(values), *SKEWNESS))
    return float(stats.pearson3.sf((float(observed) - values.mean()) / values.std(ddof=1), skewness))
