"""From client-by-word counts to proportions: corners of a simplex for a start, then pLSA.

P_i is linear in π_i, so a histogram over words is a topic model, in which a client is a document and a component is a
topic (Hofmann 1999). The corners follow the successive projection algorithm (Gillis & Vavasis 2014).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedgmi.mixture.posterior import uniform
from fedgmi.mixture.scatter import standardised
from fedgmi.randomness import generator

SMOOTHING = 0.05
"""Pseudo-rows per word and topic."""
START_FLOOR = 0.02
"""No client starts with less of a component."""
ITERATIONS, WARM_UP = 400, 100
"""Of EM: at most so many, of which each client's own rows count in the first ones."""
RESTARTS = 4
"""Fresh starts beside the plain one, where there are more than two components."""
AT_ONCE = 2**18
"""Counts by topic that are worked on at once, so that they stay in a core's cache."""


@dataclass(frozen=True)
class Topics:
    """A fitted topic model of word counts.

    Attributes:
        proportions: π. [C, K]
        counts: T_wk, how many pooled rows of word w belong to topic k. [W, K]
        log_likelihood: Of all clients' words. Nats
    """

    proportions: Tensor
    counts: Tensor
    log_likelihood: float


def alike(histograms: Tensor, n_components: int) -> Topics:
    """Topics of which each is the pooled words, and clients that have as much of each: π̄ for all.

    Nothing tells such topics apart, so an E-step leaves proportions where they are, and a newcomer's are the same.

    Args:
        histograms: Counts. [C, W]
        n_components: K.

    Returns:
        Topics and proportions.

    >>> alike(torch.tensor([[3.0, 1.0], [1.0, 3.0]]), 2).counts.tolist()
    [[2.0, 2.0], [2.0, 2.0]]
    """
    pooled = histograms.double().sum(0)
    counts = (pooled / n_components)[:, None].repeat(1, n_components)
    seen = pooled[pooled > 0]
    log_likelihood = float((seen * (seen / seen.sum()).log()).sum())
    return Topics(uniform(len(histograms), n_components).to(counts), counts, log_likelihood)


def all_alike(counts: Tensor) -> bool:
    """Whether nothing tells topics apart: those that `alike` makes, and a single one.

    Args:
        counts: Pooled rows by word and topic. [W, K]

    Returns:
        Whether all columns are the same.
    """
    return bool((counts == counts[:, :1]).all())


def clearness(counts: Tensor) -> float:
    """How sure words are of components: the share of rows that come from the likeliest component of their word.

    Args:
        counts: Pooled rows by word and topic. [W, K]

    >>> clearness(torch.tensor([[10.0, 0.0], [3.0, 7.0]]).double())
    0.85
    """
    return float(counts.max(1).values.sum() / counts.sum())


def corners(histograms: Tensor, n_components: int, jitter: torch.Generator | None = None) -> Tensor:
    """A start for EM: each client's barycentric coordinates between the K most extreme clients.

    Clients are points in the K − 1 leading directions of the standardised counts. The successive projection algorithm
    (Gillis & Vavasis 2014) picks the corners.

    Args:
        histograms: Counts, of one federation or many. [..., C, W]
        n_components: K.
        jitter: Weights the directions at random, which picks other corners: a fresh start. None for the plain start.

    Returns:
        Proportions. [..., C, K], float64
    """
    if n_components == 1:
        return torch.ones(*histograms.shape[:-1], 1, dtype=torch.float64, device=histograms.device)
    scaled = standardised(histograms) / histograms.sum(-1, keepdim=True).clamp(min=1.0).sqrt()
    weights = histograms.sum(-1, keepdim=True).sqrt()
    _, _, directions = torch.linalg.svd(scaled * weights, full_matrices=False)
    directions = directions[..., : n_components - 1, :]  # fewer where there are fewer words or clients
    largest = directions.gather(-1, directions.abs().argmax(-1, keepdim=True))
    points = scaled @ (directions * largest.sign()).mT  # the sign does not depend on the order of the clients
    if jitter is not None:
        n_directions = directions.shape[-2]
        mixing = torch.randn(n_directions, n_directions, generator=jitter, dtype=torch.float64)
        seen = points @ mixing.to(points.device)
    else:
        seen = points
    height = seen.norm(dim=-1, keepdim=True).mean(-2, keepdim=True)
    lifted, chosen = torch.cat([seen, height.expand_as(seen[..., :1])], -1), []
    for _ in range(n_components):
        chosen.append(lifted.norm(dim=-1).argmax(-1, keepdim=True))
        axis = _of_clients(lifted, chosen[-1])
        axis = axis / axis.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        lifted = lifted - (lifted @ axis.mT) * axis
    placed = torch.cat([points, torch.ones_like(points[..., :1])], -1)
    solve = torch.linalg.pinv(_of_clients(placed, torch.cat(chosen, -1)))
    start: Tensor = (placed @ solve).clamp(min=START_FLOOR)
    return start / start.sum(-1, keepdim=True)


