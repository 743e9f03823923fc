"""Gates that are often exactly 0 or 1, and through which gradients pass (Louizos et al. 2018, arXiv 1712.01312).

s = σ((log u − log(1 − u) + a)/β),  z = min(1, max(0, s·(ζ − γ) + γ))      u uniform, a the gate's location
π = P(z > 0) = σ(a − β·log(−γ/ζ))
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

BETA, LOW, HIGH = 2.0 / 3.0, -0.1, 1.1
"""β, γ and ζ, the paper's."""
SHIFT = BETA * math.log(-LOW / HIGH)
LEAST = 1e-3
"""A share of open gates is held so far from 0 and 1, so that its location is finite."""


def stretched(s: Tensor) -> Tensor:
    """s in (0, 1) → z in [0, 1], with a part of it exactly 0, and a part exactly 1."""
    return (s * (HIGH - LOW) + LOW).clamp(0.0, 1.0)


def drawn(location: Tensor, u: Tensor) -> Tensor:
    """Gates from uniform draws.

    Args:
        location: a. [J, P]
        u: In (0, 1). [J, P]

    Returns:
        z. [J, P]
    """
    return stretched(((u.log() - (-u).log1p() + location) / BETA).sigmoid())


def typical(location: Tensor) -> Tensor:
    """The gates with which a trained model predicts: those at the middle of their draws, without β, as in the paper."""
    return stretched(location.sigmoid())


def open_share(location: Tensor) -> Tensor:
    """π.

    Examples:
        >>> round(float(open_share(location_of(torch.tensor(0.3)))), 4)
        0.3
    """
    return (location - SHIFT).sigmoid()


def location_of(share: Tensor) -> Tensor:
    """a, of a share π of open gates; of one too near to 0 or 1, that of the nearest allowed."""
    return share.clamp(LEAST, 1.0 - LEAST).logit() + SHIFT


def uniform_draws(seeds: Tensor, size: int) -> Tensor:
    """Draws that depend on one number each.

    Args:
        seeds: Normal draws, whose bits seed. [J], float32
        size: P.

    Returns:
        In (0, 1). [J, P], float32
    """
    rows = []
    for seed in seeds.detach().cpu().float().view(torch.int32).tolist():
        draws = torch.Generator().manual_seed(seed & 0xFFFFFFFF)
        rows.append(torch.rand(size, generator=draws).clamp(1e-6, 1.0 - 1e-6))
    return torch.stack(rows).to(seeds.device)
