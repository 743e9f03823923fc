"""Which mixture is it? Counts of words leave a family open; rows choose from it where they show the components.

Co-occurrence of words fixes components up to P = (π A⁻¹)(A p). The sketch starts at the most extreme clients, so it
takes the purest client for pure. Where components are clusters of rows, rows know better: components are then as far
apart as clusters are, however mixed the clients (mutual irreducibility, Blanchard & Scott 2014).

But clusters need not be components: pictures form clusters of strokes, and nothing in the rows says that clients differ
by something else. The counts do. Topics made of clusters, p_k(w), must explain how clients' words differ as well as
topics that are free, for the clients' words lie in the span of the true topics, and a wrong topic lies outside.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedgmi.mixture.information import contrasts
from fedgmi.mixture.pseudo_rows import Family, draw_points, fit_clusters
from fedgmi.mixture.rare_words import merge_words
from fedgmi.mixture.scatter import effective, energies, standardised
from fedgmi.mixture.topics import Topics, fold_in, word_log_probs

FAMILIES = (Family(4.0, True), Family(None, True), Family(4.0, False), Family(None, False))
"""What clusters may look like. The first comes first where counts do not tell."""
TELLING = 1.0
"""Nats by which counts prefer a later family."""
DEVIATIONS = 4.0
"""So many standard deviations of chance may topics of clusters be worse than free ones."""
TOLERANCE = 0.05
"""Of what free topics explain: so much may they miss beyond chance. No cluster is exactly a t."""
POWER = 0.25
"""Of what free topics explain: if more may be missed, for all that the counts tell, rows do not decide."""
FEWEST = 3
"""Clients for each component: with fewer, any topics explain them."""
FEWEST_HOLDERS = 1.5
"""A cluster that one client alone has is that client, and no component of a federation."""
APART = 0.5
"""The contrast (`information.contrasts`) of words from which on clusters are there to be seen. Two Gaussians in four
dimensions have .30 to .45 at a distance of 1 or 1.5 deviations, .42 to .50 at 2, and .61 or more at 3. Where they are
nearer, fits follow chance."""
STEPS = 100
"""Of EM for proportions, where topics stand; twice as many where both are free."""
TINY = 1e-300
"""No number is divided by less."""


@dataclass(frozen=True)
class Cells:
    """What the server knows of rows.

    Attributes:
        centres: Of the codebook's cells. [J, d]
        covariance: Of all rows, where the cells are. [d, d]
        counts: Exact counts of raw words: of cell 0 with every label, of cell 1, and so on. [C, W]
        word_map: Where each word goes when rare ones back off. [W]
    """

    centres: Tensor
    covariance: Tensor
    counts: Tensor
    word_map: Tensor

    def held(self) -> Cells:
        """The same where merged words that nobody holds are left out, as in a diagnosis."""
        some = merge_words(self.counts, self.word_map).any(0)
        place = (some.cumsum(0) - 1).clamp(min=0)  # of raw words without rows it does not matter
        return replace(self, word_map=place[self.word_map])


def topics_of_rows(cells: Cells, fitted: Topics, shown: int, rho: float, seed: int) -> Topics | None:
    """Topics of the clusters that rows form, where the counts do not speak against these being the components.

    Clusters are K of a family. p_k(w) is their share of a word's rows, T_wk = Σ_i h_iw·r_ik(w). With these topics as
    they are, clients' words have the likelihood L(p) = max_π Σ_iw h_iw log Σ_k π_ik p_k(w); free topics have L. Were p
    true, L − L(p) would be half a χ² with f = (K − 1)(W − 1 − K) degrees of freedom: of mean f/2 and variance f/2 =:
    s². Let M = L − L(p) − f/2 be what p misses beyond chance, and E = L − L₀ − f/2 what free topics explain, where L₀
    is the likelihood of clients who are alike. Rows decide where

        M ≤ max(4s, 0.05·E)    and    M + 4s ≤ 0.25·E.

    The second asks for power: where hardly anything would be missed, no topics could be refuted. Clusters must also lie
    apart (`contrast`), clients differ by all K topics (`all_vary`), and there must be three for each component.

    Args:
        cells: What the server knows of rows.
        fitted: The free topics of these counts, and where the search for clusters starts.
        shown: K̂, how many components the counts show. With more than K, clusters of rows are not those asked for.
        rho: ρ̂, how much clients scatter on their own.
        seed: Of the points that stand for rows.

    Returns:
        Topics and proportions; None where the counts are to decide.
    """
    n_components = fitted.counts.shape[1]
    rows = cells.counts.double()
    counts = effective(rows, rho)
    merged = merge_words(counts, cells.word_map)
    held = int((merged.sum(0) > 0).sum())
    freedom = (n_components - 1) * (held - 1 - n_components)
    if freedom < 1 or shown > n_components or len(rows) < FEWEST * n_components:
        return None
    chance = math.sqrt(freedom / 2)
    free_topics = word_log_probs(fitted.counts).exp().T
    _, free = free_fit(merged, free_topics, fitted.proportions)
    pooled = merged.sum(0) / merged.sum()
    explains = free - float(torch.xlogy(merged, pooled.expand_as(merged)).sum()) - freedom / 2
    if DEVIATIONS * chance > POWER * explains:
        return None
    best, least = None, math.inf
    for topics in candidates(cells, counts, fitted, seed):
        missed = max(free, topics.log_likelihood) - topics.log_likelihood
        if missed < least - TELLING:
            best, least = topics, missed
    assert best is not None
    if not stands(least - freedom / 2, chance, explains) or contrast(best.counts) < APART:
        return None
    _, freed = free_fit(merged, word_log_probs(best.counts).exp().T, best.proportions)
    missed = max(free, freed) - best.log_likelihood - freedom / 2
    explains += max(freed - free, 0.0)
    if not stands(missed, chance, explains) or not all_vary(merged, best) or holders(merged, best) < FEWEST_HOLDERS:
        return None
    share = (best.counts.sum(0) / best.counts.sum()).expand(len(merged), -1)
    _, own = fold_in(merged, best.counts, share, None)
    return replace(best, proportions=fold_in(merged, best.counts, share, own)[0])  # as clients infer them


def holders(counts: Tensor, topics: Topics) -> float:
    """Of how many clients the rows of the component are that fewest have: min_k (Σ_i m_ik)²/Σ_i m_ik², m_ik = n_i·π_ik.

    Args:
        counts: Of clients' words. [C, W]
        topics: With proportions.
    """
    mass = counts.sum(1, keepdim=True) * topics.proportions
    return float((mass.sum(0).square() / mass.square().sum(0).clamp(min=TINY)).min())


def contrast(counts: Tensor) -> float:
    """How well words tell the two likest topics apart, from 0 to 1; see `information.contrasts`.

    Args:
        counts: Pooled rows by word and topic. [W, K]

    >>> contrast(torch.eye(2).double()), round(contrast(torch.ones(3, 2).double()), 9)
    (1.0, 0.0)
    """
    resp = counts / counts.sum(1, keepdim=True).clamp(min=TINY)
    return float(contrasts(resp.T @ counts)[0])


def stands(missed: float, chance: float, explains: float) -> bool:
    """Whether the counts leave rows to decide.

    Args:
        missed: M. Nats
        chance: s.
        explains: E. Nats
    """
    return missed <= max(DEVIATIONS * chance, TOLERANCE * explains) and missed + DEVIATIONS * chance <= POWER * explains


def candidates(cells: Cells, counts: Tensor, fitted: Topics, seed: int) -> Iterator[Topics]:
    """Topics of the clusters of each family, with the best proportions for them. Counts are `effective`. [C, W]"""
    n_clients, n_cells = len(counts), len(cells.centres)
    by_cell = counts.reshape(n_clients, n_cells, -1)
    in_cell = by_cell.sum(2)
    used = in_cell.sum(0) > 0
    points = draw_points(cells.centres[used].double(), in_cell[:, used].sum(0), cells.covariance, seed)
    resp = (fitted.counts / fitted.counts.sum(1, keepdim=True).clamp(min=TINY))[cells.word_map]  # of raw words. [W, K]
    start = (counts.sum(0)[:, None] * resp).reshape(n_cells, -1, resp.shape[1]).sum(1)[used]
    start = start / start.sum(1, keepdim=True)
    for family in FAMILIES:
        found = fit_clusters(points, in_cell[:, used], start, fitted.proportions, family)
        topics = torch.einsum("cjl,cjk->jlk", by_cell[:, used], found.responsibilities)
        raw = topics.new_zeros(n_cells, *topics.shape[1:])
        raw[used] = topics
        merged = topics.new_zeros(fitted.counts.shape)
        merged.index_add_(0, cells.word_map, raw.flatten(0, 1))
        yield best_proportions(merge_words(counts, cells.word_map), merged, found.proportions)


def all_vary(counts: Tensor, topics: Topics) -> bool:
    """Whether clients differ by all K topics: the smallest of K − 1 directions of clients by topics is no chance.

    Where a cluster is cut in two, its parts have the same shares in all clients, and the table's rank is less than
    K − 1. The energy of the smallest direction is then χ² with C − K + 1 degrees of freedom.

    Args:
        counts: h. [C, W]
        topics: Of clusters.
    """
    (_, n_topics), freedom = topics.proportions.shape, len(counts) - topics.counts.shape[1] + 1
    share = topics.counts / topics.counts.sum(1, keepdim=True).clamp(min=TINY)
    smallest = float(energies(standardised(counts @ share))[n_topics - 2])
    return smallest > freedom + DEVIATIONS * math.sqrt(2 * freedom)


def best_proportions(counts: Tensor, topics: Tensor, start: Tensor) -> Topics:
    """max_π L(π, p) by EM, which is concave.

    Args:
        counts: h. [C, W]
        topics: T. [W, K]
        start: π to start from. [C, K]

    Returns:
        The topics with these proportions.
    """
    probs, proportions = word_log_probs(topics).exp().T, floored(start)
    totals = counts.sum(1, keepdim=True).clamp(min=TINY)
    for _ in range(STEPS):
        proportions = proportions * ((counts / (proportions @ probs).clamp(min=TINY)) @ probs.T) / totals
    return Topics(proportions, topics, float(torch.xlogy(counts, proportions @ probs).sum()))


def free_fit(counts: Tensor, probs: Tensor, proportions: Tensor) -> tuple[Tensor, float]:
    """max_{π, p} L(π, p) by EM, from a start.

    Args:
        counts: h. [C, W]
        probs: p to start from. [K, W]
        proportions: π to start from. [C, K]

    Returns:
        p [K, W], and L in nats.
    """
    totals, proportions = counts.sum(1, keepdim=True).clamp(min=TINY), floored(proportions)
    for _ in range(2 * STEPS):
        ratio = counts / (proportions @ probs).clamp(min=TINY)
        proportions, probs = proportions * (ratio @ probs.T) / totals, probs * (proportions.T @ ratio)
        probs = probs / probs.sum(1, keepdim=True).clamp(min=TINY)
    return probs, float(torch.xlogy(counts, proportions @ probs).sum())


def floored(proportions: Tensor) -> Tensor:
    """Proportions from which EM may go anywhere. [C, K]"""
    kept = proportions.clamp(min=1e-3)
    return kept / kept.sum(1, keepdim=True)
