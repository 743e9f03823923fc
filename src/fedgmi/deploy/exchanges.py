"""How often a run asks its sites, told before it begins: over several machines each time takes seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fedgmi.protocol.step import Phase, Program, Step

PHASES: tuple[tuple[Phase, str], ...] = (("prepare", "before the first round"), ("finish", "at the end"))


class Times(NamedTuple):
    """How often.

    Attributes:
        least: Where every step that may be left out is.
        most: Where none is.

    Examples:
        >>> str(Times(3, 3)), str(Times(3, 8))
        ('3', '3 to 8')
    """

    least: int
    most: int

    def __str__(self) -> str:
        return str(self.most) if self.least == self.most else f"{self.least} to {self.most}"


def times(steps: Sequence[Step]) -> Times:
    """How often some steps ask the sites. A step may be left out where its own condition says so, or a budget.

    Args:
        steps: Of a phase.

    Returns:
        The least and the most.
    """
    sure = sum(step.when is None and not step.spare and not step.unforeseen for step in steps)
    return Times(sure, len(steps))


def of_a_round(program: Program) -> Times:
    """How often a round asks the sites: once at least, whatever conditions its steps have."""
    found = times(program.round)
    return Times(max(found.least, min(1, found.most)), found.most)


def exchanges(program: Program, rounds: int) -> Times:
    """How often a whole run asks its sites: all steps, and the results once.

    Args:
        program: What sites are asked, the proportions at the end included (`fedgmi.methods.disclosing`).
        rounds: R.

    Returns:
        The least and the most.
    """
    parts = [times(program.steps(phase)) for phase, _ in PHASES] + [of_a_round(program)] * rounds
    return Times(1 + sum(part.least for part in parts), 1 + sum(part.most for part in parts))


def line(program: Program, rounds: int) -> str:
    """The same for people, in one line.

    Args:
        program: The method's.
        rounds: R.

    Returns:
        The line.
    """
    parts = [f"{times(program.steps(phase))} {words}" for phase, words in PHASES if program.steps(phase)]
    parts.insert(min(1, len(program.prepare)), f"{of_a_round(program)} in each of {rounds} rounds")
    return f"{exchanges(program, rounds)} exchanges with every site: {', '.join(parts)}, 1 for results"
