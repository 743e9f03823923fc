"""What an expert is: the model of one component's p(y | x)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedgmi.models.density import rows_per_chunk
from fedgmi.models.heads import CLASSES, Head

Gradient = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], None]


@dataclass(frozen=True)
class Expert:
    """A model of p(y | x) with flat parameters [P], lifted over jobs.

    What its outputs mean is its head's to say: they are the logits of L classes, or what another task has in their
    place.

    Attributes:
        name: As in the settings.
        size: P, the number of parameters.
        n_classes: L, the number of outputs: of classes, or what the schema's `n_outputs` says.
        init: generator → fresh parameters [P].
        logits: params [J, P], x [J, B, *shape] → [J, B, L]. Differentiable.
        heads: params [J, T + K·(P − T)], x [J, B, *shape] → [J, B, K, L]: K experts on the one trunk of each job.
        gradient: params [J, T + K·(P − T)], x [J, B, *shape], y [J, B], weight [J, B, K], out: writes the gradient of
            mean_B Σ_k weight_k · CE(heads_k, y) to out [J, T + K·(P − T)]. None: autograd finds it.
        by_job: Whether `gradient` takes one job after another, which is of use on a CPU alone.
        trunk: T. The first T of the P parameters are the lower layers, which the experts of all components have in
            common. 0 means that each expert has its own.
        features: params [J, P], x [J, B, *shape] → what the last layer is given, [J, B, F]. None where there is no last
            layer apart.
        floats_per_row: Working memory that one row needs, in numbers of 4 bytes.
        layers: The lengths of its layers, which follow one another in the flat vector; (): it has one.
        remarks: What a user should know of it, said once at the start of a run.
        head: How outputs are read.
    """

    name: str
    size: int
    n_classes: int
    init: Callable[[torch.Generator], Tensor]
    logits: Callable[[Tensor, Tensor], Tensor]
    heads: Callable[[Tensor, Tensor], Tensor]
    gradient: Gradient | None = field(default=None, repr=False)
    by_job: bool = False
    trunk: int = 0
    features: Callable[[Tensor, Tensor], Tensor] | None = field(default=None, repr=False)
    floats_per_row: int = field(default=4096, repr=False)
    layers: tuple[int, ...] = ()
    remarks: tuple[str, ...] = ()
    head: Head = CLASSES

    def numbers(self, n_experts: int) -> int:
        """How many parameters several experts have between them. Their trunk counts once.

        Args:
            n_experts: K.

        Returns:
            T + K·(P − T).
        """
        return self.trunk + n_experts * (self.size - self.trunk)

    def loss(self, params: Tensor, x: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
        """−log p(y | x), as the head has it, times the rows' weights.

        Args:
            params: [J, P]
            x: Rows. [J, B, *shape]
            y: Labels. [J, B]
            weight: How much each row counts; None: all 1. [J, B]

        Returns:
            [J, B], nats
        """
        return self.head.weighted_loss(self.logits(params, x), y, weight)

    @torch.no_grad()
    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """What each expert predicts, without gradient: log p_k(y | x) of every class, or the head's numbers.

        Args:
            params: Of K experts. [K, P]
            x: Rows. [R, *shape]

        Returns:
            [R, K, L], nats; of other heads [R, K, Q]
        """
        parts = [x.new_zeros(0, len(params), self.head.width or self.n_classes)]
        for rows in torch.split(x, rows_per_chunk(self.floats_per_row * len(params))):
            logits = self.logits(params, rows.expand(len(params), *rows.shape))
            parts.append(self.head.read(logits).transpose(0, 1))
        return torch.cat(parts)


def mixture_log_prob(expert: Expert, params: Tensor, x: Tensor, log_gate: Tensor) -> Tensor:
    """log Σ_k gate_k(x)·p_k(y | x): a mixture of experts.

    Args:
        expert: Of what kind the experts are.
        params: Their parameters. [K, P]
        x: Rows. [R, *shape]
        log_gate: log of how much of each expert a row gets. [R, K], nats

    Returns:
        log p(y | x) of every class [R, L], float64, nats; of other heads the mixture's numbers [R, Q'].
    """
    return expert.head.mix(expert.log_prob(params, x), log_gate)
