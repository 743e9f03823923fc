"""Sums of models in which no client counts for much: every client's update is cut to a length, and noise is added.

    client i sends    v_i·min(1, 1/‖v_i‖) + N(0, S²σ²/C)    v_i = (w_ik·(θ_ik − θ_k)/clip)_k,  w_ik = N_ik / Σ_k N_ik

for C clients whose parts of the noise add up, so that the sum has noise of S·σ: S, the most that one client changes it
by, is 1. Each client has one voice, however many rows it has. Where there are several components the shares w_i
(‖w_i‖ ≤ 1) travel with noise too, and S is √2. This is DP-FedAvg (McMahan, Ramage, Talwar & Zhang 2018,
arXiv 1710.06963) with the noise in C parts, as it is added where the coordinator sees sums alone; one client's message
by itself has little of it. With C = 1 each message has the whole noise, and is private by itself.

Unit: a client, whose message is compared with that of an update of zero. Every exchange is one Gaussian release of
multiplier σ; `privacy.accountant` adds them up. That few clients take part in a round is not counted in their favour.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedgmi.errors import ConfigError
from fedgmi.protocol.message import Message, Models
from fedgmi.protocol.step import Program, ProgramError, Step, without_start
from fedgmi.protocol.wrapper import Layout, Place, Wrapper
from fedgmi.randomness import generator
from fedgmi.tree import Tree

LEAST_MASS = 0.5
"""Clients. Of a component with less, which is noise, a mean is taken as if it had as much."""
BESIDE = "its messages hold sums beside models, and nothing bounds what a {unit} adds to these"


@dataclass(frozen=True)
class Noise:
    """A client's part of the noise.

    Attributes:
        parts: C, of how many clients the parts add up to the whole.
        draw: (shape, what for) → standard normal numbers, float64. Whoever can repeat them can take the noise off.
    """

    parts: int
    draw: Callable[[torch.Size, str], Tensor]

    def like(self, leaf: Tensor, deviation: float, name: str) -> Tensor:
        """Noise for a leaf. A deviation is that of the whole."""
        return deviation / math.sqrt(self.parts) * self.draw(leaf.shape, name).to(leaf.device)


NoiseOf = Callable[[Place], Noise]


def noise_of_seed(place: Place) -> Noise:
    """A simulation's: keyed by (seed, round, exchange, client), so that a run can be repeated. All that are asked add
    their parts. It shows what privacy costs; who knows the seed can take it off again."""
    draws = generator(place.seed, place.round, place.number, place.client, "private sum")
    return Noise(len(place.clients), lambda shape, name: torch.randn(shape, generator=draws, dtype=torch.float64))


def private_sum(clip: float, noise_multiplier: float, noise_of: NoiseOf = noise_of_seed) -> Wrapper:
    """The wrapper; it refuses steps whose messages are not models alone.

    Args:
        clip: The length of an update.
        noise_multiplier: σ.
        noise_of: (where a message belongs) → its noise.

    Returns:
        The wrapper.
    """

    def send(message: Message, place: Place) -> Message:
        if message.sums or message.replies:
            raise ProgramError("a message holds sums or replies beside models, and nothing bounds these")
        noise, deviation = noise_of(place), noise_multiplier * sensitivity(message)
        moved = {name: _moved(name, models, place) for name, models in message.models.items()}
        length = math.sqrt(sum(float(update.square().sum()) for update in moved.values())) / clip
        models = {}
        for name, part in message.models.items():
            update = moved[name] / max(1.0, length) + clip * noise.like(moved[name], deviation, name)
            share = (part.mass / part.mass.sum()).nan_to_num(0.0, 0.0, 0.0)
            share = share + noise.like(share, deviation, f"{name}, shares") if len(share) > 1 else share
            models[name] = Models(update.to(part.total.dtype), share, torch.ones_like(part.holders))
        return Message(models)

    return Wrapper(
        "private-sum", "updates of bounded length, with noise", send, open=_open, refuses=lambda step: why_not(step)
    )


def private_rows(
    step_size: float, clip: float, noise_multiplier: float, most_rows: int, noise_of: NoiseOf = noise_of_seed
) -> Wrapper:
    """The same for rows, where a client's update is one step of plain gradient descent on all of its rows, each row's
    gradient cut to a length (`models.clipped`):

        client i sends    n_i·(θ_i − θ) + noise,  n_i        n_i·(θ_i − θ) = −step_size·Σ_x g_x,  ‖g_x‖ ≤ clip

    Unit: a row, replaced by another one. It changes the former by 2·step_size·clip at most, and not the latter: how
    many rows a client has is told anyway, when it comes. The step has to be taken in float64, and what rounding adds
    to the bound there counts in full, in each of C parts C times: Σ_i (b + C·e_i)²/C ≥ (b + max_i e_i)², so that noise
    follows a θ of any size. What travels has the digits of float32. Of several models θ is all of them in a row. Their
    masses are n_i, or made of what was released. Sums of a known change (`Step.row_change`) get noise by it, and have
    to be exact.

    Args:
        step_size: The learning rate.
        clip: The length of a row's gradient.
        noise_multiplier: σ.
        most_rows: Of a batch. A client with as many would take several steps, and is refused.
        noise_of: (where a message belongs) → its noise.

    Returns:
        The wrapper. It trusts the client's training to be that step.
    """

    def send(message: Message, place: Place) -> Message:
        if message.replies or (message.sums and (message.models or place.row_change is None)):
            raise ProgramError("a message holds sums or replies, and nothing bounds what a row adds to these")
        noise, models = noise_of(place), {}
        for name, part in message.models.items():
            n_rows = float(part.mass.sum())
            if n_rows >= most_rows:
                raise ConfigError(
                    f"a client has {n_rows:g} rows, and with rows as the unit all have to fit into a batch",
                    where="training.batch_size",
                    fix="set it above the number of rows of every client",
                )
            if part.total.dtype != torch.float64:
                raise ProgramError(f"{name!r} is rounded, and nothing bounds what a row adds to it")
            update = _moved(name, part, place) * n_rows
            bound = step_size * clip + noise.parts * rounding(place.start, n_rows, step_size * clip)
            update = update + noise.like(update, 2 * bound * noise_multiplier, name)
            models[name] = Models(update.float(), part.mass, torch.ones_like(part.holders))
        deviation, sums = (place.row_change or 0.0) * noise_multiplier, {}
        for name, leaf in message.sums.items():
            sums[name] = (leaf + noise.like(leaf, deviation, name)).float().to(leaf.dtype)
        return Message(models, sums)

    return Wrapper(
        "private-rows",
        "steps of bounded gradients, with noise",
        send,
        open=_open,
        layout=_in_float32,
        refuses=lambda step: why_not(step, "row"),
        skips=noisy_by_itself,
    )


def rounding(start: Mapping[str, Tensor], n_rows: float, length: float) -> float:
    """What rounding in float64 changes in n·(θ_i − θ), at most, in L2.

    Each of fewer than 16 operations on a number rounds it to a part of 2⁻⁵³ of itself, and none is larger than
    n·(|θ| + length). Sums over n rows of at most `length` in all are rounded n times.

    Args:
        start: θ, of all models of the message.
        n_rows: n.
        length: Of n·(θ_i − θ) for one row.

    Examples:
        >>> rounding({"expert": torch.full((1, 100), 2.0)}, 600, 0.25) < 1e-9
        True
    """
    size = math.sqrt(sum(float(leaf.double().square().sum()) for leaf in start.values()))
    return float(2.0**-49 * n_rows * (size + n_rows * length))


def _in_float32(leaves: Layout, place: Place) -> Layout:
    return {
        name: ("float32" if dtype == "float64" and name.endswith("/total") else dtype, shape)
        for name, (dtype, shape) in leaves.items()
    }


def why_not(step: Step, unit: str = "client") -> str | None:
    """Why a step's messages cannot be made private: they are not models alone.

    Args:
        step: Any.
        unit: A whole "client", or a single "row".

    Returns:
        The reason; None where they can.
    """
    if unit == "row" and step.row_change is not None:
        return None
    if step.single:
        return f"the server reads every client's reply by itself, and what a {unit} changes in one has no bound"
    if step.models is None and step.tells:
        return f"its sums are no models, and nothing bounds what a {unit} adds to them"
    return BESIDE.format(unit=unit) if step.beside else None


def noisy_by_itself(step: Step) -> bool:
    """Whether a step's messages have noise of their own, where rows are the unit."""
    return step.row_change == 0.0


