"""How well the proportions are known: an interval for each, and how near the clients come to the corners."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from fedgmi.diagnosis.family import members
from fedgmi.diagnosis.simulated import Simulated, simulate, simulate_of_rows
from fedgmi.mixture.scatter import TINY, effective, energies, scatter_beside, standardised
from fedgmi.mixture.spectrum import alone
from fedgmi.mixture.topics import Topics
from fedgmi.randomness import numpy_generator

ANCHOR_SHARE = 0.95
"""A word is a component's own where the component holds this share of its rows, or more."""
PILOTS = 20, 60
"""Federations from which the truth's place is learnt, at least and at most."""
FEDERATIONS = 20, 100
"""Federations that are simulated, at least and at most. Errors of the topics are common to all clients of one."""
SIMULATED_CLIENTS = 2400
"""Clients that are simulated, as far as FEDERATIONS allows."""
MEMBERS = 200
"""Members of the family that words leave open."""
NEIGHBOURS = 100
"""Simulated clients that an interval is made from."""
ESTIMATE_UNIT = 1 / 3
"""A difference of estimates, in deviations of all of them, that counts one."""
SIZE_UNIT = 0.5
"""A difference in log n that counts one."""
FAR_WEIGHT = 0.3
"""What a federation's squared distance counts."""


def proportion_intervals(
    histograms: Tensor,
    fitted: Topics,
    seed: int,
    *,
    level: float = 0.9,
    pooled: bool = False,
    rows_decide: bool = False,
) -> Tensor:
    """Intervals for the proportions π_ik that each client's rows were *drawn* with.

    Federations are simulated that look like the fit once they are fitted themselves: from members of the family that
    words leave open (`family`), with topics drawn together and clients spread so that refits find what the fit found
    (`simulated`), and with the clients' own scatter ρ̂ (`mixture.scatter`). Among simulated clients whose estimate
    π̂*_k and number of rows are nearest to client i's, the quantiles of π*_k − π̂*_k say how far the truth lies from
    such an estimate. This is an empirical Bayes interval (Morris 1983), computed as in approximate Bayes (Beaumont et
    al. 2002). It holds what rows and scatter leave open, the topics' error, the estimator's bias and the width of the
    identified set, and it keeps to [0, 1].

    Args:
        histograms: Counts. [C, W]
        fitted: Topics and proportions of these counts, `effective` beside their scatter.
        seed: Of the simulations.
        level: The share of intervals that should hold the truth, as an average over clients.
        pooled: Every client has the pooled proportions, because words do not tell components apart. All intervals are
            then one: quantiles of all shares that simulated clients have, whatever is found of them.
        rows_decide: Whether topics are those of clusters that rows form. Words then leave no family of them open.

    Returns:
        Lower and upper ends. [C, K, 2], float64
    """
    n_clients, n_components = fitted.proportions.shape
    if n_components == 1:
        return torch.ones(n_clients, 1, 2, dtype=torch.float64)
    counts, estimate = histograms.double().cpu(), fitted.proportions.double().cpu()
    topics = fitted.counts.double().cpu().T
    rho, rng = scatter_beside(counts, n_components), numpy_generator(seed, "intervals")
    totals = counts.sum(1)
    n_federations = min(max(math.ceil(SIMULATED_CLIENTS / n_clients), FEDERATIONS[0]), FEDERATIONS[1])
    if rows_decide:
        drawn = simulate_of_rows(totals, fitted, n_federations, rho, rng)
        return _nearest_quantiles(estimate, totals.clamp(min=1.0).log(), drawn, level).clamp(0.0, 1.0)
    signal = share_of_signal(counts, n_components, rho, rng)
    family = members(effective(counts, rho), fitted, MEMBERS, rng)
    n = min(max(math.ceil(SIMULATED_CLIENTS / 2 / n_clients), PILOTS[0]), PILOTS[1]), n_federations
    drawn = simulate(totals, estimate, topics / topics.sum(1, keepdim=True), family, n, rho, signal, rng)
    if pooled:
        ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
        return drawn.true.flatten().quantile(ends).expand(n_clients, n_components, 2)
    return _nearest_quantiles(estimate, totals.clamp(min=1.0).log(), drawn, level).clamp(0.0, 1.0)


def share_of_signal(histograms: Tensor, n_components: int, rho: float, rng: np.random.Generator) -> float:
    """1 − Σ_{j<K} ν_j²/Σ_{j<K} s_j², with ν the singular values of clients that differ by chance and own scatter alone.

    Args:
        histograms: Counts. [C, W]
        n_components: K.
        rho: ρ̂.
        rng: Where the draws come from.

    Returns:
        From 0 to 1.
    """
    held = histograms[histograms.sum(1) > 0]
    chance = alone(held, rho, rng, None).square()[: n_components - 1].sum()
    seen = energies(standardised(held, rho=rho))[: n_components - 1].sum()
    return float((1 - chance / seen.clamp(min=TINY)).clamp(0.0, 1.0))


def _nearest_quantiles(estimate: Tensor, sizes: Tensor, drawn: Simulated, level: float) -> Tensor:
    """[C, K, 2]: the estimate plus quantiles of true − found among the simulated clients nearest to it."""
    true, found, far = drawn.true.flatten(0, 1), drawn.found.flatten(0, 1), drawn.far.repeat_interleave(len(sizes))
    simulated_sizes = sizes.repeat(len(drawn.true))
    spread = ESTIMATE_UNIT * found.std(0).clamp(min=1e-6)
    n_nearest = min(NEIGHBOURS, len(found))
    ranks = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64) * (n_nearest + 1)
    places = ((ranks - 1) / max(n_nearest - 1, 1)).clamp(0.0, 1.0)  # so that a new draw is inside as often as it says
    limits = []
    for pi, size in zip(estimate, sizes, strict=True):
        beside = ((simulated_sizes - size) / SIZE_UNIT).square() + FAR_WEIGHT * far
        distance = ((found - pi) / spread).square() + beside[:, None]
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
