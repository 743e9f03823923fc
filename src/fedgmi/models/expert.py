"""What an expert is: the model of one component's p(y | x)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from fedgmi.models.density import rows_per_chunk


@dataclass(frozen=True)
class Expert:
    """A classifier with flat parameters [P] and L classes, lifted over jobs.

    init(generator) → [P] · logits(params [J, P], x [J, B, *shape]) → [J, B, L] · trunk: of the P parameters the first
    T, the lower layers, which the experts of all components have in common; 0: each has its own · heads(params
    [J, T + K·(P − T)], x [J, B, *shape]) → [J, B, K, L], K experts on their one trunk.
    """

    name: str
    size: int
    n_classes: int
    init: Callable[[torch.Generator], Tensor]
    logits: Callable[[Tensor, Tensor], Tensor]
    heads: Callable[[Tensor, Tensor], Tensor]
    trunk: int = 0
    floats_per_row: int = field(default=4096, repr=False)

    def numbers(self, n_experts: int) -> int:
        """How many parameters n experts have between them, their trunk counted once."""
        return self.trunk + n_experts * (self.size - self.trunk)

    def loss(self, params: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy −log p(y|x) in nats: params [J, P], x [J, B, *shape], y [J, B] → [J, B]."""
        logits = self.logits(params, x)
        return F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").view(y.shape)

    @torch.no_grad()
    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """log p_k(y|x) of every class, no gradient: params [K, P], x [R, *shape] → [R, K, L]."""
        parts = [x.new_zeros(0, len(params), self.n_classes)]
        for rows in torch.split(x, rows_per_chunk(self.floats_per_row * len(params))):
            logits = self.logits(params, rows.expand(len(params), *rows.shape))
            parts.append(logits.log_softmax(-1).transpose(0, 1))
        return torch.cat(parts)


def mixture_log_prob(expert: Expert, params: Tensor, x: Tensor, log_gate: Tensor) -> Tensor:
    """log Σ_k gate_k(x)·p_k(y | x): a mixture of experts.

    Args:
        expert: Of what kind the experts are.
        params: Their parameters. [K, P]
        x: Rows. [R, *shape]
        log_gate: log of how much of each expert a row gets. [R, K], nats

    Returns:
        log p(y | x) of every class. [R, L], float64, nats
    """
    return (expert.log_prob(params, x).double() + log_gate[:, :, None]).logsumexp(1)
