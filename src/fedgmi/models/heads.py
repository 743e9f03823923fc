"""What a model's outputs say of y: the one place where tasks differ for training and prediction.

    classification   L outputs, logits           numbers: log p(y | x) of every class [L]
    regression       2 outputs, m and log s      p(y | x) = N(y; m, s²); numbers: (log weight, m, log s) a part
    survival         1 output, the log risk η    see `survival_head`; numbers: (log weight, η) a part

Methods carry a prediction as numbers, whatever these mean, and mix predictions by weights. A mixture of Gaussians is
its parts, one after the other, so nothing is lost on the way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fedgmi.models.survival_head import cox_loss, read_risk, survival_log_lik, temper_risk
from fedgmi.settings.run import TaskName

LOG_SCALE = (-5.0, 3.0)
"""Between these is log s, for a target of deviation 1: a single row that is met exactly must not decide everything."""
LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class Head:
    """How outputs are read.

    Attributes:
        task: Which task it is of.
        width: Q, the numbers that say one expert's prediction of a row; None: as many as there are outputs.
        loss: (outputs [J, …, O], y [J, …], weights of rows [J, …], None: all 1) → what training lowers, for every row,
            before it is weighted. [J, …], nats
        read: (outputs […, O]) → numbers. […, Q]
        log_lik: (numbers [R, …, Q], y [R]) → log p(y | x). [R, …], nats
        mix: (numbers [R, K, Q], log of weights that sum to one [R, K]) → numbers of the mixture. [R, Q'], float64
        temper: (numbers […, Q], β, which broadcasts to […, 1]) → numbers of p^β, made to sum to one again. […, Q]
        rare: Whether few rows say much, so that chance often chooses: β stays 1, and own nets that start at random have
            to be proven better than others. See `own_models`.
    """

    task: TaskName
    width: int | None
    loss: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    read: Callable[[Tensor], Tensor]
    log_lik: Callable[[Tensor, Tensor], Tensor]
    mix: Callable[[Tensor, Tensor], Tensor]
    temper: Callable[[Tensor, Tensor], Tensor]
    rare: bool = False

    def weighted_loss(self, outputs: Tensor, y: Tensor, weight: Tensor | None) -> Tensor:
        """What training lowers, each row's part times its weight. Risk sets know the weights as well.

        Args:
            outputs: [J, …, O]
            y: [J, …]
            weight: 0 or more; None: all 1. [J, …]

        Returns:
            [J, …], nats
        """
        losses = self.loss(outputs, y, weight)
        return losses if weight is None else weight * losses


def class_loss(outputs: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy −log p(y | x).

    Args:
        outputs: Logits. [J, …, L]
        y: Class numbers. [J, …]
        weight: Plays no part.
    """
    return F.cross_entropy(outputs.flatten(0, -2), y.flatten(), reduction="none").view(y.shape)


def class_log_lik(logs: Tensor, y: Tensor) -> Tensor:
    """log p(y | x) from that of every class.

    Args:
        logs: [R, …, L], nats
        y: [R]
    """
    at = y.view(-1, *[1] * (logs.ndim - 1)).expand(*logs.shape[:-1], 1)
    return logs.gather(-1, at).squeeze(-1)


def mix_classes(logs: Tensor, log_weight: Tensor) -> Tensor:
    """log Σ_k w_k p_k(y | x) of every class."""
    return (logs.double() + log_weight[:, :, None]).logsumexp(1)


def normal_log_prob(y: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """log N(y; m, s²), nats.

    Examples:
        >>> one = torch.ones(1)
        >>> bool((normal_log_prob(one, one, 0 * one) + 0.9189).abs() < 1e-4)  # −½·log 2π
        True
    """
    return -0.5 * (LOG_2PI + ((y - mean) * (-log_scale).exp()).square()) - log_scale


def gaussian_loss(outputs: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
    """−log N(y; m, s²). outputs: [J, …, 2], y: [J, …]. Weights play no part."""
    return -normal_log_prob(y, outputs[..., 0], outputs[..., 1].clamp(*LOG_SCALE))


def read_gaussian(outputs: Tensor) -> Tensor:
    """(m, log s) as a mixture of one part, (0, m, log s)."""
    mean, log_scale = outputs[..., 0], outputs[..., 1].clamp(*LOG_SCALE)
    return torch.stack([torch.zeros_like(mean), mean, log_scale], -1)


def parts(numbers: Tensor, width: int = 3) -> Tensor:
    """The parts of a mixture. […, K·Q] → […, K, Q]"""
    return numbers.reshape(*numbers.shape[:-1], numbers.shape[-1] // width, width)


def gaussian_log_lik(numbers: Tensor, y: Tensor) -> Tensor:
    """log Σ_k w_k N(y; m_k, s_k²). numbers: [R, …, 3·K], y: [R] → [R, …]"""
    log_weight, mean, log_scale = parts(numbers).unbind(-1)
    return (log_weight + normal_log_prob(y.view(-1, *[1] * (mean.ndim - 1)), mean, log_scale)).logsumexp(-1)


def mix_parts(numbers: Tensor, log_weight: Tensor) -> Tensor:
    """The parts of all experts, each weighted by its expert's. numbers: [R, K, Q], the first of Q is the log weight."""
    weighted = numbers.double().clone()
    weighted[..., 0] += log_weight
    return weighted.flatten(1)


def temper_gaussian(numbers: Tensor, beta: Tensor) -> Tensor:
    """N(m, s²)^β made to sum to one is N(m, s²/β)."""
    log_weight, mean, log_scale = parts(numbers).unbind(-1)
    scaled = log_scale - 0.5 * beta.log()
    zero = torch.zeros_like(scaled)  # β may add an axis
    return torch.stack([log_weight + zero, mean + zero, scaled], -1).flatten(-2)


def blend(head: Head, candidates: Sequence[Tensor], log_weight: Tensor) -> Tensor:
    """The mixture of several predictions, of which each may be a mixture already.

    Args:
        head: How their numbers are read.
        candidates: M of them. [R, Q'] each
        log_weight: Of weights that sum to one. [R, M], nats

    Returns:
        The mixture's numbers.
    """
    if head.width is None:
        return head.mix(torch.stack(list(candidates), 1), log_weight)
    each = [parts(one, head.width) for one in candidates]
    weights = [weight[:, None].expand(part.shape[:2]) for part, weight in zip(each, log_weight.unbind(1), strict=True)]
    return torch.cat([head.mix(part, weight) for part, weight in zip(each, weights, strict=True)], 1)


CLASSES = Head(
    "classification",
    None,
    class_loss,
    lambda outputs: outputs.log_softmax(-1),
    class_log_lik,
    mix_classes,
    lambda logs, beta: (logs * beta).log_softmax(-1),
)
GAUSSIAN = Head("regression", 3, gaussian_loss, read_gaussian, gaussian_log_lik, mix_parts, temper_gaussian)
COX = Head("survival", 2, cox_loss, read_risk, survival_log_lik, mix_parts, temper_risk, rare=True)
HEADS: dict[TaskName, Head] = {"classification": CLASSES, "regression": GAUSSIAN, "survival": COX}
"""By task."""
