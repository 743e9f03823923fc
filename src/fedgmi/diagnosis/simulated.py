"""Federations that look like the one at hand once they are fitted, and whose proportions are known.

What a fit says of topics and proportions is not what they are. From few rows it finds topics further apart than the
true ones, and clients that differ more. And it finds much the same for every member of the family that `family`
describes. So federations are drawn from topics drawn together by a factor γ, with clients of precision s around the
mean, for members drawn at random, and refitted. Those γ and s are kept with which refitted topics are as separated, and
refitted clients as spread, as in the fit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedgmi.diagnosis.family import Family
from fedgmi.mixture.matching import match_components, reorder
from fedgmi.mixture.resampling import resample
from fedgmi.mixture.scatter import effective
from fedgmi.mixture.topics import SMOOTHING, Topics, fold_in, plsa_of_many

NEAREST, FARTHEST = 0.1, 1.1
"""γ, from topics a tenth as far apart as the fitted ones to a little farther apart. See `signal`."""
SPREAD, ALIKE = 0.1, 40.0
"""Precisions: from a tenth of what the fitted clients' spread says, or 1, to that of clients nearly alike."""
CANDIDATES = 4000
"""Pairs of γ and s that are chosen from."""
TOLERANCE = 1.5
"""By how much the variance of what a refit finds is exceeded, because its mean is estimated."""
LEAST = 1e-9
"""No logarithm is taken of less."""
MIN_MEAN = 1e-3
"""No component has a smaller mean share."""


@dataclass(frozen=True)
class Draws:
    """n proposals. member: [n] · together: log γ [n] · precision: log s [n]"""

    member: Tensor
    together: Tensor
    precision: Tensor

    def chosen(self, which: Tensor) -> Draws:
        """Some of them."""
        return Draws(self.member[which], self.together[which], self.precision[which])


@dataclass(frozen=True)
class Simulated:
    """Simulated federations.

    Attributes:
        true: Proportions that clients were drawn with. [n, C, K]
        found: What the fit says of them. [n, C, K]
        far: Squared distance of the fit from that of the data, in deviations. [n]
    """

    true: Tensor
    found: Tensor
    far: Tensor


def simulate(
    totals: Tensor,
    proportions: Tensor,
    topics: Tensor,
    family: Family,
    n: tuple[int, int],
    rho: float,
    signal: float,
    rng: np.random.Generator,
) -> Simulated:
    """Federations that look like the fit.

    Args:
        totals: Rows of each client. [C]
        proportions: As fitted. [C, K]
        topics: p(w | k) as fitted. [K, W]
        family: Members to draw from.
        n: How many federations to learn γ and s from, and how many to return.
        rho: How much clients scatter on their own.
        signal: The share of what clients differ by along fitted directions that is no chance. γ is that or more.
        rng: Where the draws come from.

    Returns:
        Federations.
    """
    seen = looks(proportions[None], topics[None])[0]
    pilots = propose(family, n[0], signal, rng)
    surface = _features(pilots, family)
    looked = looks(*_refit(totals, family, pilots, rho, rng)[1:])
    weights = torch.linalg.lstsq(surface, looked, driver="gelsd").solution
    residual = looked - surface @ weights
    seen = seen.clamp(looked.min(0).values, looked.max(0).values)  # where the surface is known
    covariance = residual.T @ residual / max(len(looked) - surface.shape[1], 1) * TOLERANCE
    root = torch.linalg.cholesky(covariance + 1e-6 * torch.eye(len(covariance), dtype=torch.float64))

    def distance(found: Tensor) -> Tensor:
        apart: Tensor = torch.linalg.solve_triangular(root, (found - seen).T, upper=False)
        return apart.square().sum(0)

    candidates = propose(family, CANDIDATES, signal, rng)
    log_weights = -distance(_features(candidates, family) @ weights) / 2
    kept = rng.choice(CANDIDATES, n[1], p=log_weights.softmax(0).numpy())
    true, found, words = _refit(totals, family, candidates.chosen(torch.from_numpy(kept)), rho, rng)
    return Simulated(true, found, distance(looks(found, words)))


