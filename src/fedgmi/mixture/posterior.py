"""The E-step: responsibilities of components for rows, and each client's proportions.

Everything here takes *log evidence* ℓ [R, K] in nats, row by row and up to a constant per row. It may come from any
source: an ELBO, a closed-form density, a word's posterior, or a calibrated combination of these.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedgmi.data.rows import Rows

PROPORTION_FLOOR = 1e-12
"""No proportion counts as smaller than this where its logarithm is taken."""


@dataclass(frozen=True)
class Posterior:
    """What an E-step returns.

    Attributes:
        proportions: π_i of every client. [C, K]
        responsibilities: r_ik(x) of every row. [R, K]
        log_likelihood: log Σ_k π_ik exp ℓ_k(x) of every row. [R], nats
    """

    proportions: Tensor
    responsibilities: Tensor
    log_likelihood: Tensor


def responsibilities(log_evidence: Tensor, proportions: Tensor, client_index: Tensor) -> tuple[Tensor, Tensor]:
    """The probability that each row came from each component: r_ik(x) ∝ π_ik · exp ℓ_k(x).

    Args:
        log_evidence: ℓ. [R, K], nats
        proportions: π. [C, K]
        client_index: The client of each row, as a number from 0 to C − 1. [R]

    Returns:
        The responsibilities [R, K], and log Σ_k π_ik exp ℓ_k(x) of each row [R]. float64

    >>> r, _ = responsibilities(torch.zeros(1, 2), torch.tensor([[0.25, 0.75]]), torch.tensor([0]))
    >>> [round(value, 6) for value in r[0].tolist()]
    [0.25, 0.75]
    """
    joint = log_evidence.double() + proportions.double().clamp(min=PROPORTION_FLOOR).log()[client_index]
    evidence = joint.logsumexp(1)
    return (joint - evidence[:, None]).exp(), evidence


def e_step(
    log_evidence: Tensor,
    rows: Rows,
    start: Tensor,
    prior: Tensor | None = None,
    *,
    iterations: int = 200,
    tolerance: float = 1e-6,
) -> Posterior:
    """Iterate r_ik(x) ∝ π_ik·exp ℓ_k(x) and π_i = (Σ_x r_i(x) + prior) / (n_i + Σ prior) to their fixed point.

    ℓ is fixed, so this is EM for the proportions alone. Each iteration raises
    Σ_x log Σ_k π_ik exp ℓ_k(x) + Σ_k prior_k log π_ik.

    Args:
        log_evidence: ℓ. [R, K], nats
        rows: The rows that the evidence is about.
        start: Proportions to start from. [C, K]
        prior: Pseudo-rows of each component, usually one row's worth of the pooled proportions. They keep a component
            from being lost for ever. None is plain EM, exactly. [K]
        iterations: At most so many.
        tolerance: Stop once no proportion moves by as much.

    Returns:
        The proportions at the end, and responsibilities and likelihood under them.
    """
    prior = torch.zeros(log_evidence.shape[1]) if prior is None else prior
    prior = prior.double().to(log_evidence.device)
    counts = rows.counts.double()[:, None]
    proportions = start.double()
    for _ in range(iterations):
        resp, _ = responsibilities(log_evidence, proportions, rows.client_index)
        updated = (rows.sum_by_client(resp) + prior) / (counts + prior.sum())
        moved = (updated - proportions).abs().max()
        proportions = updated
        if moved < tolerance:
            break
    resp, likelihood = responsibilities(log_evidence, proportions, rows.client_index)
    return Posterior(proportions, resp, likelihood)


def uniform(n_clients: int, n_components: int) -> Tensor:
    """Proportions of clients about which nothing is known: 1/K each.

    Args:
        n_clients: C.
        n_components: K.

    Returns:
        The proportions. [C, K], float64

    >>> uniform(1, 4).tolist()
    [[0.25, 0.25, 0.25, 0.25]]
    """
    return torch.full((n_clients, n_components), 1.0 / n_components, dtype=torch.float64)
