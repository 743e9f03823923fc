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


def newton_step(weights: Tensor, sums: Tree, floor: float = FLOOR) -> Tensor:
    """The weights on the simplex that maximise the quadratic model of the log likelihood around some weights.

    By multiplicative ascent, on the server alone: at ω the model's gradient is 2g − Hω, g and H a row's.

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
    return new


def with_doubt(weights: Tensor, sums: Tree, n: int) -> Tree:
    """The sums of `newton_step` with one more row, of which the first n candidates alone know anything.

    So the others have to make all rows together more than a nat likelier before they count for anything.

    Args:
        weights: [M]
        sums: See `newton_step`.
        n: How many come first.

    Returns:
        The sums.

    Examples:
        >>> half, none = torch.tensor([0.5, 0.5]), {"gradient": torch.zeros(2), "curvature": torch.zeros(2, 2)}
        >>> newton_step(half, with_doubt(half, none | {"rows": torch.tensor(0)}, 1)).argmax()
        tensor(0)
    """
    ratio = torch.zeros_like(weights)
    ratio[:n] = 1.0 / weights[:n].sum()
    more = {"gradient": ratio, "curvature": torch.outer(ratio, ratio), "rows": ratio.new_ones(())}
    return {name: sums[name] + more[name] for name in more}


def only_first(weights: Tensor, n: int) -> Tensor:
    """The weights of the first n candidates, brought to sum 1. [n]"""
    first = weights[:n].clamp(min=FLOOR)
    return first / first.sum()


def prior_weights(weights: Tensor, counts: Tensor, strength: float = STRENGTH) -> Tensor:
    """The pooled weights, the own net's times n/(n + s), the rest to the shared candidates.

    Args:
        weights: Pooled; the own net's is the last. [M]
        counts: The rows that each client trains on. [C]
        strength: s, rows.

    Returns:
        [C, M]
    """
    trust = (counts.double() / (counts.double() + strength)).to(weights.device)[:, None]
    own = trust * weights[-1]
    return torch.cat([only_first(weights, len(weights) - 1) * (1.0 - own), own], 1)


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
