"""Methods × seeds side by side: every cell is an ordinary `fedgmi run` in a process of its own, several at a time.

A finished cell is read and not repeated, so the same command goes on where it was cut off. A cell that fails is
reported, and the others go on.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence, Set
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Lock
from typing import Any, TypeAlias

from fedgmi.errors import ConfigError, UserError
from fedgmi.runs.cells import cell_config, check_oracle, check_tasks, grid, result
from fedgmi.runs.config import Config, dump, load
from fedgmi.runs.contestants import ORACLE
from fedgmi.runs.records import Comparison, Summary
from fedgmi.runs.statistics import compared
from fedgmi.runs.tuning import check_folder, check_tuning, runs_of, tuned
from fedgmi.storage import files, folder

POLL_S = 0.2
Watcher: TypeAlias = Callable[[dict[str, str]], None]
"""Told by a cell's name what it is at: "waiting", "preparing", "round 3/30", "ending", "done", "failed"."""


def compare(
    config: Config,
    out: Path,
    methods: Sequence[str],
    seeds: Sequence[int],
    *,
    jobs: int = 1,
    tune: bool = False,
    watch: Watcher | None = None,
) -> dict[str, Any]:
    """Run methods over seeds and compare them.

    Args:
        config: Settings that all runs have in common.
        out: The results folder. Cells that it holds already are read and not repeated.
        methods: Names of METHODS, `fedgmi-PRESET`, or "oracle".
        seeds: The seeds. Every method runs once for each.
        jobs: How many runs there are at a time.
        tune: Whether validation rows choose each method's own settings, at every seed; see `runs.tuning`.
        watch: Called several times a second with what every cell is at.

    Returns:
        What `out` then holds as `comparison.json`.

    Raises:
        ConfigError: A method is unknown or not for the task, a method or seed is named twice, validation rows are to
            choose and cannot, or the folder holds a comparison with other settings.
        UserError: The folder holds other results, cannot be written, or another process works there.
    """
    cells = grid(methods, seeds)
    check_oracle(config, methods)
    check_tasks(config, methods)
    check_folder(config, out, tune)
    if tune:
        check_tuning(config, cells)
    _claim(config, out)
    with folder.alone(out):
        files.write_text(out / folder.CONFIG, dump(config))
        runs = runs_of(config, cells, tune)
        for cell in runs:
            settings = cell_config(config, cell, ORACLE in methods, jobs)
            files.write_text(out / folder.CELLS / f"{cell.name}.toml", dump(settings))
        done = {cell.name for cell in runs if _finished(cell.name, out / folder.CELLS)}
        names = [cell.name for cell in runs]
        watch = watch or (lambda stages: None)
        reasons = _run_all(names, done, out / folder.CELLS, max(1, jobs), watch, config.rounds)
        where = out / folder.CELLS
        found = [tuned(config, cell, where, reasons) if tune else result(cell, where, reasons) for cell in cells]
        return Comparison.write(
            out, compared(config.scenario.name, list(methods), list(seeds), found, config.evaluation.metric)
        )


def _claim(config: Config, out: Path) -> None:
    """Take a folder for this comparison: one folder has one configuration, whatever the seeds and the threads."""
    if (out / folder.RECORDS).exists() or (out / folder.DIAGNOSIS).exists():
        raise UserError("the folder holds other results", where=str(out), fix="give another folder with --out")
    path = out / folder.CONFIG
    if path.exists() and _common(load(path)) != _common(config):
        raise ConfigError(
            "the comparison there has other settings",
            where=str(path),
            fix="compare with the settings it was begun with, or give another folder with --out",
        )
    folder.claim(out, resume=True, comparison=True)


def _common(config: Config) -> Config:
    return config.model_copy(update={"seed": 0, "threads": None})


class _Children:
    """Processes that are started by several threads, and that one thread can stop all at once."""

    def __init__(self) -> None:
        self._lock, self._stopped = Lock(), False
        self._running: set[subprocess.Popen[bytes]] = set()

    def run(self, command: Sequence[str], log: Path) -> int:
        """Run a command to its end, its words in the log. Returns its exit code."""
        with files.writing(log):
            file = log.open("wb")
        with file, self._lock:
            if self._stopped:
                raise CancelledError
            process = subprocess.Popen(command, stdout=file, stderr=file, stdin=subprocess.DEVNULL)
            self._running.add(process)
        try:
            return process.wait()
        finally:
            with self._lock:
                self._running.discard(process)

    def stop(self) -> None:
        """End what runs, and start nothing more."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.terminate()


def _finished(name: str, where: Path) -> bool:
    """Whether a cell's run has come to its end, so that no process is needed to say so."""
    try:
        Summary.read(where / name)
        return _common(load(where / name / folder.CONFIG)) == _common(load(where / f"{name}.toml"))
    except UserError:
        return False


def _run_all(
    names: Sequence[str], done: Set[str], where: Path, jobs: int, watch: Watcher, rounds: int
) -> dict[str, str]:
    """Run cells that are not done, at most `jobs` at a time, and stop them all where this process is stopped.

    Returns:
        Why cells failed, by their names.
    """
    stages = {name: "done" if name in done else "waiting" for name in names}
    reasons, children = dict[str, str](), _Children()
    if done:
        watch(dict(stages))
    with ThreadPoolExecutor(jobs) as pool:
        cells: dict[Future[int], str] = {}
        try:
            cells |= {
                pool.submit(children.run, _command(name, where), _log(name, where)): name
                for name in names
                if name not in done
            }
            left = set(cells)
            while left:
                over, left = wait(left, POLL_S, FIRST_COMPLETED)
                stages |= {cells[future]: _stage(where / cells[future], rounds) for future in left if future.running()}
                for future in over:
                    name, code = cells[future], future.result()
                    stages[name] = "failed" if code else "done"
                    if code:
                        reasons[name] = _last_line(_log(name, where), code)
                watch(dict(stages))
        except BaseException:  # Ctrl-C too
            pool.shutdown(wait=False, cancel_futures=True)
            children.stop()
            raise
    return reasons


def _command(name: str, where: Path) -> list[str]:
    settings, out = str(where / f"{name}.toml"), str(where / name)
    return [sys.executable, "-m", "fedgmi", "run", settings, "--out", out, "--resume"]


def _log(name: str, where: Path) -> Path:
    return where / f"{name}.log"


def _stage(run: Path, rounds: int) -> str:
    records = folder.read_records(run)
    last = records[-1]["round"] if records else -1
    return "preparing" if last < 0 else f"round {last}/{rounds}" if last < rounds else "ending"


def _last_line(log: Path, code: int) -> str:
    """What a failed run said last."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("error: ") if lines else f"it ended with code {code} and said nothing"
