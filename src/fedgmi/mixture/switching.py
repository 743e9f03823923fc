"""Whether a gate is worth more than proportions: by the labels of rows that no model has seen.

A gate r(x) and the proportions π_i predict the label y of a row by the same experts:

    T(r) = Σ_i Σ_x log Σ_k r_ik(x)·p_k(y | x)

A gate that x tells nothing is as good on rows that have changed places within their client. So it is of use where T(r)
is above T(π), and above T of nearly all such permutations (a Monte Carlo permutation test: Phipson & Smyth 2010).
Log likelihoods add up over clients, and so do those of permutations that are drawn client by client.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.mixture.posterior import PROPORTION_FLOOR, responsibilities
from fedgmi.randomness import numpy_generator


def likelihoods(
    log_evidence: Tensor, log_labels: Tensor, proportions: Tensor, rows: Rows, permutations: int, seed: int
) -> Tensor:
    """T of the gate, of the proportions, and of the gate on rows that have changed places.

    Args:
        log_evidence: What x says of components. [R, K], nats
        log_labels: log p_k(y | x) of each row's label. [R, K], nats
        proportions: π. [C, K]
        rows: The rows.
        permutations: B, how many.
        seed: Of the permutations, which are drawn by (seed, client).

    Returns:
        Sums that may be added up over clients. [2 + B], float64, nats
    """
    labels = log_labels.double()
    gate = responsibilities(log_evidence, proportions, rows.client_index)[0].clamp(min=PROPORTION_FLOOR).log()
    plain = proportions.double().clamp(min=PROPORTION_FLOOR).log()[rows.client_index]
    found = [(one + labels).logsumexp(1).sum() for one in (gate, plain)]
    places = _places(rows, permutations, seed).to(gate.device)
    return torch.stack([*found, *((gate[place] + labels).logsumexp(1).sum() for place in places)])


def _places(rows: Rows, permutations: int, seed: int) -> Tensor:
    """Where each row's gate comes from in each permutation, within its client. [B, R]"""
    parts, first = [torch.zeros(permutations, 0, dtype=torch.long)], 0
    for client, n in zip(rows.ids, rows.counts.tolist(), strict=True):
        order = numpy_generator(seed, "switch", client).random((permutations, n)).argsort(1)
        parts.append(first + torch.from_numpy(order))
        first += n
    return torch.cat(parts, 1)


def better(sums: Tensor, size: float) -> bool:
    """Whether the gate is better than proportions, and than permutations at a test's size.

    Args:
        sums: What `likelihoods` returns, added up over clients. [2 + B]
        size: How often a gate that x tells nothing may pass.

    Returns:
        Whether it is of use.

    Examples:
        >>> permuted = torch.full((19,), -3.0)
        >>> better(torch.tensor([-1.0, -2.0, *permuted]), 0.05), better(torch.tensor([-1.0, -0.5, *permuted]), 0.05)
        (True, False)
    """
    gate, plain, permuted = sums[0], sums[1], sums[2:]
    p = (1 + int((permuted >= gate).sum())) / (1 + len(permuted))
    return bool(gate > plain) and p <= size
