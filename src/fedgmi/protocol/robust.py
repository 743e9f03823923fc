"""Adding up what clients answer, against one that lies: a bound on how far one may move a model, and robust means.

A step's `models` gives the models as they stand, by the names under which messages hold their sums. Sums that are no
models (of features, of evidence) are not averaged robustly: they are held to what rows can be (`methods.plausible`).

Trimmed mean and median by coordinate: Yin et al. 2018, arXiv 1803.01498.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from fedgmi.errors import ConfigError
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import Program, Step
from fedgmi.protocol.wrapper import Wrapper
from fedgmi.settings.robust import RobustSettings
from fedgmi.tree import Tree

MEDIANS = 2.0  # how many medians the bounds of lengths and weights are: honest clients' lengths differ by less
WILD = 100.0  # medians; a client that moves a model so far, and ten times the model's length, has gone wrong


def robust(settings: RobustSettings) -> Wrapper:
    """Robust means as a wrapper: they replace the sum of the messages."""
    return Wrapper(
        "robust",
        "bounded updates, robust means",
        reduce=lambda messages, step, server: robust_sum(step, server, messages, settings)[0],
        takes="anything",  # it works on what has arrived
    )


def robust_sum(
    step: Step, server: Tree, messages: Sequence[Message], settings: RobustSettings
) -> tuple[Message, dict[int, list[str]]]:
    """The sum of the messages, models bounded and robustly averaged as the settings say.

    Args:
        step: That was answered.
        server: The server's state, in which the models stand.
        messages: One of each client.
        settings: The bound and the mean.

    Returns:
        The message, and by the messages' places in words what bounds have done: of the model that was farthest out,
        and of the one that weighed most.
    """
    total = sum(messages, Message())
    cut: dict[int, tuple[str, float]] = {}
    heavy: dict[int, str] = {}
    if not settings.on:
        return total, {}
    models = dict(total.models)
    for name, start, told, moved in _moves(step, server, messages):
        part = capped(told.sum(1))
        mass = told * part[:, None]
        for i in (part < 1).nonzero().flatten().tolist():
            heavy[i] = (
                f"its {name} counts as {float(mass[i].sum()):.6g} rows, twice the median, not {told[i].sum():.6g}"
            )
        if settings.max_norm is not None:
            excess = excesses(moved.norm(dim=2), mass, settings.max_norm)
            moved = moved / excess[:, :, None]
            for i, most in enumerate(excess.max(1).values.tolist()):
                if most > max(1.0, cut.get(i, ("", 0.0))[1]):
                    cut[i] = name, most
        mean = torch.stack([average(moved[:, k], mass[:, k], settings) for k in range(len(start))])
        whole = mass.sum(0)[:, None] * (start + mean)
        model = models[name]
        models[name] = replace(model, total=whole.to(model.total), mass=mass.sum(0).to(model.mass))
    said = {
        i: [f"its {name} moved {most:.3g} times the norm bound: scaled down to it"] for i, (name, most) in cut.items()
    }
    for i, words in heavy.items():
        said.setdefault(i, []).append(words)
    return replace(total, models=models), said


def capped(mass: Tensor) -> Tensor:
    """The part of a client's weight that counts where robust rules are on: up to twice the median of all clients'.

    Its rows are its own word, and with 10⁹ of them it would be the mean. Of each component it keeps the same part.

    Args:
        mass: Of each client, over all components. [C]

    Returns:
        Factors, at most 1. [C]

    Examples:
        >>> capped(torch.tensor([40.0, 60.0, 1200.0]).double()).tolist()
        [1.0, 1.0, 0.1]
    """
    bound = MEDIANS * mass.where(mass > 0, torch.nan).nanmedian().nan_to_num()
    return (bound / mass.clamp(min=1e-12)).clamp(max=1.0).where(mass > 0, 1.0)


def wild(step: Step, server: Tree, messages: Sequence[Message], settings: RobustSettings) -> dict[int, str]:
    """Messages by which one client would undo what all have learnt, where nothing else bounds them.

    There have to be three, for a median to speak for the others. A model that fewer than three have moved is held to
    the median over all models. Updates in single replies are held likewise.

    Args:
        step: That was answered.
        server: The server's state.
        messages: One of each client.
        settings: With a bound or a robust mean nothing is wild.

    Returns:
        By the message's place, what it did.
    """
    found: dict[int, str] = {}
    if len(messages) < 3 or settings.on:
        return found
    for name, size, mass, length in (*_lengths(step, server, messages), *_of_replies(step, server, messages)):
        far = (length > WILD * _usual(length, mass)) & (length > 10 * size)
        for i in far.any(1).nonzero().flatten().tolist():
            found.setdefault(
                i, f"its {name} moved {float(length[i].max()):.3g}, over {WILD:g} times the others' median"
            )
    return found


def _lengths(step: Step, server: Tree, messages: Sequence[Message]) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
    """Of every model in the messages: its name, the length of each that stands [K], mass and length of moves [C, K]."""
    for name, start, mass, moved in _moves(step, server, messages):
        yield name, start.norm(dim=1), mass, moved.norm(dim=2)


def _of_replies(step: Step, server: Tree, messages: Sequence[Message]) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
    """The same of updates in single replies. Which of the models they are of nobody says here: the longest stands for
    all, among the server's leaves of their width."""
    for name, zeros in (step.updates(server) if step.updates else {}).items():
        width, moved = zeros.shape[-1], torch.stack([message.replies[name].double().cpu() for message in messages])
        stand = [leaf for leaf in server.values() if leaf.ndim == 2 and leaf.shape[1] == width and len(leaf)]
        size = max((float(leaf.double().norm(dim=1).max()) for leaf in stand), default=0.0)
        length = moved.flatten(1).norm(dim=1, keepdim=True)
        yield name, torch.tensor([size]).double(), torch.ones_like(length), length


