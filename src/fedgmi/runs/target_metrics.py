"""How good predictions of numbers are, and what can be read off a predicted distribution.

A prediction is a mixture of Gaussians: (log weight, mean, log scale) for each part, one after the other [n, 3·K].
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from fedgmi.models.heads import gaussian_log_lik

Floats: TypeAlias = npt.NDArray[np.float64]
LEVEL = 0.9
"""Of the intervals whose coverage is measured."""
HALVINGS = 60
"""Of the bracket in which a quantile is looked for."""


def split(numbers: Floats) -> tuple[Floats, Floats, Floats]:
    """Weights, means and deviations of the parts. [n, 3·K] → [n, K] each"""
    parts = numbers.reshape(len(numbers), -1, 3)
    return np.exp(parts[..., 0]), parts[..., 1], np.exp(parts[..., 2])


def mean_of(numbers: Floats) -> Floats:
    """The mean of each predicted distribution, Σ_k w_k m_k.

    Examples:
        >>> mean_of(np.array([[np.log(0.25), 0.0, 0.0, np.log(0.75), 4.0, 0.0]])).tolist()
        [3.0]
    """
    weight, mean, _ = split(numbers)
    found: Floats = (weight * mean).sum(1)
    return found


def interval_of(numbers: Floats, level: float = LEVEL) -> Floats:
    """The central interval of each predicted distribution: below it lies (1 − level)/2, and as much above.

    Args:
        numbers: [n, 3·K]
        level: The share inside, between 0 and 1.

    Returns:
        Lower and upper end. [n, 2]

    Examples:
        >>> interval_of(np.array([[0.0, 10.0, 0.0]]), 0.9).round(3).tolist()
        [[8.355, 11.645]]
    """
    weight, mean, deviation = split(numbers)
    ends = []
    for share in ((1 - level) / 2, (1 + level) / 2):
        reach = 40 * deviation.max(1)
        low, high = mean.min(1) - reach, mean.max(1) + reach
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            below = (weight * _below((middle[:, None] - mean) / deviation)).sum(1) < share
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        ends.append((low + high) / 2)
    return np.stack(ends, 1)


def rmse(numbers: Floats, y: Floats) -> float | None:
    """√ mean (y − ŷ)², in the target's units."""
    return math.sqrt(float(np.square(y - mean_of(numbers)).mean()))


def mae(numbers: Floats, y: Floats) -> float | None:
    """Mean |y − ŷ|, in the target's units."""
    return float(np.abs(y - mean_of(numbers)).mean())


def r2(numbers: Floats, y: Floats) -> float | None:
    """1 − Σ(y − ŷ)²/Σ(y − ȳ)², ȳ the mean of these rows; None where all of them have one target."""
    spread = float(np.square(y - y.mean()).sum())
    return 1 - float(np.square(y - mean_of(numbers)).sum()) / spread if spread > 0 else None


def nll(numbers: Floats, y: Floats) -> float | None:
    """The mean of −log p(y | x), nats; p is a density in the target's units."""
    return -float(gaussian_log_lik(torch.from_numpy(numbers), torch.from_numpy(y)).mean())


def coverage(numbers: Floats, y: Floats) -> float | None:
    """The share of rows whose target lies in its 90% interval; 0.9 is right, more and less are not."""
    ends = interval_of(numbers)
    return float(((y >= ends[:, 0]) & (y <= ends[:, 1])).mean())


def _below(z: Floats) -> Floats:
    """Φ(z)."""
    found: Floats = (0.5 * (1 + torch.erf(torch.from_numpy(z) / math.sqrt(2)))).numpy()
    return found
