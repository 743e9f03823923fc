"""One client watched over time: what its rows are scored by, and the charts that the scores go through.

Functions take a state and return a new one. Each component has a chart of responsibilities: has the share of k risen?
Two charts are of the fit: are rows less likely under their own component than its earlier rows were, or more? (A
density can find plain, odd rows likelier than any it has seen: Nalisnick et al. 2019.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from fedgmi.drift.charts import (
    ALLOWANCE,
    LEVELS,
    Array,
    Counts,
    Pool,
    level_statistics,
    normal_statistic,
    sequential_ranks,
)
from fedgmi.mixture.posterior import responsibilities

EVENNESS = 0.1
"""This much of the proportions that rows are scored by is even. So a component that the client never had counts too."""
LONGEST = 500
"""A change is looked for in at most so many last batches."""
DOUBT = 2.58
"""A mean fit beyond so many standard deviations is no longer as it was. By chance it is in half a percent of cases."""
LOWEST = -1e300
"""Stands for log 0, for JSON has no infinity."""


@dataclass(frozen=True)
class Scores:
    """What rows are reduced to.

    Attributes:
        levels: Responsibilities in steps of 1/LEVELS. J is K, or 0 where they say nothing. [n, J]
        component: Drawn from the responsibilities. [n]
        log_prob: Of the row under that component. [n], nats
    """

    levels: Counts
    component: Counts
    log_prob: Array


@dataclass(frozen=True)
class Watch:
    """What was seen of a client, and its charts.

    Attributes:
        levels: How often each level was seen. [J, LEVELS + 1]
        fits: Log densities that were seen, a pool for each of the K components.
        cusum: [J + 2]
        path: Z of the last batches since all CUSUMs were 0, LONGEST at most. [T, J + 2]
    """

    levels: Counts
    fits: tuple[Pool, ...]
    cusum: Array
    path: Array

    @property
    def seen(self) -> int:
        """Rows so far."""
        return sum(len(pool) for pool in self.fits)

    @property
    def charts(self) -> list[str]:
        """Names of the charts, in the order of `cusum`."""
        return [f"component {k}" for k in range(len(self.levels))] + ["fit, low", "fit, high"]

    def restarted(self) -> Watch:
        """The same rows behind it, with charts at zero."""
        return Watch(self.levels, self.fits, np.zeros_like(self.cusum), self.path[:0])


def new_watch(n_components: int, *, proportions: bool) -> Watch:
    """A watch that has seen nothing.

    Args:
        n_components: K.
        proportions: Whether responsibilities say anything, so that there are charts for them.
    """
    n_levels = n_components if proportions else 0
    levels = np.zeros((n_levels, LEVELS + 1), np.int64)
    return Watch(levels, (Pool(),) * n_components, np.zeros(n_levels + 2), np.zeros((0, n_levels + 2)))


def score(watch: Watch, log_ratios: Array, log_prob: Array, weights: Array, rng: np.random.Generator) -> Scores:
    """Scores of rows: r_k(x) ∝ π̃_k·exp(log ratio), with π̃ the client's proportions and a tenth of even ones.

    The fit is that under *one* component, drawn from r(x). Among rows so drawn, the law of log p_k(x) is that of
    component k and does not answer to proportions (label-conditional ranks, Vovk et al. 2005).

    Args:
        watch: Which says whether responsibilities count.
        log_ratios: [n, K], nats
        log_prob: [n, K], nats
        weights: The client's proportions. [K]
        rng: Where the draws come from.

    Returns:
        The scores.
    """
    n_components = len(weights)
    even = (1 - EVENNESS) * weights + EVENNESS / n_components
    logs, client_index = torch.from_numpy(log_ratios), torch.zeros(len(log_ratios), dtype=torch.long)
    resp = responsibilities(logs, torch.from_numpy(even)[None], client_index)[0].numpy()
    component = (resp.cumsum(1) < rng.random((len(resp), 1))).sum(1).clip(max=n_components - 1)
    levels = np.rint(LEVELS * resp[:, : len(watch.levels)]).astype(np.int64)
    return Scores(levels, component, np.maximum(log_prob[np.arange(len(resp)), component], LOWEST))


def learn(watch: Watch, scores: Scores, rng: np.random.Generator) -> Watch:
    """The watch after rows that are as rows should be: later ones are compared with them.

    Args:
        watch: Before these rows.
        scores: Of the rows.
        rng: For ties.
    """
    counts = [np.bincount(column, minlength=LEVELS + 1) for column in scores.levels.T]
    levels = watch.levels + np.reshape(counts, watch.levels.shape)
    return Watch(levels, _rank_fits(watch, scores, rng)[1], watch.cusum, watch.path)


def chart(watch: Watch, scores: Scores, rng: np.random.Generator) -> Watch:
    """S ← max(0, S + Z − ALLOWANCE) for every chart. The rows join those that later ones are compared with.

    Args:
        watch: Before these rows.
        scores: Of the rows.
        rng: For ties and random subsets.
    """
    ranks, fits = _rank_fits(watch, scores, rng)
    fit = normal_statistic(ranks)
    levels, risen = watch.levels, np.zeros(0)
    if len(levels):
        risen, levels = level_statistics(levels, scores.levels, rng)
    z = np.concatenate([risen, [-fit, fit]])
    cusum = np.maximum(0.0, watch.cusum + z - ALLOWANCE)
    path = np.concatenate([watch.path, z[None]])[-LONGEST:] if cusum.any() else watch.path[:0]
    return Watch(levels, fits, cusum, path)


def watch_fit(watch: Watch, scores: Scores, rng: np.random.Generator) -> Watch:
    """After proportions have moved: do rows still fit? The path goes on with Z = 0 for proportions.

    Args:
        watch: Before these rows.
        scores: Of the rows.
        rng: For ties.
    """
    ranks, fits = _rank_fits(watch, scores, rng)
    z = np.zeros((1, len(watch.cusum)))
    z[0, -2:] = -normal_statistic(ranks), normal_statistic(ranks)
    return replace(watch, fits=fits, path=np.concatenate([watch.path, z])[-LONGEST:])


def alarm(watch: Watch, threshold: float) -> tuple[int, int] | None:
    """Whether a CUSUM is above the threshold, and which chart is to blame.

    Args:
        watch: After a batch.
        threshold: Of every CUSUM.

    Returns:
        The chart, and how many batches ago it began to rise, at least 1. None where no CUSUM is above.
    """
    above = np.flatnonzero(watch.cusum > threshold)
    if not len(above):
        return None
    fits = above[above >= len(watch.levels)]
    highest = fits if len(fits) else above
    cause = int(highest[watch.cusum[highest].argmax()])
    since = _changed_for(watch.path[:, cause])
    doubt = None if len(fits) else misfit(watch, since)
    return (cause, since) if doubt is None else (doubt, _changed_for(watch.path[:, doubt]))


def misfit(watch: Watch, since: int) -> int | None:
    """The chart of the fit that has risen beyond DOUBT over the last batches.

    Rows that do not fit have responsibilities that mean nothing, and these move all the same. So proportions are blamed
    only where the fit is as it was.

    Args:
        watch: After a batch.
        since: How many batches to look back.

    Returns:
        The chart, None where neither has risen so far.
    """
    fit = watch.path[-since:, -2:].sum(0) / np.sqrt(min(since, len(watch.path)))
    return len(watch.levels) + int(fit.argmax()) if fit.max() > DOUBT else None


def _changed_for(z: Array) -> int:
    """m ≥ 1: the mean of the last m of these normal numbers [T] has changed, most likely; argmax Σ_{last m} Z / √m.

    The maximum-likelihood change point for a shift of unknown size (Hinkley 1970). The last time that the CUSUM was 0
    is too early for all but small shifts.
    """
    sums = z[::-1].cumsum()
    return 1 + int((sums / np.sqrt(np.arange(1, len(sums) + 1))).argmax())


def _rank_fits(watch: Watch, scores: Scores, rng: np.random.Generator) -> tuple[Array, tuple[Pool, ...]]:
    """Each row's rank among earlier rows of its component [n], in any order, and the pools with these rows."""
    noise = rng.random(len(scores.component))
    parts = [
        sequential_ranks(pool, scores.log_prob[scores.component == k], noise[scores.component == k])
        for k, pool in enumerate(watch.fits)
    ]
    return np.concatenate([ranks for ranks, _ in parts]), tuple(pool for _, pool in parts)


def to_dict(watch: Watch) -> dict[str, Any]:
    """The watch as JSON values: counts and log densities, no rows."""
    fits = [{"values": pool.values.tolist(), "counts": pool.counts.tolist()} for pool in watch.fits]
    return {
        "levels": watch.levels.tolist(),
        "fits": fits,
        "cusum": watch.cusum.tolist(),
        "path": watch.path.tolist(),
    }


def from_dict(data: Mapping[str, Any]) -> Watch:
    """The watch that `to_dict` described."""
    levels = np.array(data["levels"], np.int64).reshape(-1, LEVELS + 1)
    fits = tuple(Pool(np.array(fit["values"], float), np.array(fit["counts"], np.int64)) for fit in data["fits"])
    path = np.array(data["path"], float).reshape(-1, len(data["cusum"]))
    return Watch(levels, fits, np.array(data["cusum"], float), path)
