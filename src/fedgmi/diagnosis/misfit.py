"""Is it a mixture of K components at all? The misfit of the fitted topics, for the federation and for each client."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from fedgmi.mixture.resampling import resample, word_probs
from fedgmi.mixture.topics import Topics, standardised, word_log_probs
from fedgmi.randomness import numpy_generator

CHUNK = 25  # federations refitted at once
REFIT_STEPS = 50
TINY = 1e-300
NOTHING = 1e-6  # a mean deviance below this is rounding
DOUBTFUL = 0.001, 0.05  # a federation's p-value between these is counted, for here the tail's exact shape decides
COUNTED = 999  # resamples to count from


@dataclass(frozen=True)
class Misfit:
    """How badly the model fits, 1 where it holds: per_dof, p_value of the federation, client_* [C] of each client;
    unfit: the clients that do not fit, after Holm's correction for there being so many of them."""

    per_dof: float
    p_value: float
    client_per_dof: Tensor
    client_p_value: Tensor
    unfit: tuple[int, ...]


def misfit(histograms: Tensor, fitted: Topics, seed: int, *, size: float = 0.01, resamples: int = 100) -> Misfit:
    """Two questions to the counts [C, W], each answered by a parametric bootstrap.

    Do the words fit? The deviance D = Σ_i D_i, D_i = 2 Σ_w h_iw log(h_iw / (n_i Σ_k π_ik p_k(w))).
    Do the clients lie in a simplex? A federation that is no mixture may still lie near a flat of K − 1 dimensions once
    K is large enough; a mixture must lie in a simplex of distributions there. See `excess`.

    Their distributions where the federation is a mixture come from federations drawn from the fitted model and refitted
    like the data, from the same start. Words are many and rows few, so degrees of freedom are not counted but measured:
    D's mean over the resamples. p-values take a statistic for a scaled χ² with the resamples' mean and variance, so
    that 1/1000 needs no 1000 resamples; the federation's is twice the smaller of the two (Bonferroni), and one in doubt
    is counted from 999 resamples: the excess has a longer tail than a χ².
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
        unfit=holm(client_p_value, size),
    )


def null_statistics(fitted: Topics, totals: Tensor, n: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Deviances [n, C] and excesses [n] of federations drawn from the fitted model and refitted."""
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

    >>> float(counted(torch.tensor(3.0), torch.tensor([1.0, 2.0, 4.0])))
    0.5
    """
    return (1.0 + (null >= observed).sum().double()) / (1.0 + len(null))


def refit(histograms: Tensor, start: Topics) -> Tensor:
    """Expected counts [B, C, W] after plain EM (Hofmann 1999) from the start: own rows included, nothing smoothed.

    With matrix products in place of the responsibilities [B, C, W, K]: π_ik ← π_ik·Σ_w R_iw p_k(w) / n_i and
    p_k(w) ∝ p_k(w)·Σ_i R_iw π_ik, where R = h / Σ_k π_ik p_k(w).
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

    [B, C, W] → [B, C]
    """
    return 2 * torch.xlogy(histograms, histograms / expected.clamp(min=TINY)).sum(-1)


def excess(histograms: Tensor, expected: Tensor, n_components: int) -> Tensor:
    """How much worse the mixture does than the best flat of K − 1 dimensions, which need not hold a simplex.

    Σ_iw (h_iw − e_iw)²/(n_i p_w) − Σ_{j ≥ K} s_j², with s the singular values of the standardised counts: what the
    mixture leaves over, less what every matrix of its rank must (Eckart & Young 1936). [B, C, W] → [B]
    """
    leftover = []
    for counts, fitted in zip(histograms, expected, strict=True):
        weights = counts.sum(1, keepdim=True) * counts.sum(0) / counts.sum()
        residual = ((counts - fitted).square() / weights.clamp(min=TINY)).sum()
        leftover.append(residual - torch.linalg.svdvals(standardised(counts))[n_components - 1 :].square().sum())
    return torch.stack(leftover)


def ratio(observed: Tensor, expected: Tensor) -> Tensor:
    """Observed over expected deviance; 1 where no rows say anything."""
    return torch.where(expected > NOTHING, observed / expected.clamp(min=NOTHING), 1.0)


def tail(observed: Tensor, null: Tensor) -> Tensor:
    """P(statistic ≥ observed) [M] for a scaled χ² with the mean and variance of the resamples [B, M]."""
    mean, variance = null.mean(0), null.var(0)
    known = (mean > NOTHING) & (variance > NOTHING**2)
    mean, variance = mean.where(known, 1.0), variance.where(known, 1.0)
    values = stats.chi2.sf((2 * mean / variance * observed).numpy(), (2 * mean**2 / variance).numpy())
    return torch.from_numpy(values).where(known, 1.0)


def holm(p_values: Tensor, size: float) -> tuple[int, ...]:
    """The tests that are rejected so that the chance of one false rejection among all is at most `size` (Holm 1979).

    >>> holm(torch.tensor([0.2, 0.001, 0.004, 0.9]), 0.01)
    (1,)
    """
    order = p_values.argsort()
    passed = p_values[order].double() <= size / torch.arange(len(order), 0, -1, dtype=torch.float64)
    n_rejected = int(passed.long().cumprod(0).sum())
    return tuple(sorted(order[:n_rejected].tolist()))
