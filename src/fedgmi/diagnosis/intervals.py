"""How well the proportions are known: an interval for each, and how near the clients come to the corners."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fedgmi.mixture.matching import match_components, reorder
from fedgmi.mixture.resampling import resample
from fedgmi.mixture.scatter import effective, scatter_beside
from fedgmi.mixture.topics import SMOOTHING, Topics, fit_topics, fold_in, word_log_probs
from fedgmi.randomness import numpy_generator

ANCHOR_SHARE = 0.95
"""A word is a component's own where the component holds this share of its rows, or more."""
PILOTS = 6
"""Federations from which the spread of the true proportions is learnt."""
FEDERATIONS = 20, 100
"""Federations that are simulated, at least and at most. Errors of the topics are common to all clients of one."""
SIMULATED_CLIENTS = 2400
"""Clients that are simulated, as far as FEDERATIONS allows."""
NEIGHBOURS = 100
"""Simulated clients that an interval is made from."""
SIZE_UNIT = 0.5
"""A difference in log n that counts as much as a standard deviation of the estimates."""
MIN_PRECISION = 0.05
"""The smallest sum of Dirichlet parameters."""


def proportion_intervals(
    histograms: Tensor, fitted: Topics, seed: int, *, level: float = 0.9, rows_decide: bool = False
) -> Tensor:
    """Intervals for the proportions π_ik that each client's rows were *drawn* with.

    Federations are simulated. π* ~ Dirichlet is fitted to all clients' estimates, words are drawn from the fitted
    topics with the clients' own scatter ρ̂ (`mixture.scatter`), and the estimates π̂* come from refitting topics and all.
    Among simulated clients whose estimate π̂*_k and number of rows are nearest to client i's, the quantiles of π*_k −
    π̂*_k say how far the truth lies from such an estimate. This is an empirical Bayes interval (Morris 1983), computed
    as in approximate Bayes (Beaumont et al. 2002). It holds what rows and scatter leave open, the topics' error and the
    estimator's bias, and it keeps to [0, 1].

    Args:
        histograms: Counts. [C, W]
        fitted: Topics and proportions of these counts, `effective` beside their scatter.
        seed: Of the simulations.
        level: The share of intervals that should hold the truth, as an average over clients.
        rows_decide: Whether topics are those of clusters that rows form.

    Returns:
        Lower and upper ends. [C, K, 2], float64
    """
    n_clients, n_components = fitted.proportions.shape
    if n_components == 1:
        return torch.ones(n_clients, 1, 2, dtype=torch.float64)
    totals, estimate = histograms.sum(1).cpu(), fitted.proportions.cpu()
    rho = scatter_beside(histograms.cpu(), n_components)
    drawn = partial(simulate_of_rows if rows_decide else simulate, totals, fitted, rho=rho)
    true, found = drawn(PILOTS, numpy_generator(seed, "intervals", "pilot"))
    overspread = _spread(found) / _spread(true)
    n = min(max(math.ceil(SIMULATED_CLIENTS / n_clients), FEDERATIONS[0]), FEDERATIONS[1])
    true, found = drawn(n, numpy_generator(seed, "intervals"), overspread=overspread)
    sizes = totals.clamp(min=1.0).log()
    limits = _nearest_quantiles(estimate, sizes, true.flatten(0, 1), found.flatten(0, 1), sizes.repeat(n), level)
    return limits.clamp(0.0, 1.0)


def population(proportions: Tensor, *, overspread: float = 1.0) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Dirichlet parameters with the mean of these proportions, and their variance over `overspread`.

    Σ_k Var π_k = (1 − Σ_k m_k²) / (s + 1) with means m and parameters s·m.

    Args:
        proportions: [C, K]
        overspread: How many times as much estimates vary as the truth does.

    Returns:
        Parameters. [K]

    >>> population(torch.tensor([[0.5, 0.5], [0.25, 0.75], [0.75, 0.25]])).round(6).tolist()
    [1.5, 1.5]
    """
    mean = proportions.double().mean(0)
    spread = float(proportions.double().var(0).sum()) / overspread if len(proportions) > 1 else 0.0
    precision = float(1 - (mean * mean).sum()) / max(spread, 1e-6) - 1
    return np.asarray(mean.numpy() * max(precision, MIN_PRECISION), dtype=np.float64)


def simulate(
    totals: Tensor, fitted: Topics, n: int, rng: np.random.Generator, *, rho: float = 0.0, overspread: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Proportions of simulated federations with these rows per client and the fitted topics.

    What every client holds of a component, b_k = min_i π̂_ik, may as well belong to all components. Proportions (π −
    λb)/(1 − λ Σb) and topics (1 − λ Σb)·p_k + λ Σ_j b_j·p_j give every client the same words. So λ is drawn uniformly
    from [0, 1]. Refits begin at the corners, as the fit does. From the truth they would not move where the likelihood
    is flat.

    Args:
        totals: Rows of each client. [C]
        fitted: Topics and proportions.
        n: How many federations.
        rng: Where the draws come from.
        rho: How much clients scatter on their own.
        overspread: How many times as much estimates vary as the truth does.

    Returns:
        True and estimated proportions. [n, C, K] each
    """
    probs, estimate, pairs = word_log_probs(fitted.counts.cpu()).exp(), fitted.proportions.cpu(), []
    slack = estimate.min(0).values
    for _ in range(n):
        given = rng.random() * slack
        kept = 1 - given.sum()
        true = torch.from_numpy(
            rng.dirichlet(population((estimate - given) / kept, overspread=overspread), len(totals))
        )
        draw = resample((true * kept + given) @ probs.T, totals, 1, rng, rho=rho)[0]
        found = fit_topics(effective(draw, rho), true.shape[1], seed=0, restarts=0).proportions
        found = reorder(found, match_components(found, true))
        pairs.append((true, found))
    return torch.stack([true for true, _ in pairs]), torch.stack([found for _, found in pairs])


