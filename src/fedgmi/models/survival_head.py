"""The head of a survival task: one output, the log of the risk η, and Cox's partial likelihood (1972).

y is (u, δ): u = H(t), the time on the scale on which events come at rate 1 (see `fedgmi.methods.target_scale`), and δ,
1 for an event and 0 for a time when nobody looked any more. Events come at the rate exp η on that scale:

    p(u, δ | x) = exp(δ·η − u·exp η)                                        up to a factor that all models share

Training lowers, for the rows of a batch with weights w,

    Σ_i w_i δ_i (log Σ_{j: u_j ≥ u_i} w_j exp η_j − η_i)  +  M − D log M,    M = Σ_i w_i u_i exp η_i, D = Σ_i w_i δ_i

The first part is minus Cox's log partial likelihood with Breslow's ties (1974): all events of one time have one risk
set. It does not know the level of η, and mixtures of experts compare levels. The second part sets it. Its gradient is 0
where M = D, as many events are expected as there were, so it leaves all else to the first.
"""

from __future__ import annotations

import torch
from torch import Tensor

LIMIT = 10.0
"""|η| is at most this: the risk of one row is at most e^20 times that of another."""


def cox_loss(outputs: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
    """What a batch lowers, row by row; a row's part weighs by w when it is added up.

    Args:
        outputs: [J, …, B, 1]
        y: (u, δ). [J, …, B, 2]
        weight: w, 0 or more; None: all 1. [J, …, B]

    Returns:
        [J, …, B], nats
    """
    risk, time, event = outputs[..., 0].clamp(-LIMIT, LIMIT), y[..., 0].contiguous(), y[..., 1]
    log_weight = torch.zeros_like(risk) if weight is None else weight.clamp(min=1e-12).log()
    expected = (log_weight + time.clamp(min=1e-12).log() + risk).logsumexp(-1, keepdim=True)  # log M
    partial = event * (at_risk(risk + log_weight, time) - risk)
    return partial + time * risk.exp() - event * expected


def at_risk(logs: Tensor, time: Tensor) -> Tensor:
    """log Σ_{j: t_j ≥ t_i} exp a_j of every row, over its batch.

    Args:
        logs: a. […, B]
        time: t. […, B]

    Returns:
        […, B]

    Examples:
        >>> at_risk(torch.zeros(1, 3), torch.tensor([[2.0, 1.0, 2.0]])).exp().round()
        tensor([[2., 3., 2.]])
    """
    falling = time.argsort(dim=-1, descending=True, stable=True)
    summed = logs.gather(-1, falling).logcumsumexp(-1)
    rising = time.gather(-1, falling).flip(-1).contiguous()
    later = time.shape[-1] - torch.searchsorted(rising, time)  # how many rows have t_j ≥ t_i
    return summed.gather(-1, later - 1)


def read_risk(outputs: Tensor) -> Tensor:
    """η as a mixture of one part, (0, η)."""
    risk = outputs[..., 0].clamp(-LIMIT, LIMIT)
    return torch.stack([torch.zeros_like(risk), risk], -1)


def survival_log_lik(numbers: Tensor, y: Tensor) -> Tensor:
    """log Σ_k w_k exp(δ·η_k − u·exp η_k). numbers: [R, …, 2·K], y: [R, 2] → [R, …]"""
    log_weight, risk = numbers[..., 0::2], numbers[..., 1::2]
    time, event = (y[:, i].view(-1, *[1] * (risk.ndim - 1)) for i in range(2))
    return (log_weight + event * risk - time * risk.exp()).logsumexp(-1)


def temper_risk(numbers: Tensor, beta: Tensor) -> Tensor:
    """The density of u has rate exp η; raised to β and made to sum to one it has the rate β·exp η."""
    scaled = numbers[..., 1::2] + beta.log()
    return torch.stack([numbers[..., 0::2] + torch.zeros_like(scaled), scaled], -1).flatten(-2)
