"""Stacking: how much each of M predictors counts, for all clients together and for each of them.

    p_i(y | x) = Σ_m ω_im · q_m(y | x)

Wolpert 1992; Yao et al. 2018, arXiv 1704.02030. A mixture once more, with predictors for components.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.mixture.posterior import responsibilities
from fedgmi.tree import Tree

STRENGTH = 5.0
"""s: so many rows the prior counts."""
LEAST = 1e-9
"""Of a weight or a factor: the least that is told from 0."""
FLOOR = 1e-6
"""The least pooled weight: one at 0 could not come back."""
EM_STEPS = 100
SLOWEST = 0.25
"""Of EM's next weight: a Newton step leaves as much. Where a predictor gives a few rows hardly any probability, the
quadratic model holds near the weights alone, and its maximum can be at a corner from which Newton does not return."""


def newton_step(weights: Tensor, sums: Tree, floor: float = FLOOR) -> Tensor:
    """The weights on the simplex that maximise the quadratic model of the log likelihood around some weights.

    By multiplicative ascent, on the server alone: at ω the model's gradient is 2g − Hω, g and H a row's. No weight
    falls below a quarter of what a step of EM makes of it, ω·g.

    Args:
        weights: [M], positive, with sum 1.
        sums: `gradient` [M], `curvature` [M, M] and `rows`, summed over rows.
        floor: The least weight.

    Returns:
        [M], with sum 1. Without rows: as they were.
    """
    if float(sums["rows"]) == 0:
        return weights
    gradient, curvature = sums["gradient"] / sums["rows"], sums["curvature"] / sums["rows"]
    new = weights
    for _ in range(300):
        new = (new * (2.0 * gradient - curvature @ new).clamp(min=LEAST)).clamp(min=floor)
        new = new / new.sum()
    new = new.maximum(SLOWEST * weights * gradient)
    return new / new.sum()


def with_prior(weights: Tensor, sums: Tree) -> Tree:
    """The sums with those of one more row, which belongs to the shared predictors: a few rows are no proof for nets.

    Args:
        weights: Where the sums were taken; the own net's is the last. [M]
        sums: As for `newton_step`.

    Returns:
        Of the log likelihood plus the mean of log ω_m over the shared predictors.
    """
    share = torch.full_like(weights, 1.0 / (len(weights) - 1))
    share[-1] = 0.0
    return {
        "gradient": sums["gradient"] + share / weights,
        "curvature": sums["curvature"] + torch.diag(share / weights.square()),
        "rows": sums["rows"] + 1.0,
    }


def only_first(weights: Tensor, n: int) -> Tensor:
    """The weights of the first n candidates, brought to sum 1. [n]"""
    first = weights[:n].clamp(min=FLOOR)
    return first / first.sum()


def prior_weights(weights: Tensor, counts: Tensor, n_shared: int, strength: float = STRENGTH) -> Tensor:
    """The pooled weights, those of own nets times n/(n + s), the rest to the shared candidates.

    Args:
        weights: Pooled, shared candidates first. [M]
        counts: The rows that each client trains on. [C]
        n_shared: How many candidates are shared.
        strength: s, rows.

    Returns:
        [C, M]
    """
    trust = (counts.double() / (counts.double() + strength)).to(weights.device)[:, None]
    own = trust * weights[n_shared:]
    return torch.cat([only_first(weights, n_shared) * (1.0 - own.sum(1, keepdim=True)), own], 1)


def own_weights(logs: Tensor, held: Rows, prior: Tensor, strength: float = STRENGTH) -> Tensor:
    """Clients' own weights: the E-step's fixed point under a prior of s rows.

    Args:
        logs: log q̃ of the labels of validation rows. [V, M], nats
        held: These rows, of C clients.
        prior: [C, M]
        strength: s, rows.

    Returns:
        [C, M]
    """
    weights, counts = prior, held.counts.to(prior.device).double()[:, None]
    for _ in range(EM_STEPS):
        resp, _ = responsibilities(logs, weights.clamp(min=LEAST), held.client_index)
        weights = (held.sum_by_client(resp) + strength * prior) / (counts + strength)
    return weights
