"""Differential privacy for a client's word counts: the geometric mechanism, and what its noise does to a sketch.

Every count goes out as h + z with P(z) ∝ exp(−ε·|z|) on the whole numbers, the discrete Laplace law (Ghosh, Roughgarden
& Sundararajan 2012). A row that is added or removed changes one count by one (L1 sensitivity 1). So no histogram that
may go out is more than e^ε times as likely with the row as without it. A row that is *replaced* changes two counts, and
is protected at 2ε. docs/privacy.md says what is protected, and what is not.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor


def release(counts: Tensor, epsilon: float, sources: Sequence[random.Random]) -> Tensor:
    """Each client's counts with noise of its own on every count, empty ones included.

    Args:
        counts: [C, W], int64
        epsilon: ε of the mechanism.
        sources: Where each client's randomness comes from. Whoever can repeat its draws can take the noise off again.

    Returns:
        Noisy counts, which may be negative. [C, W], int64
    """
    noise = [[geometric_noise(epsilon, source) for _ in range(counts.shape[1])] for source in sources]
    return counts + torch.tensor(noise, dtype=torch.int64, device=counts.device).reshape(counts.shape)


def geometric_noise(epsilon: float, source: random.Random) -> int:
    """One draw z with P(z) = tanh(ε/2)·exp(−ε·|z|), exactly, for ε as it is written in decimals.

    Whole numbers only (Canonne, Kamath & Steinke 2020, algorithms 1 and 2). An inverse distribution function in
    floating point would round the tail off, and values that rounding makes impossible tell counts apart (Mironov 2012).

    Args:
        epsilon: ε of the mechanism.
        source: Where the randomness comes from.

    Returns:
        A whole number.

    >>> from fedgmi.randomness import KeyedBits
    >>> [geometric_noise(1.0, KeyedBits(seed)) for seed in range(8)]
    [1, -4, 0, 0, 1, 0, 0, 0]
    """
    rate = Fraction(repr(float(epsilon)))
    while True:
        low = source.randrange(rate.denominator)
        if not _exponential_coin(low, rate.denominator, source):
            continue
        high = 0
        while _exponential_coin(1, 1, source):
            high += 1
        size = (low + rate.denominator * high) // rate.numerator
        negative = bool(source.getrandbits(1))
        if size or not negative:  # zero has one sign
            return -size if negative else size


def _exponential_coin(numerator: int, denominator: int, source: random.Random) -> bool:
    """True with probability exp(−numerator/denominator), for a ratio γ in [0, 1]: a streak of wins with the chances
    γ, γ/2, γ/3, … has even length."""
    k = 1
    while source.randrange(denominator * k) < numerator:
        k += 1
    return k % 2 == 1


@dataclass(frozen=True)
class Noise:
    """What the coordinator knows of the noise in the counts of merged words.

    Attributes:
        epsilon: ε of the mechanism.
        merged: How many released counts were added up for each word. [W]
    """

    epsilon: float
    merged: Tensor

    @property
    def variance(self) -> Tensor:
        """Variance of the noise in one client's count of each word: 2α/(1 − α)² per released count, α = e^−ε. [W]"""
        return self.merged.double() * noise_variance(self.epsilon)

    @property
    def phantom_rows(self) -> Tensor:
        """Rows that a client without the word seems to have once negative counts are set to zero. [W]

        This is E max(z, 0) = α/(1 − α²) per released count: 0.4 at ε = 1, 5 at ε = 0.1.
        """
        alpha = math.exp(-self.epsilon)
        return self.merged.double() * (alpha / ((1 + alpha) * -math.expm1(-self.epsilon)))

    def draw(self, n: int, n_clients: int, rng: np.random.Generator) -> Tensor:
        """Noise of n federations: to imitate, not to protect.

        A sum of m draws is the difference of two negative binomial ones.

        Args:
            n: How many federations.
            n_clients: C.
            rng: Where the draws come from.

        Returns:
            Whole numbers. [n, C, W], float64
        """
        parameters = self.merged.cpu().numpy(), -math.expm1(-self.epsilon), (n, n_clients, len(self.merged))
        return torch.from_numpy(rng.negative_binomial(*parameters) - rng.negative_binomial(*parameters)).double()


def noise_variance(epsilon: float) -> float:
    """The variance of `geometric_noise`: 2α/(1 − α)² with α = e^−ε, about 2/ε² for small ε.

    Args:
        epsilon: ε of the mechanism.

    Returns:
        The variance, in rows².

    >>> round(noise_variance(1.0), 3), round(noise_variance(0.1), 1)
    (1.841, 199.8)
    """
    return 2 * math.exp(-epsilon) / math.expm1(-epsilon) ** 2
