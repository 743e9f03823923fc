"""What words leave open: which topics and proportions give all clients the same words.

For every g with π'_i = (π_i + g)/(1 + Σg) ≥ 0 and p'_k = (1 + Σg)·p_k − Σ_j g_j·p_j ≥ 0 the distributions of words are
the same, Σ_k π'_ik·p'_k = Σ_k π_ik·p_k. Where g_k > 0, all clients hold more of component k than the fit says, nobody
is pure in another, and topics lie further apart. Where g_k < 0, they hold less, and topics lie nearer together. A fit
begins at the most extreme clients, takes them for pure, and hardly moves on, since the likelihood is flat.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedgmi.mixture.topics import Topics, word_log_probs

LEVEL = 0.99
"""The likelihood contradicts a member that lies outside of its confidence region of this level."""
AXIS = (0.0, 0.01, 0.02, 0.04, 0.07, 0.1, 0.15, 0.2, 0.3, 0.45, 0.7, 1.0)
"""Values of one g_k at which the likelihood is asked. At 1 and K = 2 clients hold half of a component, or more."""
STEPS = 10
"""Where it is asked between the fit and the farthest point of a ray."""
RAYS = 16
"""Directions of g."""
HELD, FREED = 10, 40
"""EM steps with proportions held, so that topics find their place, and after that with both free."""
DEPTH = 0.9
"""How much of what all clients hold may be nobody's. With all of it, clients that are alike would hold nothing."""
UP, DOWN = 3, 1
"""How often g is above and below 0. The fit takes the most extreme clients for pure, so the truth is seldom below."""
ENDS = 0.5
"""Of the Beta law of how far out on its ray a member lies. Below 1 the ends are likelier: the truth may be one."""
NO_ROW = 0.5
"""A topic with fewer rows of a word has none."""
PER_EMPTY = 0.5
"""Nats that a true member may lose for each word that it has no rows of where the fit has some: bounds that hold by
chance half of the time cost χ²₁/2 each, ½ nat in the mean (chi-bar-squared, Self & Liang 1987)."""
CLOSE = 1e-6
"""Topics have no smaller share of a word."""
TINY = 1e-300
"""No number is divided by less: clients without rows have no proportions."""
AT_ONCE = 2**21
"""Counts by member that are worked on at once, for the sake of memory."""


@dataclass(frozen=True)
class Family:
    """Members of the family of a fit.

    Attributes:
        given: g. [n, K]
        proportions: π'. [n, C, K]
        topics: p'(w | k). [n, K, W]
    """

    given: Tensor
    proportions: Tensor
    topics: Tensor


def members(histograms: Tensor, fitted: Topics, n: int, rng: np.random.Generator) -> Family:
    """Members that neither proportions nor the likelihood of words contradict, drawn at random.

    Three in four have g ≥ 0, up to where the likelihood leaves its confidence region, 2·(L(0) − L(g)) > χ²_K(K−1):
    there are K(K − 1) ways to move topics among themselves. The others have g ≤ 0, as far as −0.9·min_i π_ik.

    Args:
        histograms: Counts, `effective` beside the clients' scatter. [C, W]
        fitted: Topics and proportions of these counts.
        n: How many.
        rng: Where the draws come from.

    Returns:
        The members.
    """
    from scipy.special import chdtri  # sites need no SciPy

    n_components = fitted.proportions.shape[1]
    limit = float(chdtri(n_components * (n_components - 1), 1 - LEVEL)) / 2
    along = torch.eye(n_components, dtype=torch.float64)
    axis = reach(histograms, fitted, along, torch.tensor(AXIS, dtype=torch.float64), limit)
    rays = torch.from_numpy(rng.random((RAYS, n_components)))
    rays[0] = 1.0
    rays = rays / rays.max(1, keepdim=True).values
    up = rays * axis.clamp(min=CLOSE)
    up = up * reach(histograms, fitted, up, torch.linspace(0, 1, STEPS + 1, dtype=torch.float64), limit)[:, None]
    down = -DEPTH * rays * fitted.proportions.min(0).values.cpu()
    ends = torch.cat([up] * UP + [down] * DOWN)
    part = torch.from_numpy(rng.beta(ENDS, ENDS, n))[:, None]
    given = part * ends[torch.from_numpy(rng.integers(0, len(ends), n))]
    _, topics = likelihood(histograms, fitted, given)
    return Family(given, moved(fitted.proportions.cpu(), given), topics)


