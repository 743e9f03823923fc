"""What a density is: the model of one component's p(x)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK_BYTES = 32 * 2**20
"""Working memory of one chunk of rows when scoring."""


@dataclass(frozen=True)
class Density:
    """A family of densities over rows, with flat parameters [P]. All values are in nats.

    `noise` is standard normal. A density with noise_size 0 ignores it.

    Attributes:
        name: As in the settings.
        exact: Whether `log_prob` is log p(x). Otherwise it is a lower bound: the ELBO for one sample, the
            importance-weighted bound (Burda et al. 2016) for more.
        size: P, the number of parameters.
        noise_size: Z, the numbers of noise per row and sample.
        init: generator → fresh parameters [P].
        loss: params [J, P], x [J, B, *shape], noise [J, B, Z] → −log p(x), or the negative ELBO [J, B]. Differentiable.
            None where `fit` is the way to train.
        log_prob: params [K, P], x [R, *shape], noise [R, S, Z] → [R, K], without gradient.
        sample: params [P], n, generator → rows [n, *shape].
        gradient: params [J, P], x [J, B, *shape], noise [J, B, Z], out: writes the gradient of mean_B loss to
            out [J, P]. None: autograd finds it.
        fit: x [R, *shape], weights [R, K], client_index [R], n_clients → each client's own maximum-likelihood
            parameters in closed form [C, K, P], zeros where a client holds no mass. None where training is by `loss`.
        longest: The norm to which longer gradients are shortened in training; None: they stay as they are.
        trunk: T, of the parameters, how many components have in common: the first ones. 0 where they are models apart.
        loss_of: params [J, T + K·(P − T)], the trunk and after it every component's own part, x [J, B, *shape], noise
            [J, B, Z], component of each row [J, B] → what `loss` says of them [J, B]. None without a trunk.
        layers: The lengths of its layers, which follow one another in the flat vector; (): it has one.
        remarks: What a user should know of it, said once at the start of a run.
    """

    name: str
    exact: bool
    size: int
    noise_size: int
    init: Callable[[torch.Generator], Tensor]
    loss: Callable[[Tensor, Tensor, Tensor], Tensor] | None
    log_prob: Callable[[Tensor, Tensor, Tensor], Tensor]
    sample: Callable[[Tensor, int, torch.Generator], Tensor]
    gradient: Callable[[Tensor, Tensor, Tensor, Tensor], None] | None = None
    fit: Callable[[Tensor, Tensor, Tensor, int], Tensor] | None = None
    longest: float | None = None
    trunk: int = 0
    loss_of: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] | None = None
    layers: tuple[int, ...] = ()
    remarks: tuple[str, ...] = ()


def rows_per_chunk(floats_per_row: int) -> int:
    """How many rows to score at once.

    Args:
        floats_per_row: Working memory that one row needs, in numbers of 4 bytes.

    Returns:
        At least 1.
    """
    return max(1, CHUNK_BYTES // (4 * max(1, floats_per_row)))
