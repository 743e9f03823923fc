"""Control charts whose false alarms do not depend on the model: sequential ranks, batch statistics, CUSUM, run length.

A row is reduced to a score, and the score to its place among all scores before it. While rows are exchangeable (nothing
changed, whatever their law and however wrong the model) these places, ties broken by chance, are independent and
uniform: *exactly*, and together (Vovk, Gammerman & Shafer 2005, on-line conformal p-values; Bhattacharya & Frierson
1981 for charts). A batch's places become one number Z ~ N(0, 1), again exactly, and the CUSUM of Z (Page 1954) has a
known average run length to a false alarm.
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
"""What a CUSUM takes off every batch: half the shift, in standard deviations of Z, that it finds soonest."""
DRAWS = 2000
"""Random subsets that a block of rows is compared with."""
BLOCK = 25  # rows compared with random subsets, or with each other, at once
SMALLEST = 1e-12  # of probabilities, so that Φ⁻¹ stays finite
NODES = 64  # of the Gauss-Legendre rule


@dataclass(frozen=True)
class Pool:
    """All scores seen so far, in bounded memory: `values` [M] ascending, `counts` [2M+1] of gap, value, gap, …, gap.

    Up to CAPACITY values every gap is empty. After that new scores are counted where they fall and the cells stay as
    they are. The ranks remain exact: given the order of the scores before it, a new one lands in a cell with a
    probability known from the counts alone, and its place inside the cell is uniform. What is lost is resolution.
    """

    values: Array = field(default_factory=lambda: np.zeros(0))
    counts: Counts = field(default_factory=lambda: np.zeros(1, dtype=np.int64))

    def __len__(self) -> int:
        return int(self.counts.sum())

    def with_cells_for(self, scores: Array) -> Pool:
        """The same scores, with a cell for each of these values too, while there is room for them."""
        if self.counts[::2].any() or len(self.values) + len(scores) > CAPACITY:
            return self
        values = np.union1d(self.values, scores)
        counts = np.zeros(2 * len(values) + 1, dtype=np.int64)
        counts[2 * np.searchsorted(values, self.values) + 1] = self.counts[1::2]
        return Pool(values, counts)

    def cells(self, scores: Array) -> Counts:
        """The index into `counts` of each score's cell. [n]"""
        left, right = (np.searchsorted(self.values, scores, side) for side in ("left", "right"))
        return (left + right).astype(np.int64)


def sequential_ranks(pool: Pool, scores: Array, noise: Array) -> tuple[Array, Pool]:
    """u_t = (#{s < t: score_s < score_t} + V_t·(1 + #{s < t: score_s = score_t})) / t, and the pool with these rows.

    scores [n] in order of arrival · noise [n] uniform on [0, 1) (V) → u [n] in (0, 1), small for low scores. Exactly
    independent and uniform under exchangeability of all scores that went through the pool.

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
    """Z = Σ_t Φ⁻¹(u_t) / √n ~ N(0, 1): for scores without many ties. ranks [n] → Z; 0 for no rows."""
    return float(stats.norm.ppf(ranks).sum() / math.sqrt(max(len(ranks), 1)))


def random_subsets(size: int, n: int, rng: np.random.Generator) -> Counts:
    """DRAWS uniformly random subsets of n of the numbers 0..size−1 (Bentley & Floyd 1987). [n, DRAWS]"""
    last = np.arange(size - n, size)
    chosen = rng.integers(0, last[:, None] + 1, size=(n, DRAWS))
    for i in range(1, n):
        chosen[i, (chosen[:i] == chosen[i]).any(0)] = last[i]
    return chosen


def level_statistics(counts: Counts, levels: Counts, rng: np.random.Generator) -> tuple[Array, Counts]:
    """Z [K] ~ N(0, 1): does the sum of the batch's levels stand out among random subsets of all rows so far?

    counts [K, LEVELS+1]: how often each level was seen before · levels [n, K] of the batch → Z [K], large where levels
    rose, and the counts with these rows. Under exchangeability the batch is a random subset of itself and all rows
    before, so its place among DRAWS such subsets, ties broken by chance, is exactly uniform, and independent of
    earlier batches' (their places depend on the order inside what is now one set). Long batches are taken in blocks,
    Z = Σ_j Z_j / √J, which also lets Z grow beyond what DRAWS can tell.
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
    """The threshold at which `n_charts` CUSUMs together alarm falsely once in `run_length` batches, on average.

    Rates of false alarms add up (exactly for the two sides of one statistic, Kemp 1961), so each chart's own run length
    is n_charts times as long. Charts that rise together make the real run length longer than asked for.

    >>> round(threshold_for(335.4 / 2, n_charts=2), 2)
    4.0
    """
    target = run_length * n_charts
    return float(optimize.brentq(lambda h: math.log(average_run_length(h, allowance) / target), 1e-6, 30.0))
