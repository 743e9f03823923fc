"""The cells of a comparison: which methods and seeds there are, each one's settings, and what is kept of its run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedgmi.errors import ConfigError
from fedgmi.methods import METHODS
from fedgmi.methods.fedgmi.settings import UNUSED
from fedgmi.runs.config import Config, settings_of
from fedgmi.runs.contestants import ORACLE, check_contestants, check_once
from fedgmi.runs.records import Summary
from fedgmi.settings.base import MethodSettings

KEPT = (
    "client_accuracy",
    "client_accuracy_per_client",
    "metrics",
    "majority_accuracy",
    "proportion_tv",
    "bytes_down",
    "bytes_up",
    "most_mb",
    "models_travelled",
    "budget",
    "seconds",
    "expert_accuracy",
    "rounds",
    "best_round",
    "stopped_round",
    "learning_rate",
    "unseen",
    "own_part",
)
"""The keys of a run's summary that a comparison keeps."""


@dataclass(frozen=True)
class Cell:
    """One method at one seed.

    Attributes:
        method: A name of METHODS, `fedgmi-PRESET`, or "oracle". The oracle has no run of its own: it is part of the run
            of fedgmi with the same seed.
        seed: Of all draws.
        settings: Of the method's own, what this run has in place of the comparison's; see `tuning`.
    """

    method: str
    seed: int
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """The name of the cell's files."""
        return "-".join((f"{self.method}-{self.seed}", *(f"{key}={value}" for key, value in self.settings)))

    @property
    def run(self) -> str:
        """The name of the cell whose run holds this one's numbers."""
        return f"fedgmi-{self.seed}" if self.method == ORACLE else self.name


def grid(methods: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
    """List all cells, seed by seed: a comparison that is cut off is then one of fewer seeds.

    Args:
        methods: Names of METHODS, `fedgmi-PRESET`, or "oracle".
        seeds: The seeds.

    Returns:
        A cell for every method and seed.

    Raises:
        ConfigError: A method is unknown, a method or a seed is named twice or none is, or the oracle is without fedgmi.

    Examples:
        >>> [cell.name for cell in grid(["fedgmi", "fedavg"], [0, 1])]
        ['fedgmi-0', 'fedavg-0', 'fedgmi-1', 'fedavg-1']
    """
    check_contestants(methods)
    check_once("--seeds", [*map(str, seeds)])
    return [Cell(method, seed) for seed in seeds for method in methods]


def check_oracle(config: Config, methods: Sequence[str]) -> None:
    """Refuse the oracle where nobody knows the truth that it is given.

    Raises:
        ConfigError: The scenario has no true proportions.
    """
    from fedgmi.data.scenarios.scenarios import SCENARIOS

    if ORACLE in methods and not SCENARIOS[config.scenario.name].has_truth:
        what = f"the oracle is given the true components, and {config.scenario.name} has none"
        raise ConfigError(what, where="--methods", fix="leave it out")


def check_tasks(config: Config, methods: Sequence[str]) -> None:
    """Refuse methods that the task is none of, before anything is run.

    Raises:
        ConfigError: It names them.
    """
    task = config.data.task
    wrong = [name for name in methods if name in METHODS and task not in METHODS[name].tasks]
    if wrong:
        what = f"the task is {task}, which {' and '.join(wrong)} cannot do"
        raise ConfigError(what, where="--methods", fix=f"leave {'it' if len(wrong) == 1 else 'them'} out")


def cell_config(config: Config, cell: Cell, oracle: bool, jobs: int) -> Config:
    """Make the settings of one cell's run.

    Args:
        config: The comparison's.
        cell: Any but an oracle's.
        oracle: Whether the comparison has an oracle. It then runs beside fedgmi.
        jobs: How many runs share the machine's CPU.

    Returns:
        The comparison's settings with the cell's method, seed and share of the CPU. Other methods and bounds do not run
        beside it.
    """
    settings = own_settings(config, cell)
    bounds = {"fedavg": False, "local": False, "oracle": oracle and cell.method == "fedgmi"}
    share = max(1, (os.cpu_count() or 1) // jobs) if jobs > 1 else None  # alone, a run decides for itself
    return config.model_copy(
        update={
            "seed": cell.seed,
            "threads": config.threads or share,
            "method": settings,
            "evaluation": config.evaluation.model_copy(update=bounds),
            "compare": {},
        }
    )


def of_method(name: str) -> tuple[str, str]:
    """A compared method as its name in METHODS, and the preset of fedgmi that it has of its own, or "".

    Examples:
        >>> of_method("fedgmi-plain"), of_method("fedavg-ft")
        (('fedgmi', 'plain'), ('fedavg-ft', ''))
    """
    found, _, preset = name.partition("-") if name not in METHODS else (name, "", "")
    return found, preset


def own_settings(config: Config, cell: Cell) -> MethodSettings:
    """The settings of a cell's method, with what the cell has in place of the comparison's."""
    return cell_settings(config, *of_method(cell.method)).model_copy(update=dict(cell.settings))


def cell_settings(config: Config, name: str, preset: str) -> MethodSettings:
    """Make the settings of one cell's method.

    Args:
        config: The comparison's. Its `method` serves the method that it is of, its `compare` the others. Participation
            and the number of components serve all.
        name: The method's.
        preset: Of fedgmi; "": as the settings have it.

    Returns:
        The settings. What means nothing to the method is left out.
    """
    entry, base = METHODS[name], config.method
    own = config.compare.get(name, {})
    settings = base if base.name == name else settings_of(name, own, "compare")
    common = {"participation": base.participation, "n_components": base.n_components if entry.has_components else None}
    settings = settings.model_copy(update={key: value for key, value in common.items() if key not in own})
    if name == "fedgmi":
        settings = settings.model_copy(update={"preset": preset}) if preset else settings
        unused = [*UNUSED[preset], *([] if entry.has_histogram(settings) else ["epsilon"])] if preset else []
        fields = type(settings).model_fields
        settings = settings.model_copy(update={key: fields[key].default for key in unused})
    return settings


def result(cell: Cell, runs: Path, reasons: Mapping[str, str]) -> dict[str, Any]:
    """Read what a comparison keeps of a cell.

    Args:
        cell: The cell.
        runs: The folder with a results folder for each run.
        reasons: Why runs failed, by their names.

    Returns:
        `method`, `seed`, the KEPT keys of the run's summary, and `mb_per_client`. In their place `failed`, the reason,
        where the run did not come to its end.

    Raises:
        UserError: The run's summary is damaged.
    """
    head = {"method": cell.method, "seed": cell.seed}
    if cell.run in reasons:
        return head | {"failed": reasons[cell.run]}
    summary = Summary.read(runs / cell.run).to_json()
    own = summary.get(ORACLE) if cell.method == ORACLE else summary
    if own is None:
        return head | {"failed": "this scenario has no known truth, hence no oracle"}
    each = (own["bytes_down"] + own["bytes_up"]) / 10**6 / len(summary["clients"])
    return head | {key: own.get(key) for key in KEPT} | {"mb_per_client": each}
