"""Methods × seeds side by side: every cell an ordinary `fedgmi run` in a process of its own, several at a time.

A finished cell is read and not repeated, so that the same command goes on where it was cut off; one that fails is told
and does not sink the others.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedgmi.errors import ConfigError, UserError, unknown
from fedgmi.methods import METHODS
from fedgmi.runs.config import Config, dump, load, settings_of
from fedgmi.runs.statistics import compared
from fedgmi.settings.base import MethodSettings
from fedgmi.storage import folder

CELLS = "cells"
PRESETS = ("plain", "sketch")
KEPT = (
    "client_accuracy",
    "client_accuracy_per_client",
    "proportion_tv",
    "bytes_down",
    "bytes_up",
    "seconds",
    "expert_accuracy",
    "rounds",
    "learning_rate",
    "unseen",
)


@dataclass(frozen=True)
class Cell:
    """One method at one seed; `method` is a name of METHODS, `fedgmi-PRESET`, or "oracle", which fedgmi's run holds."""

    method: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.method}-{self.seed}"


Watcher = Callable[[dict[str, str]], None]  # by a cell's name what it is at: "waiting", "round 3", "done", "failed"


def compare(
    config: Config,
    out: Path,
    methods: Sequence[str],
    seeds: Sequence[int],
    *,
    jobs: int = 1,
    watch: Watcher | None = None,
) -> dict[str, Any]:
    """Run the grid and return what `out` then holds as `comparison.json`.

    Raises ConfigError for unknown or repeated methods, repeated seeds, or a folder that holds a comparison of another
    configuration.
    """
    cells = grid(methods, seeds)
    _claim(config, out)
    with folder.alone(out):
        return _compare(config, out, methods, seeds, cells, jobs, watch)


def _compare(
    config: Config,
    out: Path,
    methods: Sequence[str],
    seeds: Sequence[int],
    cells: Sequence[Cell],
    jobs: int,
    watch: Watcher | None,
) -> dict[str, Any]:
    """The grid, in a folder that is nobody else's meanwhile."""
    folder.write_text(out / folder.CONFIG, dump(config))
    runs = [cell for cell in cells if cell.method != "oracle"]
    for cell in runs:
        folder.write_text(out / CELLS / f"{cell.name}.toml", dump(cell_config(config, cell, "oracle" in methods, jobs)))
    reasons = _run_all(runs, out / CELLS, max(1, jobs), watch or (lambda status: None))
    found = [result(cell, out / CELLS, reasons) for cell in cells]
    record: dict[str, Any] = folder.finite(compared(config.scenario.name, list(methods), list(seeds), found))
    folder.write_json(out / folder.COMPARISON, record)
    return record


