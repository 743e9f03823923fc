"""Sums of models in which no client counts for much: every client's update is cut to a length, and noise is added.

    client i sends    v_i·min(1, 1/‖v_i‖) + N(0, S²σ²/C)    v_i = (w_ik·(θ_ik − θ_k)/clip)_k,  w_ik = N_ik / Σ_k N_ik

for C clients that are asked, so that the sum has noise of S·σ: S, the most that one client changes it by, is 1. Each
client has one voice, however many rows it has. Where there are several components the shares w_i (‖w_i‖ ≤ 1) travel
with noise too, and S is √2. This is DP-FedAvg (McMahan, Ramage, Talwar & Zhang 2018, arXiv 1710.06963) with the noise
in C parts, as it is added where the coordinator sees sums alone; one client's message by itself has little of it.

Unit: a client, added or removed, whose place counts as an update of zero. Every exchange is one Gaussian release of
multiplier σ; `privacy.accountant` adds them up. That few clients take part in a round is not counted in their favour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fedgmi.errors import ConfigError
from fedgmi.protocol.message import Message, Models
from fedgmi.protocol.step import ProgramError, Step, without_start
from fedgmi.protocol.wrapper import Place, Wrapper
from fedgmi.randomness import generator
from fedgmi.tree import Tree

LEAST_MASS = 0.5
"""Clients. Of a component with less, which is noise, a mean is taken as if it had as much."""


def private_sum(clip: float, noise_multiplier: float) -> Wrapper:
    """The wrapper; it refuses steps whose messages are not models alone.

    Noise is keyed by (seed, round, exchange, client), so that a run can be repeated: it shows what privacy costs. Who
    knows the seed can take it off again.

    Args:
        clip: The length of an update.
        noise_multiplier: σ.

    Returns:
        The wrapper.
    """

    def send(message: Message, place: Place) -> Message:
        if message.sums or message.replies:
            raise ProgramError("a message holds sums or replies beside models, and nothing bounds these")
        draws = generator(place.seed, place.round, place.number, place.client, "private sum")
        deviation = noise_multiplier * _sensitivity(message) / math.sqrt(len(place.clients))
        moved = {name: _moved(name, models, place) for name, models in message.models.items()}
        length = math.sqrt(sum(float(update.square().sum()) for update in moved.values())) / clip

        def noise(leaf: Tensor) -> Tensor:
            return deviation * torch.randn(leaf.shape, generator=draws, dtype=torch.float64).to(leaf.device)

        models = {}
        for name, part in message.models.items():
            update = moved[name] / max(1.0, length) + clip * noise(moved[name])
            share = part.mass / part.mass.sum()
            share = share + noise(share) if len(share) > 1 else share
            models[name] = Models(update.to(part.total.dtype), share, torch.ones_like(part.holders))
        return Message(models)

    return Wrapper("private-sum", "updates of bounded length, with noise", send, reduce=_reduce, refuses=_refuses)


def private_rows(step_size: float, clip: float, noise_multiplier: float, most_rows: int) -> Wrapper:
    """The same for rows, where a client's update is one step of plain gradient descent on all of its rows, each row's
    gradient cut to a length (`models.clipped`):

        client i sends    n_i·(θ_i − θ) + noise,  n_i + noise        n_i·(θ_i − θ) = −step_size·Σ_x g_x,  ‖g_x‖ ≤ clip

    A row added or removed changes the former by step_size·clip at most, and the latter by 1.

    Args:
        step_size: The learning rate.
        clip: The length of a row's gradient.
        noise_multiplier: σ, for both together.
        most_rows: Of a batch. A client with as many would take several steps, and is refused.

    Returns:
        The wrapper. It trusts the client's training to be that step.
    """

    def send(message: Message, place: Place) -> Message:
        if message.sums or message.replies or len(message.models) != 1:
            raise ProgramError("a message holds more than one model's update, and nothing bounds what a row adds to it")
        [(name, part)] = message.models.items()
        draws = generator(place.seed, place.round, place.number, place.client, "private sum")
        deviation = noise_multiplier * math.sqrt(2 / len(place.clients))
        if float(part.mass.sum()) >= most_rows:
            raise ConfigError(
                f"a client has {float(part.mass.sum()):g} rows, and with rows as the unit all have to fit into a batch",
                where="training.batch_size",
                fix="set it above the number of rows of every client",
            )
        update = _moved(name, part, place) * part.mass.sum()

        def noise(leaf: Tensor) -> Tensor:
            return deviation * torch.randn(leaf.shape, generator=draws, dtype=torch.float64).to(leaf.device)

        total = (update + step_size * clip * noise(update)).to(part.total.dtype)
        return Message({name: Models(total, part.mass + noise(part.mass), torch.ones_like(part.holders))})

    return Wrapper("private-rows", "steps of bounded gradients, with noise", send, reduce=_reduce, refuses=_refuses)


def _sensitivity(message: Message) -> float:
    """What one client changes in the sum, in units of the bound: by its updates, and by each kind's shares of several
    components."""
    return math.sqrt(1 + sum(len(models.mass) > 1 for models in message.models.values()))


def _moved(name: str, models: Models, place: Place) -> Tensor:
    """w_ik·(θ_ik − θ_k). [K, P], float64"""
    if name not in place.start:
        raise without_start(name)
    start = place.start[name][: len(models.mass)].double()
    mass = models.mass[:, None].double()
    return ((models.total.double() - mass * start) / mass.sum()).where(mass > 0, 0.0)


def _reduce(messages: Sequence[Message], step: Step, server: Tree) -> Message:
    """The sum of what clients sent, as sums of models again."""
    total, stands = sum(messages, Message()), step.models(server) if step.models else {}
    models = {}
    for name, part in total.models.items():
        mass = part.mass.clamp(min=LEAST_MASS)
        start = stands[name][: len(mass)].to(part.total.device)
        whole = part.total + (mass[:, None] * start.double()).to(part.total.dtype)
        models[name] = Models(whole, mass, part.holders)
    return Message(models)


def _refuses(step: Step) -> str | None:
    if step.single:
        return "the server reads every client's reply by itself, and what a whole client changes in one has no bound"
    if step.models is None and step.tells:
        return "its sums are no models, and nothing bounds what a whole client adds to them"
    return None