def _of_clients(values: Tensor, which: Tensor) -> Tensor:
    """The rows of [..., C, D] that belong to these clients [..., M]. [..., M, D]"""
    return values.gather(-2, which[..., None].expand(*which.shape, values.shape[-1]))


def word_log_probs(counts: Tensor, own: Tensor | None = None) -> Tensor:
    """log p(w | k) from topic counts, with or without a client's own rows.

    A word must not be judged on the counts it was fitted to: it looks better than it is.

    Args:
        counts: Pooled rows by word and topic. [W, K]
        own: What each client put into them, to be taken out. [C, W, K]

    Returns:
        [W, K], or with `own` [C, W, K]. Nats
    """
    kept = (counts if own is None else (counts - own).clamp(min=0.0)) + SMOOTHING
    return (kept / kept.sum(-2, keepdim=True)).log()


def fold_in(
    histograms: Tensor,
    counts: Tensor,
    start: Tensor,
    own: Tensor | None,
    *,
    released: Tensor | None = None,
    iterations: int = 100,
) -> tuple[Tensor, Tensor]:
    """Proportions of clients where the topics are given.

    r_ik(w) ∝ π_ik·p_k(w), C_ikw = h_iw·r_ik(w), π_i = (Σ_w C_ikw + π̄)/(n_i + 1). With `own`, the topics are those
    without the client's own rows, and own rows are re-estimated as r moves. Where the topics were fitted to other
    counts than h_i, it is `released` that is taken out of them: C_ikw = released_iw·r_ik(w).

    Args:
        histograms: Counts h of the clients. [C, W]
        counts: Pooled rows by word and topic. [W, K]
        start: Proportions to start from. [C, K]
        own: What each client put into the topic counts. None for clients that had no part in them. [C, W, K]
        released: The counts that the topics were fitted to, where these are not h. [C, W]
        iterations: At most so many.

    Returns:
        Proportions [C, K], and each client's own topic counts [C, W, K].
    """
    went_in = histograms if released is None else released
    pooled = counts.sum(0) / counts.sum()
    totals = histograms.sum(1, keepdim=True)
    fixed = word_log_probs(counts)[None] if own is None else None
    proportions = start
    for _ in range(iterations):
        log_probs = word_log_probs(counts, own) if fixed is None else fixed
        resp = (log_probs + proportions.log()[:, None, :]).softmax(-1)
        share = histograms[:, :, None] * resp
        own = went_in[:, :, None] * resp if fixed is None else None
        updated = (share.sum(1) + pooled) / (totals + 1.0)
        updated = updated / updated.sum(1, keepdim=True)  # rounding: a single component has exactly 1
        done = bool((updated - proportions).abs().max() < 1e-7)
        proportions = updated
        if done:
            break
    return proportions, went_in[:, :, None] * resp


def plsa(
    histograms: Tensor,
    start: Tensor,
    *,
    phantom_rows: Tensor | None = None,
    warm_up: int | None = None,
) -> Topics:
    """Topics by EM from a start. After the warm-up the others' rows alone judge a client.

    With phantom rows b_w, counts have the mean n_i Σ_k π_ik·p_k(w) + b_w. Proportions and p_k are fitted to the real
    part, and n_i is estimated too. The topic counts returned account for all rows: what phantom rows even out in them
    is mostly noise.

    Args:
        histograms: Counts. [C, W]
        start: Proportions to start from. [C, K]
        phantom_rows: Rows that every client seems to have and does not have (`privacy.geometric.Noise`). [W]
        warm_up: Iterations in which each client's own rows count. None: `WARM_UP`.

    Returns:
        Topics and proportions.
    """
    histograms = histograms.double()
    proportions, joint, totals = _iterate(histograms, start, phantom_rows=phantom_rows, warm_up=warm_up, tolerance=1e-6)
    likelihood = joint.sum(0)
    log_likelihood = float((histograms * likelihood.log()).sum())
    if phantom_rows is not None:
        mean = totals[:, None] * likelihood + phantom_rows
        log_likelihood = float((torch.xlogy(histograms, mean) - mean).sum())  # of Poisson counts, for n_i is not known
    share = joint * (histograms / likelihood)
    return Topics(proportions, share.sum(1).T.contiguous(), log_likelihood)


