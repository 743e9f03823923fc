"""A site's own order of things: each step once a run, in the program's order, over a state that only steps change.

What was answered stands in `guard.json` in the site's folder, written whole or not at all, before an answer leaves. So
it outlives the process, and no name of a run makes a site forget another one.

- (round, number) only rises, and a step's place in the program with it. The same request again gets the same answer.
- A request that goes back to an exchange that is answered, and asks something else there, is a run anew, for it costs
  the rows what one does. There are `max_runs` for each version of the rows. The preparation cannot be gone back to.
- Under masks the same question is asked under other keys where a try has failed: `tries.MOST_TRIES` times a day for an
  exchange. What masks need is answered for exchanges that may be asked by then, of runs that may.
- A leaf of the server's state is the one that came before, unless a step in between writes it (`Step.writes`). So the
  codebook cannot change but by the steps that learn it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedgmi.deploy.masks.tries import Tries
from fedgmi.deploy.site.known_runs import FILE, RESULTS, Answered, KnownRuns, Run
from fedgmi.errors import LimitError
from fedgmi.protocol.phases import phase_of
from fedgmi.protocol.step import Program, covers
from fedgmi.protocol.wire import WireError
from fedgmi.storage import files

LOCK = "guard.lock"
DAYS_SILENT = 30  # after which a run that never came to its end is given up
Place = tuple[int, int]  # round, and the step's place in its phase


class Refused(WireError):
    """A request that the site does not answer, though nothing is wrong with its bytes."""


class OverLimit(Refused, LimitError):
    """A request that a limit of site.toml does not allow."""

    def __init__(self, what: str) -> None:
        LimitError.__init__(self, what)
        self.missing = []


@dataclass(frozen=True)
class Turn:
    """A request that may be answered.

    Attributes:
        run: The run's name.
        about: What is known of the run, with this request.
        new: Whether it is no request that was answered before.
        costs: Whether it is a run anew.
        counted: Whether it counts though it was answered before: under masks.
    """

    run: str
    about: Run
    new: bool = True
    costs: bool = False
    counted: bool = False

    @property
    def asked(self) -> tuple[tuple[int, int], str]:
        """Of a new request: which exchange it is for, and the hash of what it asks."""
        now = self.about.answers[-1]
        return now.at, now.request

    def since(self, round: int) -> bool:
        """Whether a step of this round or a later one was answered in the run."""
        return any(one.is_step and one.round >= round for one in self.about.answers)


@dataclass(frozen=True)
class Guard:
    """A site's.

    Attributes:
        where: The site's folder.
        data: The version of the rows (`Site.version`).
        rounds: R.
        max_runs: How many runs there may be over one version of the rows; None: any number.
    """

    where: Path
    data: str
    rounds: int
    max_runs: int | None = None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One request at a time: a second process of the same site waits for the first to end."""
        with files.locked(self.where / LOCK):
            yield

    def going_on(self) -> set[str]:
        """Runs that are neither finished nor silent for long: what is kept of these is not to go."""
        oldest = time.time() - DAYS_SILENT * 24 * 3600
        return {name for name, run in self._read()[0].items() if not run.finished and run.last > oldest}

    def has_begun(self, run: str) -> bool:
        """Whether something of a run was answered."""
        return run in self.runs()

    def runs(self) -> set[str]:
        """Runs of which something was answered."""
        return set(self._read()[0])

    def turn(self, header: Mapping[str, Any], request: str, program: Program) -> Turn:
        """Whether it is a request's turn, by its header alone.

        Args:
            header: The request's, as `requests.check_place` has passed it.
            request: The hash of all that it asks.
            program: The site's own.

        Returns:
            The turn, to be kept once the answer is there.

        Raises:
            Refused: It says why.
        """
        runs, begun = self._read()
        name, at = str(header["run"]), _at(header)
        run = runs.get(name)
        costs = run is None or run.data != self.data
        if run is None or run.data != self.data:  # its times go on: what was charged by them has been
            run = Run(self.data, header["id"], times=0 if run is None else run.times)
        if run.index != header["id"]:
            raise Refused(f"the request is for site {header['id']}, and this one is {run.index} in this run")
        same = next((one for one in run.answers if one.at == at and one.request == request), None)
        if same is not None:
            if "masks" in header:
                same.tries = same.tries.once_more(at)
            return Turn(name, run, new=False, counted="masks" in header)
        if run.answers and at <= run.answers[-1].at:
            if at[0] == 0:
                raise Refused(f"exchange {list(at)} of the preparation is answered, and this is another request")
            costs = True
            run.forget_from(at)
        if costs:
            self._admit(begun)
            run.times += 1
        place = _place(header, program, self.rounds, run.answers)
        if header["kind"] != "step" and not any(one.is_step for one in run.answers):
            raise Refused("no step of this run was answered here, and results are for sites that took part")
        run.answers.append(Answered(*at, place, request, Tries().once_more(at)))
        return Turn(name, run, costs=costs)

    def check_masks(self, header: Mapping[str, Any]) -> None:
        """Refuse to do for masks what no sum can need: whose step would be refused, or was.

        Args:
            header: The request's. Its round, number and index can be.

        Raises:
            Refused: It says why.
        """
        runs, begun = self._read()
        run, at = runs.get(str(header["run"])), (header["round"], header["number"])
        if run is None or run.data != self.data:
            return self._admit(begun)
        if run.index != header["id"]:
            raise Refused(f"the request is for site {header['id']}, and this one is {run.index} in this run")
        if not run.answers or at > run.answers[-1].at or any(one.at == at for one in run.answers):
            return None
        if at[0] == 0:
            raise Refused(f"masks are asked for in exchange {list(at)} of the preparation, which is over")
        return self._admit(begun)

    def check_leaves(self, turn: Turn, header: Mapping[str, Any], program: Program, leaves: Mapping[str, str]) -> None:
        """Refuse a leaf that no step can have changed, and remember the others.

        Args:
            turn: The request's.
            header: Its header.
            program: The site's own.
            leaves: The hash of what came of each leaf, by name.

        Raises:
            Refused: It names the leaf.
        """
        if not turn.new:
            return
        now = turn.about.answers[-1]
        upto = (now.round, _latest(header, program, self.rounds))
        for name, what in leaves.items():
            seen = turn.about.seen.setdefault(name, [])
            if seen and seen[-1][2] == what:
                continue
            if seen and not _written(name, program, self.rounds, seen[-1][:2], upto):
                raise Refused(
                    f"the coordinator changed {name!r}, and no step between rounds {seen[-1][0]} and {now.round} does"
                )
            seen.append((now.round, now.place, what))

    def keep(self, turn: Turn, *, finished: bool = False) -> None:
        """Remember that a request is answered; before the answer leaves."""
        if not turn.new and not turn.counted:
            return
        runs, begun = self._read()
        run = turn.about
        if turn.costs:
            begun[self.data] = begun.get(self.data, 0) + 1
        run.last = time.time()
        if turn.new:
            run.finished = finished
            run.prune(run.answers[-1].round)
        files.write_json(self.where / FILE, KnownRuns.of(runs | {turn.run: run}, begun).to_json(), lines=False)

    def used(self) -> int:
        """How many runs there were over these rows."""
        return self._read()[1].get(self.data, 0)

    def begun(self) -> dict[str, int]:
        """How many runs there were, by version of the rows."""
        return self._read()[1]

    def _admit(self, begun: Mapping[str, int]) -> None:
        used = begun.get(self.data, 0)
        if self.max_runs is not None and used >= self.max_runs:
            raise OverLimit(
                f"these rows were in {used} runs, and max_runs is {self.max_runs}: the site can raise it in site.toml"
            )

    def _read(self) -> tuple[dict[str, Run], dict[str, int]]:
        path = self.where / FILE
        if not path.exists():
            return {}, {}
        found = KnownRuns.read(path)
        return {name: run.as_run() for name, run in found.runs.items()}, found.begun