def simulate_of_rows(
    totals: Tensor, fitted: Topics, n: int, rng: np.random.Generator, *, rho: float = 0.0, overspread: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The same where rows decide what topics are: no share is anybody's to choose, and no refit moves topics.

    Topics are known as well as their rows are many: each federation's are p_k ~ Dirichlet(T_k).

    Args:
        totals: Rows of each client. [C]
        fitted: Topics and proportions.
        n: How many federations.
        rng: Where the draws come from.
        rho: How much clients scatter on their own.
        overspread: How many times as much estimates vary as the truth does.

    Returns:
        True and estimated proportions. [n, C, K] each
    """
    counts, pairs = fitted.counts.cpu(), []
    pooled = (counts.sum(0) / counts.sum()).expand(len(totals), -1)
    precision = population(fitted.proportions.cpu(), overspread=overspread)
    for _ in range(n):
        true = torch.from_numpy(rng.dirichlet(precision, len(totals)))
        topics = torch.from_numpy(np.stack([rng.dirichlet(column) for column in (counts.T + SMOOTHING).numpy()]))
        draw = resample(true @ topics, totals, 1, rng, rho=rho)[0]
        pairs.append((true, fold_in(effective(draw, rho), counts, pooled, None)[0]))
    return torch.stack([true for true, _ in pairs]), torch.stack([found for _, found in pairs])


def _spread(proportions: Tensor) -> float:
    """Variance between the clients of a federation, over all components and federations [n, C, K]."""
    return max(float(proportions.var(1, correction=0).sum()), 1e-9)


def _nearest_quantiles(
    estimate: Tensor, sizes: Tensor, true: Tensor, found: Tensor, simulated_sizes: Tensor, level: float
) -> Tensor:
    """[C, K, 2]: the estimate plus quantiles of true − found [M, K] among the simulated clients nearest to it."""
    spread = found.std(0).clamp(min=1e-6)
    n_nearest = min(NEIGHBOURS, len(found))
    ranks = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64) * (n_nearest + 1)
    places = ((ranks - 1) / max(n_nearest - 1, 1)).clamp(0.0, 1.0)  # so that a new draw is inside as often as it says
    limits = []
    for pi, size in zip(estimate, sizes, strict=True):
        distance = ((found - pi) / spread).square() + ((simulated_sizes - size) / SIZE_UNIT).square()[:, None]
        nearest = distance.topk(n_nearest, dim=0, largest=False).indices  # [M', K]
        error = true.gather(0, nearest) - found.gather(0, nearest)
        limits.append((pi + error.quantile(places, dim=0)).T)
    return torch.stack(limits)


def purest(proportions: Tensor) -> Tensor:
    """max_i π_ik: how near the purest client comes to each corner.

    Args:
        proportions: [C, K]

    Returns:
        [K]
    """
    return proportions.max(0).values


def anchor_mass(counts: Tensor) -> Tensor:
    """The share of each component's rows in words of which at least 95% of the rows are its own.

    Anchor words (Arora et al. 2013) fix a corner even where no client is pure.

    Args:
        counts: Pooled rows by word and topic. [W, K]

    Returns:
        [K]

    >>> anchor_mass(torch.tensor([[10.0, 0.0], [10.0, 20.0]])).tolist()
    [0.5, 0.0]
    """
    own = counts / counts.sum(1, keepdim=True).clamp(min=1e-12)
    return (counts * (own >= ANCHOR_SHARE)).sum(0) / counts.sum(0).clamp(min=1e-12)