def simulate_of_rows(totals: Tensor, fitted: Topics, n: int, rho: float, rng: np.random.Generator) -> Simulated:
    """Federations where rows decide what topics are: no share is anybody's to choose, and no refit moves topics.

    Topics are known as well as their rows are many: each federation's are p_k ~ Dirichlet(T_k).

    Args:
        totals: Rows of each client. [C]
        fitted: Topics and proportions.
        n: How many federations.
        rho: How much clients scatter on their own.
        rng: Where the draws come from.

    Returns:
        Federations, all as near to the fit.
    """
    counts, proportions, pairs = fitted.counts.double().cpu(), fitted.proportions.double().cpu(), []
    pooled = (counts.sum(0) / counts.sum()).expand(len(totals), -1)
    mean = proportions.mean(0).clamp(min=MIN_MEAN)
    parameters = (mean / mean.sum() * precision(proportions).exp()).numpy()
    for _ in range(n):
        true = torch.from_numpy(rng.dirichlet(parameters, len(totals)))
        topics = torch.from_numpy(np.stack([rng.dirichlet(column) for column in (counts.T + SMOOTHING).numpy()]))
        draw = resample(true @ topics, totals, 1, rng, rho=rho)[0]
        pairs.append((true, fold_in(effective(draw, rho), counts, pooled, None)[0]))
    true, found = (torch.stack(some) for some in zip(*pairs, strict=True))
    return Simulated(true, found, torch.zeros(n, dtype=torch.float64))


def looks(proportions: Tensor, topics: Tensor) -> Tensor:
    """How far topics are apart and how much clients differ, as logarithms.

    Separation: Σ_k m_k Σ_w (p_kw − p̄_w)²/p̄_w, with the mean proportions m and words p̄. Spread: Σ_k Var_i π_ik.

    Args:
        proportions: [n, C, K]
        topics: [n, K, W]

    Returns:
        [n, 2]
    """
    mean = proportions.mean(1)
    words = mean[:, None] @ topics
    apart = (mean[:, :, None] * (topics - words).square() / words.clamp(min=LEAST)).sum((1, 2))
    return torch.stack([apart, proportions.var(1, correction=0).sum(1)], 1).clamp(min=LEAST).log()


def precision(proportions: Tensor) -> Tensor:
    """log s of the Dirichlet law with the mean and the variance of these proportions.

    Σ_k Var π_k = (1 − Σ_k m_k²)/(s + 1) with means m and parameters s·m.

    Args:
        proportions: [..., C, K]

    Returns:
        [...]

    >>> precision(torch.tensor([[0.5, 0.5], [0.25, 0.75], [0.75, 0.25]])).exp().round().item()
    5.0
    """
    mean, spread = proportions.mean(-2), proportions.var(-2, correction=0).sum(-1)
    return ((1 - mean.square().sum(-1)) / spread.clamp(min=MIN_MEAN) - 1).clamp(min=0.1).log()


def propose(family: Family, n: int, signal: float, rng: np.random.Generator) -> Draws:
    """Members, γ and s at random: logarithms are uniform, s upwards from what the member's spread says."""
    member = torch.from_numpy(rng.integers(0, len(family.given), n))
    low = (precision(family.proportions)[member] + float(np.log(SPREAD))).clamp(max=0.0)
    high = (low + 1).clamp(min=float(np.log(ALIKE)))
    together = torch.from_numpy(rng.uniform(np.log(max(signal, NEAREST)), np.log(FARTHEST), n))
    return Draws(member, together, low + (high - low) * torch.from_numpy(rng.random(n)))


def _features(draws: Draws, family: Family) -> Tensor:
    """What a quadratic surface over γ, s and Σg is made of. [n, 7]"""
    a, b, c = draws.together, draws.precision, family.given.sum(1)[draws.member]
    return torch.stack([torch.ones_like(a), a, b, c, a * a, b * b, a * b], 1)


def _refit(
    totals: Tensor, family: Family, draws: Draws, rho: float, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Drawn proportions, and proportions [n, C, K] and topics [n, K, W] as a fit finds them."""
    mean = family.proportions.mean(1).clamp(min=MIN_MEAN)[draws.member]
    topics = family.topics[draws.member]
    words = (mean / mean.sum(1, keepdim=True))[:, None] @ topics
    topics = (words + draws.together.exp()[:, None, None] * (topics - words)).clamp(min=0.0)
    topics = topics / topics.sum(-1, keepdim=True)
    parameters = (mean * draws.precision.exp()[:, None]).numpy()
    true = torch.from_numpy(np.stack([rng.dirichlet(some, size=len(totals)) for some in parameters]))
    counts = [resample(pi @ p, totals, 1, rng, rho=rho)[0] for pi, p in zip(true, topics, strict=True)]
    found, learnt = plsa_of_many(effective(torch.stack(counts), rho), true.shape[-1])
    orders = [match_components(pi, drawn) for pi, drawn in zip(found, true, strict=True)]
    found = torch.stack([reorder(pi, order) for pi, order in zip(found, orders, strict=True)])
    return true, found, torch.stack([reorder(p, order, dim=0) for p, order in zip(learnt, orders, strict=True)])
