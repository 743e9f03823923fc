"""Sums of which the server sees no summand: each client adds masks that cancel in the sum.

    client i sends    x_i + Σ_{j>i} m_ij − Σ_{j<i} m_ji   (mod 2^64)          Σ_i of it = Σ_i x_i

m_ij are whole numbers that clients i and j share, and x_i is in fixed point (Bonawitz et al. 2017, without the part
that mends drop-outs: all clients of an exchange have to answer). Here the masks come from the run's seed: the
arithmetic is the real one, and the keys are not secret.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedgmi.errors import DivergedError
from fedgmi.protocol.message import Message, Models
from fedgmi.protocol.step import Step
from fedgmi.protocol.wrapper import Place, Wrapper
from fedgmi.randomness import generator

FRACTION_BITS = 24  # numbers are rounded to 6e-8
LARGEST = 2.0**37  # of one client's numbers, so that the sum of some hundred of them fits


def masked_sum() -> Wrapper:
    """The wrapper; it refuses steps that need single replies."""
    return Wrapper("masked-sum", "the server sees sums alone", _send, finish=_decode, refuses=_refuses, sends="masked")


def _send(message: Message, place: Place) -> Message:
    """In fixed point and masked. All models travel, for which ones a client holds would tell of its rows."""
    masks = _Masks(place)
    models = {
        name: Models(masks.hide(part.total), masks.hide(part.mass), torch.ones_like(part.holders))
        for name, part in message.models.items()
    }
    return Message(models, {name: masks.hide(leaf) for name, leaf in message.sums.items()})


class _Masks:
    """One client's masks for the leaves of one message, in their order."""

    def __init__(self, place: Place) -> None:
        self._signed = [
            (1 if place.client < other else -1, _shared(place, other))
            for other in place.clients
            if other != place.client
        ]

    def hide(self, leaf: Tensor) -> Tensor:
        """A leaf in fixed point, plus and minus its masks."""
        numbers = leaf.detach().cpu().double()
        if bool((numbers.abs() >= LARGEST).any()):
            raise DivergedError(
                f"a number of {float(numbers.abs().max()):g} does not fit into a masked sum, which takes {LARGEST:g}",
                where="masked-sum",
                fix="lower training.lr, or standardise the features",
            )
        hidden = (numbers * 2.0**FRACTION_BITS).round().long()
        for sign, draws in self._signed:
            hidden = hidden + sign * torch.empty(leaf.shape, dtype=torch.long).random_(-(2**63), None, generator=draws)
        return hidden


def _shared(place: Place, other: int) -> torch.Generator:
    first, second = sorted((place.client, other))
    return generator(place.seed, place.round, place.number, first, second, "mask")


def _decode(total: Message, form: Message) -> Message:
    """The sum as numbers of the types that the step's messages have."""

    def number(leaf: Tensor, like: Tensor) -> Tensor:
        value = leaf.double() / 2.0**FRACTION_BITS
        return (value if like.is_floating_point() else value.round()).to(like.device, like.dtype)

    models = {
        name: Models(
            number(part.total, form.models[name].total), number(part.mass, form.models[name].mass), part.holders
        )
        for name, part in total.models.items()
    }
    return Message(models, {name: number(leaf, form.sums[name]) for name, leaf in total.sums.items()})


def _refuses(step: Step) -> str | None:
    return "the server needs its single replies, and a masked sum shows none" if step.single else None
