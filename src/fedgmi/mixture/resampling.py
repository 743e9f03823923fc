"""Histograms drawn afresh from a model of them: the raw material of a parametric bootstrap."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fedgmi.mixture.topics import Topics, word_log_probs


def word_probs(fitted: Topics) -> Tensor:
    """Σ_k π_ik·p(w | k): the fitted distribution of each client's words.

    Args:
        fitted: Topics and proportions.

    Returns:
        Probabilities. Each row sums to one. [C, W]
    """
    return fitted.proportions @ word_log_probs(fitted.counts).exp().T


def resample(probs: Tensor, totals: Tensor, n: int, rng: np.random.Generator) -> Tensor:
    """Histograms of n federations in which client i draws totals_i words from probs_i.

    Args:
        probs: The distribution of each client's words. [C, W]
        totals: How many words each client draws. [C]
        n: How many federations.
        rng: Where the draws come from.

    Returns:
        Counts. [n, C, W], float64

    >>> draws = resample(torch.tensor([[0.5, 0.5], [0.0, 1.0]]), torch.tensor([4, 3]), 2, np.random.default_rng(0))
    >>> draws.sum(-1).tolist(), draws[:, 1].tolist()
    ([[4.0, 3.0], [4.0, 3.0]], [[0.0, 3.0], [0.0, 3.0]])
    """
    rows = probs.double().cpu().numpy()
    rows = rows / np.maximum(rows.sum(1, keepdims=True), 1e-300)
    rows[:, -1] = np.maximum(0.0, 1.0 - rows[:, :-1].sum(1))  # what rounding left over: NumPy checks the sum
    drawn = rng.multinomial(totals.long().cpu().numpy(), rows, size=(n, len(rows)))
    return torch.from_numpy(drawn).double()
