"""Which estimated component is which true one, and how far the proportions are off."""

from __future__ import annotations

import torch
from torch import Tensor


def match_components(estimated: Tensor, true: Tensor) -> Tensor:
    """The order of estimated components that fits the true ones best.

    The assignment minimises Σ_i Σ_k |π̂_i,order(k) − π_ik| (Hungarian method, SciPy).

    Args:
        estimated: π̂. [C, K̂]
        true: π. [C, K]

    Returns:
        `order[k]` is the estimated component that stands for true component k, or −1 where there is none. Estimated
        components beyond K follow at the end. [max(K, K̂)]

    >>> match_components(torch.tensor([[0.9, 0.1]]), torch.tensor([[0.2, 0.8]])).tolist()
    [1, 0]
    """
    from scipy.optimize import linear_sum_assignment  # sites need no SciPy

    size = max(estimated.shape[1], true.shape[1])
    left, right = _widen(true, size), _widen(estimated, size)
    cost = (left[:, :, None] - right[:, None, :]).abs().mean(0)
    _, columns = linear_sum_assignment(cost.cpu().numpy())
    order = torch.as_tensor(columns)
    return torch.where(order < estimated.shape[1], order, -1)


def reorder(values: Tensor, order: Tensor, *, dim: int = -1) -> Tensor:
    """The same values with their components in the matched order. A component that does not exist counts as zero.

    Args:
        values: Anything with an axis of components.
        order: What `match_components` returns.
        dim: The axis of components.

    Returns:
        The values, with as many components as the order has.
    """
    padded = torch.cat([values, torch.zeros_like(values.narrow(dim, 0, 1))], dim)
    index = torch.where(order < 0, values.shape[dim], order)
    return padded.index_select(dim, index.to(values.device))


def total_variation(estimated: Tensor, true: Tensor) -> Tensor:
    """½ Σ_k |π̂_ik − π_ik| of every client, for proportions that are in matched order. Unmatched mass is error.

    Args:
        estimated: π̂. [C, K̂]
        true: π. [C, K]

    Returns:
        From 0, the same, to 1, nothing in common. [C], float64
    """
    size = max(estimated.shape[1], true.shape[1])
    return 0.5 * (_widen(estimated, size) - _widen(true, size)).abs().sum(1)


def _widen(values: Tensor, size: int) -> Tensor:
    return torch.nn.functional.pad(values.double().cpu(), (0, size - values.shape[1]))
