"""Histograms drawn afresh from a model of them: the raw material of a parametric bootstrap."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from fedgmi.mixture.scatter import LEAST
from fedgmi.mixture.topics import Topics, word_log_probs

AT_ONCE = 2**22
"""Counts that are worked on at once, for the sake of memory."""


def in_parts(draws: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """A function of some federations' counts, taken of many, a part at a time.

    Args:
        draws: Counts. [n, C, W]
        function: Of counts [m, C, W], with m values.

    Returns:
        Its values. [n, ...]
    """
    at_once = max(1, AT_ONCE // draws[0].numel())
    return torch.cat([function(draws[start : start + at_once]) for start in range(0, len(draws), at_once)])


def word_probs(fitted: Topics) -> Tensor:
    """Σ_k π_ik·p(w | k): the fitted distribution of each client's words.

    Args:
        fitted: Topics and proportions.

    Returns:
        Probabilities. Each row sums to one. [C, W]
    """
    return fitted.proportions @ word_log_probs(fitted.counts).exp().T


def resample(probs: Tensor, totals: Tensor, n: int, rng: np.random.Generator, *, rho: float = 0.0) -> Tensor:
    """Histograms of n federations in which client i draws totals_i words from P_i ~ Dirichlet((1/ρ − 1)·probs_i).

    Args:
        probs: The mean distribution of each client's words. [C, W]
        totals: How many words each client draws. [C]
        n: How many federations.
        rng: Where the draws come from.
        rho: How much clients scatter on their own (`scatter`). 0: P_i = probs_i.

    Returns:
        Counts. [n, C, W], float64

    >>> draws = resample(torch.tensor([[0.5, 0.5], [0.0, 1.0]]), torch.tensor([4, 3]), 2, np.random.default_rng(0))
    >>> draws.sum(-1).tolist(), draws[:, 1].tolist()
    ([[4.0, 3.0], [4.0, 3.0]], [[0.0, 3.0], [0.0, 3.0]])
    """
    at_once = max(1, AT_ONCE // probs.numel())
    if n > at_once:
        parts = (min(at_once, n - start) for start in range(0, n, at_once))
        return torch.cat([resample(probs, totals, part, rng, rho=rho) for part in parts])
    rows = np.broadcast_to(probs.double().cpu().numpy(), (n, *probs.shape))
    if rho > LEAST:
        gammas = rng.standard_gamma((1 / rho - 1) * rows)
        rows = np.where(gammas.sum(-1, keepdims=True) > 0, gammas, rows)  # all too small to be told from 0
    rows = rows / np.maximum(rows.sum(-1, keepdims=True), 1e-300)
    rows[..., -1] = np.maximum(0.0, 1.0 - rows[..., :-1].sum(-1))  # what rounding left over: NumPy checks the sum
    drawn = rng.multinomial(totals.long().cpu().numpy(), rows)
    return torch.from_numpy(drawn).double()