def moved(proportions: Tensor, given: Tensor) -> Tensor:
    """(π + g)/(1 + Σg).

    Args:
        proportions: π. [C, K]
        given: g. [n, K]

    Returns:
        [n, C, K]

    >>> moved(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]])).tolist()
    [[[0.75, 0.25]]]
    """
    return (proportions + given[:, None]) / (1 + given.sum(1))[:, None, None]


def likelihood(histograms: Tensor, fitted: Topics, given: Tensor) -> tuple[Tensor, Tensor]:
    """How likely words are in members of the family, and their topics.

    Sampling errors make topics negative where the true ones are not. So each member is refitted in a few EM steps.
    They hardly move it along the family.

    Args:
        histograms: Counts. [C, W]
        fitted: Topics and proportions.
        given: g. [n, K]

    Returns:
        Log likelihoods [n], nats, and topics [n, K, W].
    """
    histograms, words = histograms.cpu(), word_log_probs(fitted.counts.cpu()).exp().T
    size, found = max(1, AT_ONCE // (words.numel() + histograms.numel())), []
    for start in range(0, len(given), size):
        some = given[start : start + size]
        apart = (1 + some.sum(1))[:, None, None] * words - some[:, None] @ words
        found.append(_refined(histograms, moved(fitted.proportions.cpu(), some), apart))
    return torch.cat([value for value, _ in found]), torch.cat([topics for _, topics in found])


def _refined(histograms: Tensor, proportions: Tensor, topics: Tensor) -> tuple[Tensor, Tensor]:
    """Log likelihoods [n] and topics [n, K, W] after HELD + FREED steps of EM."""
    topics = topics.clamp(min=0.0) + CLOSE
    topics, totals = topics / topics.sum(-1, keepdim=True), histograms.sum(-1)[:, None].clamp(min=CLOSE)
    for step in range(HELD + FREED):
        surprise = histograms / (proportions @ topics).clamp(min=TINY)
        updated = proportions * (surprise @ topics.mT) / totals
        topics = topics * (proportions.mT @ surprise) + CLOSE
        topics = topics / topics.sum(-1, keepdim=True)
        proportions = proportions if step < HELD else updated
    return torch.xlogy(histograms, proportions @ topics).sum((-2, -1)), topics


def reach(histograms: Tensor, fitted: Topics, rays: Tensor, steps: Tensor, limit: float) -> Tensor:
    """How far out on each ray the likelihood has lost no more than `limit`, by interpolation between steps.

    The fit can follow chance below no rows of a word in a topic further apart, and such a topic cannot: this is allowed
    for.

    Args:
        histograms: Counts. [C, W]
        fitted: Topics and proportions.
        rays: Directions of g. [M, K]
        steps: Multiples of the directions to ask at, from 0 on. [S]
        limit: Nats.

    Returns:
        Multiples of the directions. [M]
    """
    values, topics = likelihood(histograms, fitted, (steps[:, None] * rays[:, None]).flatten(0, 1))
    empty = (topics * fitted.counts.cpu().sum(0)[:, None] < NO_ROW).sum((1, 2)).view(len(rays), -1)
    allowed = limit + PER_EMPTY * (empty - empty[:, :1]).clamp(min=0)
    lost = (values.max() - values).view(len(rays), -1) - allowed
    lost[:, 0].clamp_(max=0.0)
    beyond = torch.cat([lost > 0, torch.ones_like(lost[:, :1], dtype=torch.bool)], 1)
    first = beyond.double().argmax(1)  # the first step that is contradicted
    last, next_one = first - 1, first.clamp(max=len(steps) - 1)
    before, after = (lost.gather(1, place[:, None])[:, 0] for place in (last, next_one))
    part = torch.where(first < len(steps), -before / (after - before).clamp(min=1e-12), torch.zeros_like(before))
    return steps[last] + part * (steps[next_one] - steps[last])