def plsa_of_many(histograms: Tensor, n_components: int, *, tolerance: float = 1e-4) -> tuple[Tensor, Tensor]:
    """The plain fit of many federations at once, as `plsa` from `corners` is the fit of each.

    Args:
        histograms: Counts. [n, C, W]
        n_components: K.
        tolerance: EM ends where no proportion of any federation moves by more.

    Returns:
        Proportions [n, C, K], and topics p(w | k) [n, K, W].

    >>> proportions, topics = plsa_of_many(torch.tensor([[[9.0, 1.0], [1.0, 9.0]]]), 2)
    >>> proportions.shape, topics.sum(-1)
    (torch.Size([1, 2, 2]), tensor([[1., 1.]], dtype=torch.float64))
    """
    histograms = histograms.double()
    at_once, found = max(1, AT_ONCE // (histograms[0].numel() * n_components)), []
    for first in range(0, len(histograms), at_once):
        some = histograms[first : first + at_once]
        proportions, joint, _ = _iterate(some, corners(some, n_components), tolerance=tolerance)
        counts = (joint * (some / joint.sum(-3)).unsqueeze(-3)).sum(-2)
        found.append((proportions, counts / counts.sum(-1, keepdim=True)))
    return torch.cat([proportions for proportions, _ in found]), torch.cat([topics for _, topics in found])


def _iterate(
    histograms: Tensor,
    start: Tensor,
    *,
    phantom_rows: Tensor | None = None,
    warm_up: int | None = None,
    tolerance: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """EM of `plsa`. Proportions [..., C, K], π_ik·p_k(w) as the last E-step had it [..., K, C, W], and n_i [..., C]."""
    proportions = start.double().mT.contiguous()  # [..., K, C]: words last, for speed
    totals = histograms.sum(-1)
    if phantom_rows is not None:
        totals = (totals - phantom_rows.sum()).clamp(min=1.0)
    share = histograms.unsqueeze(-3) * proportions[..., None]  # [..., K, C, W]
    own_rows = WARM_UP if warm_up is None else warm_up
    for step in range(ITERATIONS):
        counts = share.sum(-2, keepdim=True)
        kept = (counts - share if step >= own_rows else counts).clamp(min=0.0) + SMOOTHING
        joint = kept * (proportions / kept.sum(-1))[..., None]
        likelihood = joint.sum(-3)  # [..., C, W]
        if phantom_rows is None:
            share = joint * (histograms / likelihood).unsqueeze(-3)
        else:
            share = joint * (histograms / (likelihood + phantom_rows / totals.clamp(min=1.0)[..., None])).unsqueeze(-3)
            totals = share.sum((-3, -1))
        pooled = counts.sum(-1) / counts.sum((-3, -1))[..., None, :]
        updated = (share.sum(-1) + pooled) / (totals + 1.0).unsqueeze(-2)
        updated = updated / updated.sum(-2, keepdim=True)  # rounding: a single component has exactly 1
        done = step > own_rows and bool((updated - proportions).abs().max() < tolerance)
        proportions = updated
        if done:
            break
    return proportions.mT.contiguous(), joint, totals


def fit_topics(
    histograms: Tensor, n_components: int, seed: int, *, phantom_rows: Tensor | None = None, restarts: int | None = None
) -> Topics:
    """The best of several starts, by the likelihood of each client's words under topics of the others' rows.

    Args:
        histograms: Counts. [C, W]
        n_components: K.
        seed: Of the fresh starts.
        phantom_rows: Rows that every client seems to have and does not have. [W]
        restarts: How many fresh starts beside the plain one; None: `RESTARTS`. With two components or fewer, none.

    Returns:
        Topics and proportions.
    """
    starts = [corners(histograms.double(), n_components)]
    fresh = RESTARTS if restarts is None else restarts
    for restart in range(fresh if n_components > 2 else 0):
        starts.append(corners(histograms.double(), n_components, generator(seed, "corners", restart)))
    fits = [plsa(histograms, start, phantom_rows=phantom_rows) for start in starts]
    return max(fits, key=lambda fit: fit.log_likelihood)
