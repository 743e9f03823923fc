"""What a plan is: how a run keeps to its budget, and what the clients that it is made for cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from fedgmi.protocol.allowance import MB, Allowance, Costs
from fedgmi.runs.setup import Setup

Course: TypeAlias = tuple[Sequence[int], frozenset[int]]
"""In which rounds a client is asked, and in which of these (0: the preparation) its reply is lost."""


@dataclass(frozen=True)
class Plan:
    """How a run keeps to its budget.

    Attributes:
        setup: The run's, with what the plan has chosen.
        chosen: That, by the names of settings.
        costs: What a client costs, as foreseen.
        courses: In which rounds the clients that may be the dearest are asked, and in which of these their replies
            are lost.
        foreseen: Bytes of a client, in all: of the middle one where replies are lost, of the dearest otherwise.
        line: What is said of it before the run.
    """

    setup: Setup
    chosen: Mapping[str, Any]
    costs: Costs
    courses: Sequence[Course]
    foreseen: int
    line: str

    def allowance(self, spent: int = 0) -> Allowance:
        """What clients may cost in the run.

        Args:
            spent: Bytes of a client before it.
        """
        limits = self.setup.config.communication
        total = None if limits.mb_per_client is None else int(limits.mb_per_client * MB) - spent
        each = None if limits.mb_per_client_round is None else int(limits.mb_per_client_round * MB)
        return Allowance(
            total, each, self.costs, self.costs.of(*usual(self.costs, self.courses)) - self.costs.prepare, spent
        )


def usual(costs: Costs, asked: Sequence[Course]) -> Course:
    """The client in the middle. Where replies are lost, a plan for the unluckiest would be dear for all."""
    return sorted(asked, key=lambda course: costs.of(*course))[len(asked) // 2]
