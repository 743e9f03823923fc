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
    """A family of densities over rows x [*shape] with flat parameters [P]; all values in nats.

    - init(generator) → [P]
    - loss(params [J, P], x [J, B, *shape], noise [J, B, Z]) → [J, B]: −log p(x) or the negative ELBO,
      differentiable; None where `fit` is the way to train
    - log_prob(params [K, P], x [R, *shape], noise [R, S, Z]) → [R, K], no gradient; where `exact` is False it is
      a lower bound: the ELBO for S = 1, the importance-weighted bound (Burda et al. 2016) for S > 1
    - sample(params [P], n, generator) → [n, *shape]
    - fit(x [R, *shape], weights [R, K], owner [R], n_clients) → [C, K, P]: each client's own maximum-likelihood
      parameters in closed form; zeros where a client holds no mass; None where training is by `loss`

    `noise` is standard normal; a density with noise_size 0 ignores it.
    """

    name: str
    exact: bool
    size: int
    noise_size: int
    init: Callable[[torch.Generator], Tensor]
    loss: Callable[[Tensor, Tensor, Tensor], Tensor] | None
    log_prob: Callable[[Tensor, Tensor, Tensor], Tensor]
    sample: Callable[[Tensor, int, torch.Generator], Tensor]
    fit: Callable[[Tensor, Tensor, Tensor, int], Tensor] | None = None


def rows_per_chunk(floats_per_row: int) -> int:
    """How many rows to score at once when each needs so many floats of working memory."""
    return max(1, CHUNK_BYTES // (4 * max(1, floats_per_row)))
