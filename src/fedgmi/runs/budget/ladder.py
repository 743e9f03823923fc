"""The ladders of ways that a plan goes down, each from the best way to the cheapest.

The order is that of docs/decisions.md: bits before entries, densities that judge nothing before experts, turns of
judges after these. Where no way with components fits, there is one model for all. What a user has set himself stays as
it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from fedgmi.methods.fedgmi.settings import FedGMISettings, choose_judges
from fedgmi.runs.setup import Setup, settings_for
from fedgmi.settings.effects import changed

ONE = "method.n_components"


@dataclass(frozen=True)
class Rung:
    """One way to run.

    Attributes:
        precision: As `communication.precision`.
        top: As `communication.top`.
        densities: The share of rounds in which densities are trained, rounded up, where they judge nothing; None: as
            it is.
        turns: As `method.judge_turns`; None: as it is.
    """

    precision: str = "float32"
    top: float = 1.0
    densities: float | None = None
    turns: int | None = None


ONE_ROUND = 1e-9  # as a share of rounds, rounded up
RUNGS = (
    Rung(),
    Rung("bfloat16"),
    Rung("8"),
    Rung("4"),
    Rung("4", densities=0.2, turns=4),
    Rung("4", densities=ONE_ROUND, turns=2),
    Rung("4", 0.5, densities=ONE_ROUND, turns=2),
    Rung("4", 0.3, densities=ONE_ROUND, turns=2),
    Rung("4", 0.3, densities=0.0, turns=2),
    *(Rung("4", top, densities=0.0, turns=1) for top in (0.3, 0.2, 0.14, 0.1)),
)
"""From the best to the cheapest, with components. Below these one model predicts better, for the same bytes."""
SCARCE = tuple(Rung("4", top, densities=0.0, turns=1) for top in (0.07, 0.05, 0.03, 0.02, 0.01))
"""What follows where the user has said how many components there are."""
CODES = (
    *(Rung(), Rung("bfloat16"), Rung("8"), Rung("4")),
    *(Rung("4", top) for top in (0.5, 0.3, 0.2, 0.14, 0.1, 0.07, 0.05, 0.03, 0.02, 0.01)),
)
"""The same where nothing but models travels."""


def ladders(setup: Setup, name: str) -> list[list[dict[str, Any]]]:
    """Settings that the method may be run with, by their names.

    Args:
        setup: The run's. What is not at its default stays.
        name: The method's.

    Returns:
        Ladders, each from the best way to the cheapest: with components, and of fedgmi with one model for all. Each way
        once.
    """
    own = settings_for(setup.config, name)
    if not isinstance(own, FedGMISettings) or choose_judges(own, setup.schema.n_classes).judges != "closed":
        of_factors = bool(setup.method(name).program.relative)  # they travel in bfloat16 at best, and whole
        return [_ladder(setup, [(rung, {}) for rung in (CODES[:2] if of_factors else CODES)])]
    one, fixed = setup.n_components == 1, own.n_components is not None
    rungs = (*RUNGS, *SCARCE) if fixed and not one else RUNGS
    found = [_ladder(setup, [(rung, _of_fedgmi(own, rung, setup)) for rung in rungs])]
    if one or not fixed:
        more = _of_fedgmi(own, Rung(densities=0.0), setup) | ({} if one else {ONE: 1})
        found.append(_ladder(setup, [(rung, more) for rung in CODES]))
    return found


def _ladder(setup: Setup, rungs: Sequence[tuple[Rung, dict[str, Any]]]) -> list[dict[str, Any]]:
    mine = setup.config.communication
    fixed = changed(mine, ("precision", "top", "mask", "layers"))
    found: list[dict[str, Any]] = []
    for rung, more in rungs:
        coded = {"precision": rung.precision, "top": rung.top}
        if {"mask", "layers"} & set(fixed):
            coded["top"] = mine.top
        ways = {f"communication.{key}": value for key, value in coded.items() if key not in fixed} | more
        if ways not in found:
            found.append(ways)
    return found


def _of_fedgmi(own: FedGMISettings, rung: Rung, setup: Setup) -> dict[str, Any]:
    """How often densities and judges travel."""
    ways: dict[str, Any] = {}
    rounds, fixed = setup.config.rounds, changed(own, ("reference_rounds", "judge_turns"))
    if rung.densities is not None:
        ways["method.reference_rounds"] = min(own.reference_rounds, ceil(rung.densities * rounds))
    if rung.turns is not None:
        ways["method.judge_turns"] = min(own.judge_turns, rung.turns)
    return {key: value for key, value in ways.items() if key.partition(".")[2] not in fixed}


def with_choice(setup: Setup, chosen: Mapping[str, Any]) -> Setup:
    """The setup with some settings in place of its own."""
    config = setup.config
    sections = {"communication": config.communication, "method": config.method}
    for section in sections:
        update = {key.partition(".")[2]: value for key, value in chosen.items() if key.startswith(f"{section}.")}
        sections[section] = sections[section].model_copy(update=update)
    n_components = int(chosen.get(ONE, setup.n_components))
    return replace(setup, config=config.model_copy(update=sections), n_components=n_components)
