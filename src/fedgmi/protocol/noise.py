"""Noise on messages, drawn at the client. With a scale of 0 it changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from fedgmi.protocol.message import Message
from fedgmi.protocol.step import Step
from fedgmi.protocol.wrapper import Place, Wrapper
from fedgmi.randomness import generator


def gaussian_noise(scale: float = 0.0) -> Wrapper:
    """Normal noise on every decimal number that a client sends, models' totals and sums alike.

    Whole numbers stay as they are: they are counts and indices. A step with single replies is refused, for these hold
    indices and histograms (`method.epsilon` adds noise of whole numbers to histograms).

    It is keyed by (seed, round, exchange, client), so that a run can be repeated. Whoever knows the seed can take it
    off again: it shows what noise costs, and protects nobody.

    Args:
        scale: The standard deviation, in the units of each leaf.

    Returns:
        The wrapper.
    """

    def send(message: Message, place: Place) -> Message:
        draws = generator(place.seed, place.round, place.number, place.client, "message noise")

        def noisy(leaf: Tensor) -> Tensor:
            if not leaf.is_floating_point():
                return leaf
            noise = torch.randn(leaf.shape, generator=draws, dtype=torch.float64).to(leaf.device)
            return (leaf + scale * noise).to(leaf.dtype)

        return on_leaves(message, noisy)

    def refuses(step: Step) -> str | None:
        return "its single replies hold whole numbers, which noise would make others" if scale and step.single else None

    name = "noise" if scale else "zero-noise"
    return Wrapper(name, "normal noise on every number that is sent", send, refuses=refuses)


def on_leaves(message: Message, change: Callable[[Tensor], Tensor]) -> Message:
    """The message with `change` applied to models' totals, sums and replies; masses stay as they are."""
    return Message(
        {name: replace(models, total=change(models.total)) for name, models in message.models.items()},
        {name: change(leaf) for name, leaf in message.sums.items()},
        {name: change(leaf) for name, leaf in message.replies.items()},
    )
