"""Control charts whose false alarms do not depend on the model: sequential ranks, batch statistics, CUSUM, run length.

A row is reduced to a score, and the score to its place among all scores before it. Rows are exchangeable as long as
nothing has changed, whatever their law and however wrong the model. Then these places, ties broken by chance, are
independent and uniform, *exactly* and together (Vovk, Gammerman & Shafer 2005, on-line conformal p-values; Bhattacharya
& Frierson 1981 for charts). A batch's places become one number Z ~ N(0, 1), again exactly, and the CUSUM of Z (Page
1954) has a known average run length to a false alarm.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

Array = NDArray[np.float64]
Counts = NDArray[np.int64]

LEVELS = 200
"""Responsibilities are rounded to this many steps before they are ranked."""
CAPACITY = 1000
"""A pool remembers this many scores as they are, and only counts what comes after."""
ALLOWANCE = 0.5
"""What a CUSUM takes off for every batch. It is half the shift, in standard deviations of Z, that is found soonest."""
DRAWS = 2000
"""Random subsets that a block of rows is compared with."""
BLOCK = 25
"""Rows that are compared with random subsets, or with each other, at once."""
SMALLEST = 1e-12
"""No probability counts as smaller, so that Φ⁻¹ stays finite."""
NODES = 64
"""Of the Gauss-Legendre rule."""


@dataclass(frozen=True)
class Pool:
    """All scores seen so far, in bounded memory.

    Up to CAPACITY values every gap is empty. After that, new scores are counted where they fall, and the cells stay as
    they are. The ranks remain exact: given the order of the scores before it, a new one lands in a cell with a
    probability known from the counts alone, and its place inside the cell is uniform. What is lost is resolution.

    Attributes:
        values: Ascending. [M]
        counts: Of gap, value, gap, …, value, gap. [2M + 1]
    """

    values: Array = field(default_factory=lambda: np.zeros(0))
    counts: Counts = field(default_factory=lambda: np.zeros(1, dtype=np.int64))

    def __len__(self) -> int:
        return int(self.counts.sum())

    def with_cells_for(self, scores: Array) -> Pool:
        """The same scores, with a cell for each of these values too, while there is room for them.

        Args:
            scores: New values. [n]
        """
        if self.counts[::2].any() or len(self.values) + len(scores) > CAPACITY:
            return self
        values = np.union1d(self.values, scores)
        counts = np.zeros(2 * len(values) + 1, dtype=np.int64)
        counts[2 * np.searchsorted(values, self.values) + 1] = self.counts[1::2]
        return Pool(values, counts)

    def cells(self, scores: Array) -> Counts:
        """The cell that each score falls into.

        Args:
            scores: [n]

        Returns:
            Places in `counts`. [n]
        """
        left, right = (np.searchsorted(self.values, scores, side) for side in ("left", "right"))
        return (left + right).astype(np.int64)


def sequential_ranks(pool: Pool, scores: Array, noise: Array) -> tuple[Array, Pool]:
    """u_t = (#{s < t: score_s < score_t} + V_t·(1 + #{s < t: score_s = score_t})) / t.

    They are exactly independent and uniform while all scores that went through the pool are exchangeable.

    Args:
        pool: All scores before.
        scores: In order of arrival. [n]
        noise: V, uniform on [0, 1). [n]

    Returns:
        u in (0, 1), small for low scores [n], and the pool with these scores.

    >>> u, pool = sequential_ranks(Pool(), np.array([3.0, 5.0, 1.0, 5.0]), np.full(4, 0.5))
    >>> u.tolist(), len(pool)
    ([0.5, 0.75, 0.16666666666666666, 0.75], 4)
    """
    parts = []
    for start in range(0, len(scores), BLOCK):
        rows = slice(start, start + BLOCK)
        pool = pool.with_cells_for(scores[rows])
        cells = pool.cells(scores[rows])
        below = np.concatenate([[0], np.cumsum(pool.counts)])[cells]
        below += np.tril(cells[:, None] > cells, -1).sum(1)
        tied = pool.counts[cells] + np.tril(cells[:, None] == cells, -1).sum(1)
        place = len(pool) + 1 + np.arange(len(cells))
        parts.append((below + noise[rows] * (1 + tied)) / place)
        pool = Pool(pool.values, pool.counts + np.bincount(cells, minlength=len(pool.counts)))
    return np.concatenate([np.zeros(0), *parts]).clip(SMALLEST, 1 - SMALLEST), pool


def normal_statistic(ranks: Array) -> float:
    """Z = Σ_t Φ⁻¹(u_t) / √n ~ N(0, 1), for scores without many ties.

    Args:
        ranks: u. [n]

    Returns:
        Z, 0 for no ranks.
    """
    return float(stats.norm.ppf(ranks).sum() / math.sqrt(max(len(ranks), 1)))


def random_subsets(size: int, n: int, rng: np.random.Generator) -> Counts:
    """DRAWS uniformly random subsets (Bentley & Floyd 1987).

    Args:
        size: The numbers to choose from are 0 to size − 1.
        n: How many numbers a subset has.
        rng: Where the draws come from.

    Returns:
        A subset in each column. [n, DRAWS]
    """
    last = np.arange(size - n, size)
    chosen = rng.integers(0, last[:, None] + 1, size=(n, DRAWS))
    for i in range(1, n):
        chosen[i, (chosen[:i] == chosen[i]).any(0)] = last[i]
    return chosen


def level_statistics(counts: Counts, levels: Counts, rng: np.random.Generator) -> tuple[Array, Counts]:
    """Z ~ N(0, 1): does the sum of the batch's levels stand out among random subsets of all rows so far?

    Under exchangeability the batch is a random subset of itself and all rows before. So its place among DRAWS such
    subsets, ties broken by chance, is exactly uniform. It is also independent of earlier batches' places, which depend
    on the order inside what is now one set. Long batches are taken in blocks, Z = Σ_j Z_j / √J, which also lets Z grow
    beyond what DRAWS can tell.

    Args:
        counts: How often each level was seen before. [K, LEVELS + 1]
        levels: Of the batch. [n, K]
        rng: Where the draws come from.

    Returns:
        Z, large where levels rose [K], and the counts with these rows.
    """
    parts = []
    for block in np.array_split(levels, max(1, math.ceil(len(levels) / BLOCK))):
        counts = counts + np.stack([np.bincount(column, minlength=LEVELS + 1) for column in block.T])
        subsets = random_subsets(int(counts[0].sum()), len(block), rng)
        sums = np.stack([np.repeat(np.arange(LEVELS + 1), row)[subsets].sum(0) for row in counts], axis=1)
        total = block.sum(0)
        higher, tied = (sums > total).sum(0), (sums == total).sum(0)
        place = (higher + rng.random(len(counts)) * (1 + tied)) / (1 + DRAWS)
        parts.append(stats.norm.isf(place.clip(SMALLEST, 1 - SMALLEST)))
    return np.sum(parts, axis=0) / math.sqrt(len(parts)), counts


def average_run_length(threshold: float, allowance: float = ALLOWANCE) -> float:
    """Mean number of batches until S > threshold, for S ← max(0, S + Z − allowance) from 0 and Z ~ N(0, 1).

    L(s) = 1 + L(0)·Φ(κ − s) + ∫₀ʰ L(v)·φ(v − s + κ) dv (Page 1954), by Gauss-Legendre quadrature.

    Args:
        threshold: h.
        allowance: κ.

    Returns:
        L(0), in batches.

    >>> round(average_run_length(4.0), 1), round(average_run_length(5.0), 1)
    (335.4, 930.9)
    """
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    states = np.concatenate([[0.0], 0.5 * threshold * (nodes + 1)])
    kernel = stats.norm.pdf(states + allowance - states[:, None]) * np.concatenate([[0.0], 0.5 * threshold * weights])
    kernel[:, 0] = stats.norm.cdf(allowance - states)
    return float(np.linalg.solve(np.eye(len(states)) - kernel, np.ones(len(states)))[0])


@functools.cache
def threshold_for(run_length: float, n_charts: int, allowance: float = ALLOWANCE) -> float:
    """The threshold at which several CUSUMs together alarm falsely once in so many batches, on average.

    Rates of false alarms add up (exactly for the two sides of one statistic, Kemp 1961), so each chart's own run length
    is n_charts times as long. Charts that rise together make the real run length longer than the nominal one.

    Args:
        run_length: Batches to a false alarm, on average.
        n_charts: How many CUSUMs.
        allowance: κ.

    Returns:
        The threshold.

    >>> round(threshold_for(335.4 / 2, n_charts=2), 2)
    4.0
    """
    target = run_length * n_charts
    return float(optimize.brentq(lambda h: math.log(average_run_length(h, allowance) / target), 1e-6, 30.0))
