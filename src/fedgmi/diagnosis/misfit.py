"""Is it a mixture of K components at all? The misfit of the fitted topics, for the federation and for each client."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from fedgmi.mixture.multiple_tests import holm
from fedgmi.mixture.resampling import resample, word_probs
from fedgmi.mixture.scatter import standardised
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
DOUBTFUL = 0.001, 0.05
"""A federation's p-value between these is counted, for here the tail's exact shape decides."""
COUNTED = 999
"""Resamples to count from."""


@dataclass(frozen=True)
class Misfit:
    """How badly the model fits. 1 is expected where it holds.

    Attributes:
        per_dof: Misfit of the federation.
        p_value: Of the federation.
        client_per_dof: Misfit of each client. [C]
        client_p_value: Of each client. [C]
        unfit: The clients that do not fit, after Holm's correction for there being so many of them.
    """

    per_dof: float
    p_value: float
    client_per_dof: Tensor
    client_p_value: Tensor
    unfit: tuple[int, ...]


def misfit(histograms: Tensor, fitted: Topics, seed: int, *, size: float = 0.01, resamples: int = 100) -> Misfit:
    """Two questions to the counts, each answered by a parametric bootstrap.

    Do the words fit? The deviance is D = Σ_i D_i with D_i = 2 Σ_w h_iw log(h_iw / (n_i Σ_k π_ik p_k(w))).

    Do the clients lie in a simplex? A federation that is no mixture may still lie near a flat of K − 1 dimensions once
    K is large enough. A mixture must lie in a simplex of distributions there. See `excess`.

    Federations are drawn from the fitted model and refitted like the data, from the same start. They tell how D and the
    excess are distributed where the federation is a mixture. Words are many and rows few, so degrees of freedom are not
    counted but measured: they are D's mean over the resamples. p-values take a statistic for a scaled χ² with the
    resamples' mean and variance, so that 1/1000 needs no 1000 resamples. The federation's p-value is twice the smaller
    of the two (Bonferroni). One that is in doubt is counted from 999 resamples, for the excess has a longer tail than a
    χ².

    Args:
        histograms: Counts h. [C, W]
        fitted: Topics and proportions of these counts.
        seed: Of the resamples.
        size: The chance to call one client or more unfit where all fit.
        resamples: How many federations are drawn at first.

    Returns:
        The misfit of the federation and of each client.
    """
    histograms = histograms.double().cpu()
    n_components, totals = fitted.proportions.shape[1], histograms.sum(1)
    rng = numpy_generator(seed, "misfit")
    null, null_excess = null_statistics(fitted, totals, resamples, rng)
    expected = refit(histograms[None], fitted)
    observed = deviance(histograms[None], expected)[0]
    beyond = excess(histograms[None], expected, n_components)
    p_values = torch.cat([tail(observed.sum()[None], null.sum(1, keepdim=True)), tail(beyond, null_excess[:, None])])
    if DOUBTFUL[0] < 2 * float(p_values.min()) < DOUBTFUL[1]:
        more, more_excess = null_statistics(fitted, totals, COUNTED - resamples, rng)
        sums, beyonds = torch.cat([null, more]).sum(1), torch.cat([null_excess, more_excess])
        p_values = torch.stack([counted(observed.sum(), sums), counted(beyond[0], beyonds)])
    client_p_value = tail(observed, null)
    return Misfit(
        per_dof=float(ratio(observed.sum(), null.sum(1).mean())),
        p_value=min(1.0, 2 * float(p_values.min())),
        client_per_dof=ratio(observed, null.mean(0)),
        client_p_value=client_p_value,
        unfit=tuple(i for i, p in enumerate(holm(client_p_value.tolist())) if p <= size),
    )


def null_statistics(fitted: Topics, totals: Tensor, n: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """The statistics of federations drawn from the fitted model and refitted.

    Args:
        fitted: Topics and proportions.
        totals: Rows of each client. [C]
        n: How many federations.
        rng: Where the draws come from.

    Returns:
        Deviances [n, C] and excesses [n].
    """
    probs, n_components = word_probs(fitted), fitted.proportions.shape[1]
    deviances, excesses = [], []
    for start in range(0, n, CHUNK):
        draws = resample(probs, totals, min(CHUNK, n - start), rng)
        expected = refit(draws, fitted)
        deviances.append(deviance(draws, expected))
        excesses.append(excess(draws, expected, n_components))
    return torch.cat(deviances), torch.cat(excesses)


def counted(observed: Tensor, null: Tensor) -> Tensor:
    """(1 + how many resamples reach the statistic) / (1 + how many there are).

    Args:
        observed: The statistic. []
        null: The resamples' statistics. [B]

    Returns:
        A p-value. []

    >>> float(counted(torch.tensor(3.0), torch.tensor([1.0, 2.0, 4.0])))
    0.5
    """
    return (1.0 + (null >= observed).sum().double()) / (1.0 + len(null))


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
    return 2 * torch.xlogy(histograms, histograms / expected.clamp(min=TINY)).sum(-1)


def excess(histograms: Tensor, expected: Tensor, n_components: int) -> Tensor:
    """How much worse the mixture does than the best flat of K − 1 dimensions, which need not hold a simplex.

    Σ_iw (h_iw − e_iw)²/(n_i p_w) − Σ_{j ≥ K} s_j², with s the singular values of the standardised counts. This is what
    the mixture leaves over, less what every matrix of its rank must leave over (Eckart & Young 1936).

    Args:
        histograms: Counts h. [B, C, W]
        expected: Counts e under the model. [B, C, W]
        n_components: K.

    Returns:
        [B]
    """
    leftover = []
    for counts, fitted in zip(histograms, expected, strict=True):
        weights = counts.sum(1, keepdim=True) * counts.sum(0) / counts.sum()
        residual = ((counts - fitted).square() / weights.clamp(min=TINY)).sum()
        leftover.append(residual - torch.linalg.svdvals(standardised(counts))[n_components - 1 :].square().sum())
    return torch.stack(leftover)


def ratio(observed: Tensor, expected: Tensor) -> Tensor:
    """Observed over expected deviance. 1 where no rows say anything.

    Args:
        observed: Of the data.
        expected: Mean over the resamples. Of the same shape.
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