def check_private(method: str, program: Program, unit: str = "client") -> None:
    """Refuse a method that tells more than models.

    Args:
        method: Its name.
        program: Its steps, which say what they tell.
        unit: As `why_not` has it.

    Raises:
        ConfigError: It names the step.
    """
    for step in program.all_steps:
        why = why_not(step, unit)
        if why is not None:
            raise ConfigError(
                f"the step {step.name!r} of {method} cannot be private: {why}",
                where="privacy",
                fix='use method.name = "fedavg" or another method that sends models alone (docs/privacy.md says how '
                "fedgmi does), or leave [privacy] out",
            )


def most_length(n_numbers: int, bound: float, deviation: float) -> float:
    """A length that no honest sum has: its bound, and that of the noise with a chance of less than one in 10^20.

    Args:
        n_numbers: Of the sum.
        bound: Of the sum without noise.
        deviation: Of the noise.

    Returns:
        bound + deviation·(√n + 10); ‖z‖ > √n + t has a chance of at most exp(−t²/2).
    """
    return bound + deviation * (math.sqrt(n_numbers) + 10)


def sensitivity(message: Message) -> float:
    """S, what one client changes in the sum, in units of the bound: by its updates, and by each kind's shares of
    several components."""
    return math.sqrt(1 + sum(len(models.mass) > 1 for models in message.models.values()))


def _moved(name: str, models: Models, place: Place) -> Tensor:
    """w_ik·(θ_ik − θ_k). [K, P], float64"""
    if name not in place.start:
        raise without_start(name)
    start = place.start[name][: len(models.mass)].double()
    mass = models.mass[:, None].double()
    moved = ((models.total.double() - mass * start) / mass.sum()).where(mass > 0, 0.0)
    return moved.where(moved.isfinite(), 0.0)  # an update that ran away is none: to tell of it would tell of the rows


def _open(total: Message, step: Step, server: Tree) -> Message:
    """The sum of what clients sent, as sums of models again."""
    stands = step.models(server) if step.models else {}
    models = {}
    for name, part in total.models.items():
        mass = part.mass.clamp(min=LEAST_MASS)
        start = stands[name][: len(mass)].to(part.total.device)
        whole = part.total + (mass[:, None] * start.double()).to(part.total.dtype)
        models[name] = Models(whole, mass, part.holders)
    return Message(models, total.sums, total.replies)