def grid(methods: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
    """All cells, seed by seed, so that a comparison that is cut off is one of fewer seeds."""
    known = [*METHODS, *(f"fedgmi-{preset}" for preset in PRESETS), "oracle"]
    for name in methods:
        if name not in known:
            raise unknown("method", name, known, "--methods")
    for where, values in (("--methods", [*methods]), ("--seeds", [*map(str, seeds)])):
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise ConfigError(f"{twice} stands there twice", where=where, fix="name each once")
        if not values:
            raise ConfigError("there is none", where=where, fix="name at least one")
    if "oracle" in methods and "fedgmi" not in methods:
        raise ConfigError("the oracle runs beside fedgmi", where="--methods", fix="add fedgmi")
    return [Cell(method, seed) for seed in seeds for method in methods]


def cell_config(config: Config, cell: Cell, oracle: bool, jobs: int) -> Config:
    """The settings of one cell: its method and seed, no bounds beside it, its share of the machine."""
    name, _, preset = cell.method.partition("-") if cell.method not in METHODS else (cell.method, "", "")
    settings = cell_settings(config, name, preset)
    bounds = {"fedavg": False, "local": False, "oracle": oracle and cell.method == "fedgmi"}
    threads = config.threads or max(1, (os.cpu_count() or 1) // max(1, jobs))
    return config.model_copy(
        update={
            "seed": cell.seed,
            "threads": threads,
            "method": settings,
            "evaluation": config.evaluation.model_copy(update=bounds),
            "compare": {},
        }
    )


def cell_settings(config: Config, name: str, preset: str) -> MethodSettings:
    """The settings of one cell's method.

    Args:
        config: Of the comparison. Its `method` serves the method that it is of, its `compare` the others; participation
            and the number of components serve all.
        name: The method's.
        preset: Of fedgmi; "": the default.

    Returns:
        The settings. What means nothing to the method is left out.
    """
    entry, base = METHODS[name], config.method
    own = config.compare.get(name, {})
    settings = base if base.name == name else settings_of(name, own, "compare")
    common = {"participation": base.participation, "n_components": base.n_components if entry.has_components else None}
    settings = settings.model_copy(update={key: value for key, value in common.items() if key not in own})
    if name == "fedgmi":
        settings = settings.model_copy(update={"preset": preset or "default"})
        if not entry.has_histogram(settings):
            settings = settings.model_copy(update={"epsilon": None})
    return settings


def result(cell: Cell, cells: Path, reasons: dict[str, str]) -> dict[str, Any]:
    """What the comparison keeps of a cell; with `failed`, the reason, where it did not come to its end."""
    run = f"fedgmi-{cell.seed}" if cell.method == "oracle" else cell.name
    head = {"method": cell.method, "seed": cell.seed}
    if run in reasons:
        return head | {"failed": reasons[run]}
    summary = folder.read_summary(cells / run)
    own = summary.get("oracle") if cell.method == "oracle" else summary
    if own is None:
        return head | {"failed": "this scenario has no known truth, hence no oracle"}
    return head | {key: own.get(key) for key in KEPT}


def _claim(config: Config, out: Path) -> None:
    """One folder, one configuration: whatever differs between cells (seed, method) aside."""
    if (out / folder.RECORDS).exists() or (out / folder.DIAGNOSIS).exists():
        raise UserError("the folder holds other results", where=str(out), fix="give another folder with --out")
    path = out / folder.CONFIG
    if path.exists() and _common(load(path)) != _common(config):
        raise ConfigError(
            "the comparison there has other settings",
            where=str(path),
            fix="compare with the settings it was begun with, or give another folder with --out",
        )
    folder.claim(out, resume=True)


def _common(config: Config) -> Config:
    return config.model_copy(update={"seed": 0, "threads": None})


def _run_all(cells: Iterable[Cell], where: Path, jobs: int, watch: Watcher) -> dict[str, str]:
    """At most `jobs` processes at a time → why cells failed, by their names."""
    status = dict.fromkeys(cells, "waiting")
    waiting, running = list(status), dict[Cell, subprocess.Popen[bytes]]()
    reasons: dict[str, str] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                cell = waiting.pop(0)
                running[cell] = _start(cell, where)
            for cell, process in list(running.items()):
                status[cell] = _stage(where / cell.name)
                if process.poll() is None:
                    continue
                del running[cell]
                status[cell] = "done" if process.returncode == 0 else "failed"
                if process.returncode != 0:
                    reasons[cell.name] = _last_line(where / f"{cell.name}.log", process.returncode)
            watch({cell.name: stage for cell, stage in status.items()})
            time.sleep(0.2 if running else 0.0)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
    return reasons


def _start(cell: Cell, where: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "fedgmi.cli", "run", str(where / f"{cell.name}.toml")]
    command += ["--out", str(where / cell.name), "--resume"]
    with (where / f"{cell.name}.log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)


def _stage(cell: Path) -> str:
    records = folder.read_records(cell)
    return f"round {records[-1]['round']}" if records else "preparing"


def _last_line(log: Path, code: int) -> str:
    """What a failed run said last."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("error: ") if lines else f"it ended with code {code} and said nothing"