def version_of(content: str, digest: str) -> str:
    """What runs and releases are counted by: the rows of the file, whichever of them a seed holds out.

    Args:
        content: A digest of the file's rows; "": a snapshot of an older fedgmi has none.
        digest: Of the rows as they are parted.
    """
    return content or digest


def _at(header: Mapping[str, Any]) -> tuple[int, int]:
    """The exchange; results are handed out after all of them."""
    return header["round"], header["number"] if header["kind"] == "step" else RESULTS


def _place(header: Mapping[str, Any], program: Program, rounds: int, answers: Sequence[Answered]) -> int:
    """The first place in its phase that a request can have."""
    steps = program.steps(phase_of(header["round"], rounds))
    if header["kind"] != "step":
        if header["round"] != rounds + 1:
            raise Refused(f"results are handed out in round {rounds + 1}, at the end, and not in {header['round']}")
        return len(steps)
    step, number = steps[header["step"]], header["number"]
    last = answers[-1].place if answers and answers[-1].round == header["round"] else -1
    places = (n for n, other in enumerate(steps) if other is step and n > last and n >= number)
    found = next(places, None)
    if found is None:
        before = f"after {steps[last].name!r} " if last >= 0 else ""
        raise Refused(
            f"it is not the turn of step {step.name!r} {before}in exchange {number} of round {header['round']}"
        )
    return found


def _latest(header: Mapping[str, Any], program: Program, rounds: int) -> int:
    """The last place that it can have: the same step may stand in several."""
    steps = program.steps(phase_of(header["round"], rounds))
    if header["kind"] != "step":
        return len(steps)
    return max(n for n, other in enumerate(steps) if other is steps[header["step"]])


def _written(name: str, program: Program, rounds: int, since: Place, upto: Place) -> bool:
    """Whether a step writes a leaf from one place on and before another one."""
    for round in _phases_between(since[0], upto[0]):
        steps = program.steps(phase_of(round, rounds))
        first = since[1] if round == since[0] else 0
        end = upto[1] if round == upto[0] else len(steps)
        if any(covers(entry, name) for step in steps[first:end] for entry in step.writes):
            return True
    return False


def _phases_between(first: int, last: int) -> list[int]:
    """The rounds from one to another; of whole rounds in between one stands for all."""
    return [first, *range(first + 1, last)[:1], *([last] if last > first else [])]
