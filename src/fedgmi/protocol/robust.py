"""Adding up what sites answer, against one that lies: a bound on how far a site may move a model, and robust means.

A step's `updates` names the models whose weighted sums its message holds: `NAME total` = Σ_i N_ik θ_ik and `NAME mass`.
Sums that are no models (counts, calibration) are bounded by the site's rows alone; a liar can bend these.

Trimmed mean and median by coordinate: Yin et al. 2018, arXiv 1803.01498.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from fedgmi import tree
from fedgmi.deploy.settings import RobustSettings
from fedgmi.errors import ConfigError
from fedgmi.methods.contract import Step
from fedgmi.tree import Tree

MEDIANS = 2.0  # how many median lengths the bound "median" is: honest sites differ by less
WILD = 100.0  # medians; a site that moves a model so far, and ten times the model's length, has gone wrong


def reduce(
    step: Step, server: Tree, replies: Sequence[Tree], settings: RobustSettings
) -> tuple[Tree, dict[int, tuple[str, float]]]:
    """The sum of the replies, models bounded and robustly averaged as the settings say; and whose updates were scaled
    down: by the reply's place, the model that was farthest out, and how many times the bound it was."""
    total: Tree = {}
    for reply in replies:
        total = tree.add(total, reply)
    cut: dict[int, tuple[str, float]] = {}
    if not settings.on:
        return total, cut
    for name, start, mass, moved in _moves(step, server, replies):
        if settings.max_norm is not None:
            excess = excesses(moved.norm(dim=2), mass, settings.max_norm)
            moved = moved / excess[:, :, None]
            for i, most in enumerate(excess.max(1).values.tolist()):
                if most > max(1.0, cut.get(i, ("", 0.0))[1]):
                    cut[i] = name, most
        mean = torch.stack([average(moved[:, k], mass[:, k], settings) for k in range(len(start))])
        whole = mass.sum(0)[:, None] * (start + mean)
        total[f"{name} total"] = whole.to(total[f"{name} total"].dtype)
    return total, cut


def wild(step: Step, server: Tree, replies: Sequence[Tree], settings: RobustSettings) -> dict[int, str]:
    """Of replies that nothing bounds, those by which one site would undo what all have learnt: place → what it did.

    There have to be three, for a median to speak for the others.
    """
    found: dict[int, str] = {}
    if len(replies) < 3 or settings.on:
        return found
    for name, start, mass, moved in _moves(step, server, replies):
        length = moved.norm(dim=2)
        far = (excesses(length, mass, "median") > WILD / MEDIANS) & (length > 10 * start.norm(dim=1))
        for i in far.any(1).nonzero().flatten().tolist():
            found.setdefault(
                i, f"its {name} moved {float(length[i].max()):.3g}, over {WILD:g} times the others' median"
            )
    return found


def _moves(step: Step, server: Tree, replies: Sequence[Tree]) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
    """Of every model in the replies: its name, where it stands [K, P], mass [C, K], and updates θ_i − θ [C, K, P]."""
    for name, model in (step.updates(server) if step.updates else {}).items():
        if f"{name} total" not in replies[0]:
            continue
        sums = torch.stack([reply[f"{name} total"] for reply in replies]).double()
        mass = torch.stack([reply[f"{name} mass"] for reply in replies]).double()
        start = model[: sums.shape[1]].double().cpu()  # the first stands for all while experts are one
        moved = sums / mass.clamp(min=1e-12)[:, :, None] - start
        yield name, start, mass, moved.where(mass[:, :, None] > 0, 0.0)


def excesses(length: Tensor, mass: Tensor, max_norm: float | Literal["median"]) -> Tensor:
    """How many times the bound an update is, at least 1, of lengths [C, K] of those with mass [C, K].

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
    """Of the updates [C, P] of those with mass [C]: their mean by mass, or by coordinate the trimmed mean or median.

    Robust means give every site one voice, for its mass is its own word.

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


def require_robust(steps: Sequence[Step], method: str, settings: RobustSettings) -> None:
    """Refuse a robust rule for a method none of whose steps says which models it averages."""
    if settings.on and all(step.updates is None for step in steps):
        raise ConfigError(
            f"{method} does not say which models its messages hold, so they cannot be averaged robustly",
            where="robust",
            fix='set robust.aggregation = "mean" and unset robust.max_norm, or use method.name = "fedgmi" or "fedavg"',
        )
