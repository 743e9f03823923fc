"""How many components a run has: those asked for, the scenario's, or as many as the clients' counts show."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from fedgmi.data.rows import Client
from fedgmi.diagnosis.survey import Survey, begins_with, take_survey
from fedgmi.errors import FedgmiWarning, too_many_components
from fedgmi.methods import Method
from fedgmi.methods.fedgmi.sketch import RELIABLE
from fedgmi.mixture.information import MIN_CONTRAST
from fedgmi.mixture.rare_words import MUCH_LOST
from fedgmi.mixture.spectrum import estimate_components
from fedgmi.protocol.ledger import bytes_by_kind
from fedgmi.protocol.step import Program
from fedgmi.runs.config import Config
from fedgmi.runs.setup import Setup, losses_of

SURVEYED = "fedgmi"  # whose sketch asks for the counts, whatever method they are for
ONE = (
    "one component was estimated: clients are alike, or each scatters on its own. There are no proportions to tell "
    "apart, and one model is trained for all"
)


@dataclass(frozen=True)
class ComponentCount:
    """K, and what it took to know it.

    Attributes:
        n_components: K.
        estimated: Whether it was estimated.
        bytes: Of all clients for the estimate, down and up, by kind.
        seconds: For it.
        steps: The exchanges of the survey that it was estimated by.
        survey: The survey itself, where it was taken in this process.
    """

    n_components: int
    estimated: bool = False
    bytes: dict[str, list[int]] = field(default_factory=dict)
    seconds: float = 0.0
    steps: tuple[str, ...] = ()
    survey: Survey | None = field(default=None, repr=False)

    def to_json(self) -> dict[str, Any]:
        """For `n_components.json`."""
        return {
            "n_components": self.n_components,
            "estimated": self.estimated,
            "bytes": self.bytes,
            "seconds": self.seconds,
            "steps": list(self.steps),
        }

    def bytes_beside(self, program: Program) -> dict[str, list[int]]:
        """What the estimate cost beside a run of this program: nothing where the run goes on from its exchanges."""
        return {} if begins_with(program, self.steps) else self.bytes

    def bytes_of_client(self, program: Program, n_clients: int) -> int:
        """The same of one client, down and up together: clients are all asked alike."""
        return -(-sum(down + up for down, up in self.bytes_beside(program).values()) // n_clients)

    def charge(self, outcome: dict[str, Any], program: Program) -> None:
        """Add the cost to that of the run that K was estimated for.

        Args:
            outcome: The run's, changed in place.
            program: The run's.
        """
        outcome["seconds"] += self.seconds
        kinds = outcome["bytes"]
        for kind, (down, up) in self.bytes_beside(program).items():
            before = kinds.get(kind, (0, 0))
            kinds[kind] = [before[0] + down, before[1] + up]
            outcome["bytes_down"] += down
            outcome["bytes_up"] += up


def count_components(config: Config, setup: Setup, clients: Sequence[Client], device: torch.device) -> ComponentCount:
    """K as the settings ask for it.

    Args:
        config: `method.n_components` is a number, "auto", or None for the scenario's.
        setup: Of any number of components; it says how clients are asked.
        clients: Whose counts are asked for where K is estimated.
        device: Where that is done.

    Returns:
        K, and its cost.

    Raises:
        ConfigError: For more components than clients.
    """
    asked = config.method.n_components
    if asked != "auto":
        n_components = asked or config.scenario.n_components
        if n_components > len(clients):
            fix = f"ask for {len(clients)} or fewer" if len(clients) > 1 else "ask for 1"
            raise too_many_components(n_components, len(clients), where="method.n_components", fix=fix)
        return ComponentCount(n_components)
    losses = losses_of(config)
    survey = take_survey(setup.task(SURVEYED), clients, standardise=setup.standardise, device=device, losses=losses)
    began = time.perf_counter()
    found = estimate_components(survey.histograms, config.seed, noise=survey.noise).n_components
    if found == 1:
        warnings.warn(ONE, FedgmiWarning, stacklevel=2)
    seconds = survey.seconds + time.perf_counter() - began
    return ComponentCount(found, True, bytes_by_kind(survey.transport.ledger), seconds, survey.steps, survey)


def warn_of_warm_up(method: Method, rounds: int) -> None:
    """Warn of a run so short that the method never leaves its warm-up, in which all have one model."""
    if 0 < rounds <= method.program.warm_up:
        every = f"all {rounds} round{'s belong' if rounds > 1 else ' belongs'} to the warm-up of {method.name}"
        what = f"{every}, in which one model is trained for everybody. Run {method.program.warm_up + 1} rounds or more"
        warnings.warn(FedgmiWarning(what), stacklevel=2)


def counted(n: int, noun: str) -> str:
    """A count and its noun: 1 client, 2 clients."""
    return f"{n} {noun}{'s' * (n != 1)}"


def lost_words(share: float | None) -> list[str]:
    """A sentence where many rows have words that are lost (None: nobody counted); else none."""
    if share is None or share <= MUCH_LOST:
        return []
    return [
        f"{share:.0%} of all rows have words too rare to count, even by cell or by label alone: they tell clients "
        "apart by little. More rows help, or fewer cells (method.codewords)."
    ]


def warn_of_unshown(n_components: int, found: Mapping[str, Any]) -> None:
    """Warn where the clients' counts show another number of components than was asked for, and say who is not known.

    Args:
        n_components: K.
        found: What `evaluate` says, or as much of it as there is. What is not there was counted by nobody.
    """
    for line in (*of_unshown(n_components, found), *of_unidentified(n_components, found)):
        warnings.warn(line, FedgmiWarning, stacklevel=2)


def of_unshown(n_components: int, found: Mapping[str, Any]) -> list[str]:
    """A sentence where the clients show more components than were asked for, or fewer; else none."""
    shown, reliability = found.get("components_shown"), found.get("reliability")
    if shown is None or reliability is None or n_components == shown:
        return []
    asked = f"{counted(n_components, 'component')} {'was' if n_components == 1 else 'were'} asked for"
    if shown > n_components:
        return [f"{asked}, and the clients show {int(shown)}. See fedgmi diagnose, or ask for more"]
    if reliability < RELIABLE:
        lost = found.get("rows_in_lost_words") or 0.0
        rare = f". {lost:.0%} of all rows have words too rare to count" if lost > MUCH_LOST else ""
        return [
            f"{asked}, and clients differ by hardly more than chance ({reliability:.0%} is more; "
            f"{counted(int(shown), 'component')} {'is' if shown == 1 else 'are'} shown): every client has the pooled "
            f"proportions, and the components are one{rare}. More rows a client help, or more clients"
        ]
    return [
        f"{asked}, and the clients show {int(shown)}: proportions among the others are arbitrary, and no client's are "
        "identified. See fedgmi diagnose, or ask for fewer"
    ]


def of_unidentified(n_components: int, found: Mapping[str, Any]) -> list[str]:
    """How many clients' proportions are not known, and why; nothing where all are."""
    known, contrast = found.get("identified"), found.get("contrast")
    if known is None or contrast is None or all(known) or n_components == 1:
        return []
    pooled = found.get("reliability", 1.0) < RELIABLE
    if found.get("components_shown", n_components) < n_components:
        return []  # of_unshown says it
    told = f"proportions of {len(known) - sum(known)} of {counted(len(known), 'client')} are not identified"
    if contrast >= MIN_CONTRAST:
        return [f"{told}: too few rows"]
    if pooled:
        return [f"{told}: clients differ by hardly more than chance, and all have the pooled ones"]
    return [f"{told}: rows do not tell the components apart (contrast {contrast:.2f}, below {MIN_CONTRAST})"]
