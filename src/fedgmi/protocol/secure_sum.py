"""Sums of which the server sees no summand: each client adds masks that cancel in the sum.

    client i sends    x_i + Σ_{j>i} m_ij − Σ_{j<i} m_ji   (mod 2^64)          Σ_i of it = Σ_i x_i

m_ij are whole numbers that clients i and j share, and x_i is in fixed point (`protocol.whole`). Here the masks come
from the run's seed, and everybody answers: the arithmetic is that of a deployment, bit for bit, and the keys are not
secret. A deployment's masks (`fedgmi.deploy.masks`) come from keys that the server lacks, and mend drop-outs.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fedgmi.errors import ConfigError
from fedgmi.protocol import whole
from fedgmi.protocol.message import Message, flatten
from fedgmi.protocol.step import Program, Step
from fedgmi.protocol.wrapper import Place, Wrapper
from fedgmi.randomness import generator


def masked_sum(*, histogram: bool = False) -> Wrapper:
    """The wrapper; it refuses steps that need single replies.

    Args:
        histogram: Whether the step that counts words goes singly all the same; see `seen_singly`.
    """

    def skips(step: Step) -> bool:
        return histogram and seen_singly(step)

    def refuses(step: Step) -> str | None:
        return NEEDS if step.single and not skips(step) else None

    return Wrapper(
        "masked-sum", "the server sees sums alone", _send, finish=_decode, refuses=refuses, skips=skips, sends="masked"
    )


NEEDS = "the server needs its single replies, and a masked sum shows none"


def seen_singly(step: Step) -> bool:
    """Whether a step's replies are told apart although sums are masked: the histogram of words, and nothing else."""
    return step.single and step.counts


def masked_line(program: Program) -> str:
    """What is said before a run with masks: what is seen singly all the same."""
    singly = sorted({repr(step.name) for step in program.all_steps if step.single})
    seen = f"seen singly is {' and '.join(singly)} alone" if singly else "nothing is seen singly"
    return f"sums are masked (communication.secure): {seen}. Sites' updates cannot be bounded, nor their masses checked"


def check_maskable(program: Program, method: str) -> None:
    """Refuse a method that needs single replies other than the histogram of words.

    Raises:
        ConfigError: It names the step.
    """
    for step in program.all_steps:
        if step.single and not seen_singly(step):
            raise ConfigError(
                f"the step {step.name!r} of {method} cannot go with masks: {NEEDS}",
                where="communication.secure",
                fix='leave it out, or use method.name = "fedgmi", "fedavg" or another method of sums',
            )


def _send(message: Message, place: Place) -> Message:
    """In whole numbers and masked."""
    draws = [
        (1 if place.client < other else -1, _shared(place, other)) for other in place.clients if other != place.client
    ]

    def hide(leaf: Tensor) -> Tensor:
        for sign, drawn in draws:
            leaf = leaf + sign * torch.empty(leaf.shape, dtype=torch.long).random_(-(2**63), None, generator=drawn)
        return leaf

    hidden = {name: hide(leaf) for name, leaf in whole.encoded(message, max(1, len(place.clients))).items()}
    return whole.all_held(hidden)


def _shared(place: Place, other: int) -> torch.Generator:
    first, second = sorted((place.client, other))
    return generator(place.seed, place.round, place.number, first, second, "mask")


def _decode(total: Message, form: Message) -> Message:
    """The sum as numbers of the types that the step's messages have."""
    like = flatten(form)
    plain = whole.decoded(flatten(total), {name: leaf.dtype for name, leaf in like.items()})
    models = {
        name: replace(
            part,
            total=part.total.to(form.models[name].total.device),
            mass=part.mass.to(form.models[name].mass.device),
            holders=total.models[name].holders,
        )
        for name, part in plain.models.items()
    }
    return Message(models, {name: leaf.to(like[f"sums/{name}"].device) for name, leaf in plain.sums.items()})
