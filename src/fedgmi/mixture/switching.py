"""Whether a gate is worth more than proportions: by the labels of rows that no model has seen.

A gate r(x) and the proportions π_i predict the label y of a row by the same experts:

    T(r) = max_β Σ_i Σ_x log q^β(y | x)/Σ_y' q^β(y' | x)        q(y | x) = Σ_k r_ik(x)·p_k(y | x)

A temperature β comes before the comparison. Experts are surer than they should be, and a gate that picks one of them
would pay for that, where proportions hedge.

A gate that x tells nothing is as good on rows that have changed places within their client. So it is of use where T(r)
is above T(π), and above T of nearly all such permutations (a Monte Carlo permutation test: Phipson & Smyth 2010).
Log likelihoods add up over clients, and so do those of permutations that are drawn client by client.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.mixture.posterior import PROPORTION_FLOOR, responsibilities
from fedgmi.randomness import numpy_generator


def likelihoods(
    log_evidence: Tensor,
    told: Callable[[Tensor], Tensor],
    proportions: Tensor,
    rows: Rows,
    permutations: int,
    seed: int,
) -> Tensor:
    """Log likelihoods under the gate, the proportions, and the gate on rows that have changed places.

    Args:
        log_evidence: What x says of components. [R, K], nats
        told: (log r [R, K]) → log likelihood of the rows' labels at each of T temperatures. [T], nats
        proportions: π. [C, K]
        rows: The rows.
        permutations: B, how many.
        seed: Of the permutations, which are drawn by (seed, client).

    Returns:
        Sums that may be added up over clients. [2 + B, T], float64, nats
    """
    gate = responsibilities(log_evidence, proportions, rows.client_index)[0].clamp(min=PROPORTION_FLOOR).log()
    plain = proportions.double().clamp(min=PROPORTION_FLOOR).log()[rows.client_index]
    places = _places(rows, permutations, seed).to(gate.device)
    return torch.stack([told(gate), told(plain), *(told(gate[place]) for place in places)]).double()


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
        sums: What `likelihoods` returns, added up over clients. [2 + B, T]
        size: How often a gate that x tells nothing may pass.

    Returns:
        Whether it is of use.

    Examples:
        >>> permuted = torch.full((19,), -3.0)
        >>> [better(torch.tensor([-1.0, plain, *permuted])[:, None], 0.05) for plain in (-2.0, -0.5)]
        [True, False]
    """
    best = sums.max(1).values
    gate, plain, permuted = best[0], best[1], best[2:]
    p = (1 + int((permuted >= gate).sum())) / (1 + len(permuted))
    return bool(gate > plain) and p <= size
