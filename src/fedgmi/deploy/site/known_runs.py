"""What a site has answered, run by run, and the form of the file that keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedgmi.deploy.masks.tries import Tries
from fedgmi.storage.own_files import Amount, Count, OwnFile, RunName

FILE = "guard.json"
AGAIN = "restore it from a backup; who removes it lets every run be asked anew"
RESULTS = 10**6  # the number of the exchange in which results are handed out
ROUNDS_KNOWN = 2  # before the current one whose exchanges may be asked again; the preparation's may always be


@dataclass
class Answered:
    """An exchange.

    Attributes:
        round: Its round.
        number: Within it.
        place: Of the step in its phase: the first at which it can have been.
        request: The hash of what was asked.
        tries: How often it was asked under masks.
    """

    round: int
    number: int
    place: int
    request: str
    tries: Tries = field(default_factory=Tries)

    @property
    def at(self) -> tuple[int, int]:
        """Round and number."""
        return self.round, self.number

    @property
    def is_step(self) -> bool:
        """Whether it is of a step, and not of results."""
        return self.number < RESULTS


@dataclass
class Run:
    """What is known of a run.

    Attributes:
        data: The version of the rows (`Site.version`).
        index: The site's in the federation.
        last: When it was answered last, in seconds since 1970.
        finished: Whether results were handed out.
        times: How often it was begun: going back to an exchange with another question begins it anew.
        answers: What was answered, oldest first.
        seen: By leaf of the server's state, how it changed: [round, place, hash].
    """

    data: str
    index: int
    last: float = 0.0
    finished: bool = False
    times: int = 0
    answers: list[Answered] = field(default_factory=list)
    seen: dict[str, list[tuple[int, int, str]]] = field(default_factory=dict)

    def forget_from(self, at: tuple[int, int]) -> None:
        """Whatever came at an exchange or later: the coordinator went back."""
        self.answers = [one for one in self.answers if one.at < at]
        last = (self.answers[-1].round, self.answers[-1].place) if self.answers else (-1, -1)
        self.seen = {name: [one for one in every if one[:2] <= last] for name, every in self.seen.items()}

    def prune(self, round: int) -> None:
        """Forget what nobody can go back to."""
        oldest = round - ROUNDS_KNOWN
        self.answers = [one for one in self.answers if one.round == 0 or one.round >= oldest]
        for name, every in self.seen.items():
            self.seen[name] = [one for n, one in enumerate(every) if one[0] >= oldest or n == len(every) - 1]


class KeptRun(OwnFile):
    """A run, as the file has it."""

    data: str
    index: Count
    last: Amount
    finished: bool
    times: Count = 1  # an older fedgmi did not count
    answers: list[
        tuple[Count, Count, Count, str]  # an older fedgmi did not count tries, or did not say since when
        | tuple[Count, Count, Count, str, Count]
        | tuple[Count, Count, Count, str, Count, Amount]
    ]
    seen: dict[str, list[tuple[Count, Count, str]]]

    @classmethod
    def of(cls, run: Run) -> KeptRun:
        """A run, to be written."""
        answers = [(*one.at, one.place, one.request, one.tries.n, one.tries.since) for one in run.answers]
        return cls(**vars(run) | {"answers": answers})

    def as_run(self) -> Run:
        """The same."""
        answers = [Answered(*one[:4], Tries(*one[4:])) for one in self.answers]
        return Run(self.data, self.index, self.last, self.finished, self.times, answers, self.seen)


class KnownRuns(OwnFile):
    """`guard.json`."""

    what = "what a site has answered"
    again = AGAIN
    begun: dict[str, Count]
    runs: dict[RunName, KeptRun]

    @classmethod
    def of(cls, runs: Mapping[str, Run], begun: Mapping[str, int]) -> KnownRuns:
        """Runs by name, and how many were begun by version of the rows, to be written."""
        return cls(begun=dict(begun), runs={name: KeptRun.of(run) for name, run in runs.items()})