def _usual(length: Tensor, mass: Tensor) -> Tensor:
    """The median length of updates [C, K] by model [K]; of all models' where fewer than three have moved one."""
    moved = length.where(mass > 0, torch.nan)
    own, of_all = moved.nanmedian(0).values, moved.flatten().nanmedian()
    return own.where((mass > 0).sum(0) >= 3, of_all).nan_to_num().clamp(min=1e-12)


def _moves(step: Step, server: Tree, messages: Sequence[Message]) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
    """Of every model in the messages: its name, where it stands [K, P], mass [C, K], and updates θ_i − θ [C, K, P]."""
    for name, model in (step.models(server) if step.models else {}).items():
        if name not in messages[0].models:
            continue
        parts = [message.models[name] for message in messages]
        sums, mass = torch.stack([part.total for part in parts]).double().cpu(), torch.stack([p.mass for p in parts])
        mass = mass.double().cpu()
        start = model[: sums.shape[1]].double().cpu()  # the first stands for all while experts are one
        moved = sums / mass.clamp(min=1e-12)[:, :, None] - start
        yield name, start, mass, moved.where(mass[:, :, None] > 0, 0.0)


def excesses(length: Tensor, mass: Tensor, max_norm: float | Literal["median"]) -> Tensor:
    """How many times the bound an update is, at least 1.

    Args:
        length: Of the updates. [C, K]
        mass: Of those who sent them. [C, K]
        max_norm: The bound, or "median" for twice the median length of those with mass.

    Returns:
        The excess. [C, K]

    Examples:
        >>> lengths = torch.tensor([[1.0], [1.5], [600.0]])
        >>> excesses(lengths, torch.ones(3, 1), "median").flatten().tolist()
        [1.0, 1.0, 200.0]
        >>> excesses(lengths, torch.ones(3, 1), 60.0).flatten().tolist()
        [1.0, 1.0, 10.0]
    """
    if max_norm == "median":
        bound = MEDIANS * length.where(mass > 0, torch.nan).nanmedian(0).values.nan_to_num()
    else:
        bound = torch.full_like(length[0], max_norm)
    return (length / bound.clamp(min=1e-12)).clamp(min=1.0)


def average(moved: Tensor, mass: Tensor, settings: RobustSettings) -> Tensor:
    """The mean of updates by mass, or by coordinate their trimmed mean or median.

    Robust means give every client one voice, for its mass is its own word.

    Args:
        moved: The updates. [C, P]
        mass: Of those who sent them. [C]
        settings: Which mean.

    Returns:
        [P]

    Examples:
        >>> settings = RobustSettings(aggregation="median")
        >>> average(torch.tensor([[1.0], [2.0], [900.0]]).double(), torch.ones(3).double(), settings).tolist()
        [2.0]
    """
    held = mass > 0
    if not bool(held.any()):
        return torch.zeros_like(moved[0])
    moved, mass = moved[held], mass[held]
    if settings.aggregation == "mean":
        return (mass[:, None] * moved).sum(0) / mass.sum()
    ordered = moved.sort(0).values
    if settings.aggregation == "median":
        return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    cut = int(settings.trimmed * len(ordered))
    return ordered[cut : len(ordered) - cut].mean(0)


def require_robust(program: Program, method: str, settings: RobustSettings) -> None:
    """Refuse a robust rule for a method none of whose messages holds models.

    Raises:
        ConfigError: It names the method.
    """
    if settings.on and all(step.models is None for step in program.all_steps):
        raise ConfigError(
            f"{method} averages no models, so they cannot be averaged robustly",
            where="robust",
            fix='set robust.aggregation = "mean" and unset robust.max_norm, or use method.name = "fedgmi" or "fedavg"',
        )
