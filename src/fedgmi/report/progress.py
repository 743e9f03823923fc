"""Progress of a run: a bar per method on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from fedgmi.protocol.listener import Listener

LINES_PER_RUN = 10
"""About so many lines are printed where the console is no terminal."""
ENOUGH = 0.2
"""Of one run has to be done before it is said how long all will take."""
OVER = ("done", "failed")
"""Stages of runs that are over."""


def can_draw(console: Console) -> bool:
    """Whether a bar can be drawn: on a terminal, or in a notebook that has the widgets which rich draws with there."""
    return console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)


@contextmanager
def listening(console: Console) -> Iterator[Listener]:
    """A listener that draws on the console for as long as the block runs.

    Args:
        console: A terminal or a notebook gets a bar per method, anything else a few plain lines.
    """
    if not can_draw(console):
        yield Lines(console)
        return
    columns = (
        TextColumn("{task.description:<8}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[stage]:<11}", markup=False),
        TextColumn("{task.fields[status]}", markup=False),
    )
    with Progress(*columns, console=console) as progress:
        yield Bars(progress)


@contextmanager
def watching(console: Console) -> Iterator[Callable[[dict[str, str]], None]]:
    """A watcher of many runs at once, for as long as the block runs.

    Args:
        console: A terminal gets one bar over all runs, anything else a line per finished run.

    Yields:
        A function of every run's stage, by the run's name.
    """
    if not can_draw(console):
        yield _Finished(console)
        return
    columns = (TextColumn("{task.completed:.0f} of {task.total:.0f} runs"), BarColumn(bar_width=24))
    with Progress(*columns, TextColumn("{task.description}", markup=False), console=console) as progress:
        bar = progress.add_task("", total=None)

        left = _Left()

        def watch(stages: dict[str, str]) -> None:
            over = sum(stage in OVER for stage in stages.values())
            busy = [f"{name} {stage}" for name, stage in stages.items() if stage not in (*OVER, "waiting")]
            progress.update(bar, total=len(stages), completed=over, description=", ".join([*busy, *left(stages)]))

        yield watch


class _Left:
    """How long many runs will take together, by what they have done since this was first asked."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began: tuple[float, float] | None = None

    def __call__(self, stages: dict[str, str]) -> list[str]:
        """The words, or none while too little is done to tell, and when all is done."""
        done, now = sum(map(_share, stages.values())), self._clock()
        if self._began is None:
            self._began = now, done
        began, before = self._began
        if done - before < ENOUGH or done >= len(stages):
            return []
        return [f"about {_duration((now - began) * (len(stages) - done) / (done - before))} left"]


def _share(stage: str) -> float:
    """How much of a run is done.

    >>> _share("round 3/6"), _share("failed"), _share("preparing"), _share("ending")
    (0.5, 1.0, 0.0, 1.0)
    """
    if stage in (*OVER, "ending"):
        return 1.0
    number, _, rounds = stage.removeprefix("round ").partition("/")
    return min(1.0, int(number) / int(rounds)) if rounds else 0.0


class _Finished:
    """A line for each run that is over."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._reported: set[str] = set()
        self._left = _Left()

    def __call__(self, stages: dict[str, str]) -> None:
        left = self._left(stages)
        for name, stage in stages.items():
            if stage in OVER and name not in self._reported:
                self._reported.add(name)
                line = f"{name}: {', '.join([stage, *left])} ({len(self._reported)} of {len(stages)})"
                self._console.print(line, soft_wrap=True, highlight=False, markup=False)


class _Pace:
    """Where a run stands, and how long its rounds will take, by a running mean of the seconds that recent ones took.

    What the end takes is not known before: it may be longer than all rounds, so that no time is promised for it.
    """

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self._seconds: float | None = None
        self._mean = 0.0

    def stage(self, record: dict[str, Any]) -> str:
        """Round 0 is the preparation, the one after the last the end."""
        number = int(record["round"])
        if number == 0:
            return "prepared"
        return f"round {number}/{self.rounds}" if number <= self.rounds else "done"

    def status(self, record: dict[str, Any]) -> str:
        """The words behind the bar: bound, proportion error, time left. Call it once a record."""
        number, seconds = int(record["round"]), float(record["seconds"])
        if self._seconds is None:  # the first record of a run, or of what is left of a resumed one
            self._mean = seconds / (number + 1)
        else:
            latest = seconds - self._seconds
            self._mean = latest if number == 1 else 0.7 * self._mean + 0.3 * latest
        self._seconds = seconds
        left = self.rounds - number
        bound, error = record.get("bound"), record.get("proportion_tv")
        words = [
            f"bound {bound:.2f} nats/row" if bound is not None else "",
            f"proportion error {error:.3f}" if error is not None else "",
            f"{_duration(self._mean * left)} of rounds left" if left > 0 else _duration(seconds) if left < 0 else "",
        ]
        return "  ".join(word for word in words if word)


class Bars:
    """One bar per method's run."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._runs: dict[str, tuple[TaskID, _Pace]] = {}

    def started(self, name: str, rounds: int) -> None:
        """A run begins."""
        task = self._progress.add_task(name, total=rounds, stage="preparing", status="")
        self._runs[name] = task, _Pace(rounds)

    def round_done(self, record: dict[str, Any]) -> None:
        """A round is over, or the preparation, or the end."""
        task, pace = self._runs[record["run"]]
        completed = min(int(record["round"]), pace.rounds)
        self._progress.update(task, completed=completed, stage=pace.stage(record), status=pace.status(record))

    def doing(self, name: str, part: str) -> None:
        """A part of the end begins."""
        self._progress.update(self._runs[name][0], stage=part, status="after the last round")

    def said(self, name: str, line: str) -> None:
        """A line of its own."""
        self._progress.console.print(line, soft_wrap=True, highlight=False, markup=False)

    def finished(self, name: str) -> None:
        """A run is over."""
        self._progress.stop_task(self._runs[name][0])


class Lines:
    """About ten lines per method's run, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._runs: dict[str, _Pace] = {}

    def started(self, name: str, rounds: int) -> None:
        """A run begins."""
        self._runs[name] = _Pace(rounds)

    def round_done(self, record: dict[str, Any]) -> None:
        """A round is over, or the preparation, or the end."""
        pace = self._runs[record["run"]]
        stage, status, number = pace.stage(record), pace.status(record), int(record["round"])
        if number > pace.rounds or number % max(1, -(-pace.rounds // LINES_PER_RUN)) == 0:
            self._console.print(f"{record['run']}: {stage}  {status}", soft_wrap=True, highlight=False, markup=False)

    def doing(self, name: str, part: str) -> None:
        """A part of the end begins."""
        self._console.print(f"{name}: {part}", soft_wrap=True, highlight=False, markup=False)

    def said(self, name: str, line: str) -> None:
        """A line of its own."""
        self._console.print(line, soft_wrap=True, highlight=False, markup=False)

    def finished(self, name: str) -> None:
        """A run is over. Nothing is left to say."""


def _duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> _duration(7.4), _duration(83), _duration(7300)
    ('7 s', '1 min 23 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
