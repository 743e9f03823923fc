"""How often a run asks its sites, told before it begins: over several machines each time takes seconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fedgmi.deploy.settings import SLOTS
from fedgmi.protocol.secure_sum import seen_singly
from fedgmi.protocol.step import Phase, Program, Step

FOR_A_SUM, FOR_KEYS = 1, 2  # with masks: what a sum takes besides, and what keys for SLOTS sums take


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


class Count(NamedTuple):
    """How often a run asks its sites from where it stands to its end, where none of them fails.

    Attributes:
        program: What sites are asked, the proportions at the end included (`fedgmi.methods.disclosing`).
        rounds: R.
        masked: Whether sums are masked: each takes one exchange more, and keys two for `SLOTS` sums.
        done: The round that it goes on after; −1: it begins; 0: the preparation is done, or a warm start takes its
            place.
    """

    program: Program
    rounds: int
    masked: bool = False
    done: int = -1

    def of_phase(self, phase: Phase) -> Times:
        """How often a phase, or one round, asks; a round does once at least, whatever conditions its steps have."""
        steps = self.program.steps(phase)
        found = self._of(steps)
        if phase != "round" or found.least:
            return found
        return Times(min((self._of([step]).most for step in steps), default=0), found.most)

    def _of(self, steps: Sequence[Step]) -> Times:
        """A step may be left out where its own condition says so, or a budget."""
        asked = [1 + FOR_A_SUM * self._is_sum(step) for step in steps]
        return Times(sum(n for n, step in zip(asked, steps, strict=True) if _sure(step)), sum(asked))

    def _is_sum(self, step: Step) -> bool:
        """Whether its messages are masked: all but those that are seen singly, and those that tell nothing."""
        return self.masked and bool(step.tells) and not seen_singly(step)

    @property
    def rounds_left(self) -> int:
        """Those that are still to come."""
        return max(0, self.rounds - max(0, self.done))

    def keys(self) -> Times:
        """How often keys of masks are agreed on."""
        least = most = 0
        for n, phase in self._phases():
            sums = [step for step in self.program.steps(phase) if self._is_sum(step)]
            sure = sum(map(_sure, sums))
            if phase == "round" and sums and len(sums) == len(self.program.round):
                sure = max(sure, 1)  # one of them is asked, whatever their conditions
            least, most = least + n * sure, most + n * len(sums)
        return Times(*(FOR_KEYS * -(-sums // SLOTS) for sums in (least, most)))

    def _phases(self) -> Iterator[tuple[int, Phase]]:
        """What is to come, each with how many times."""
        if self.done < 0:
            yield 1, "prepare"
        yield self.rounds_left, "round"
        if self.done <= self.rounds:
            yield 1, "finish"

    def total(self) -> Times:
        """How often the whole asks: all steps, keys of masks, and the results once."""
        parts = [(n, self.of_phase(phase)) for n, phase in self._phases()] + [(1, self.keys())]
        return Times(1 + sum(n * part.least for n, part in parts), 1 + sum(n * part.most for n, part in parts))

    def line(self) -> str:
        """The same for people, in one line."""
        words = {
            "prepare": "before the first round",
            "round": f"in each of {self.rounds_left} rounds" + (" to come" if self.done > 0 else ""),
            "finish": "at the end",
        }
        phases = [phase for n, phase in self._phases() if n and self.program.steps(phase)]
        parts = [f"{self.of_phase(phase)} {words[phase]}" for phase in phases]
        parts += [f"{keys} for keys of masks"] if (keys := self.keys()).most else []
        return f"{self.total()} exchanges with every site: {', '.join([*parts, '1 for results'])}"


def _sure(step: Step) -> bool:
    return step.when is None and not step.spare and not step.unforeseen
