"""`fedgmi compare --tune`: every method's own settings, chosen on the validation rows of each seed.

A cell of the comparison becomes a run for each combination of the values in its method's line of the table. The run
that does best on validation rows is the cell's result. Held-out rows are not looked at, and what all runs cost is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from fedgmi.data.scenarios.scenarios import build_scenario
from fedgmi.data.scenarios.unseen import set_aside
from fedgmi.errors import ConfigError
from fedgmi.methods import METHODS
from fedgmi.runs.cells import Cell, own_settings, result
from fedgmi.runs.choosing import best_of, undecided
from fedgmi.runs.config import Config
from fedgmi.runs.contestants import ORACLE
from fedgmi.runs.records import Summary
from fedgmi.storage import folder

COSTS = ("seconds", "bytes_down", "bytes_up")


def candidates(config: Config, cell: Cell) -> list[Cell]:
    """The runs among which a cell's result is chosen.

    Args:
        config: The comparison's. What it says of a method's own settings stays, and is not chosen.
        cell: Whose.

    Returns:
        A cell for each combination of values that such a run can have; the cell itself where nothing is to choose.
    """
    if cell.method not in METHODS:
        return [cell]
    said = set(config.compare.get(cell.method, {}))
    said |= config.method.model_fields_set if config.method.name == cell.method else set()
    open_ = {key: values for key, values in METHODS[cell.method].tune.items() if key not in said}
    tried = [
        Cell(cell.method, cell.seed, tuple(zip(open_, chosen, strict=True))) for chosen in product(*open_.values())
    ]
    possible = [one for one in tried if _possible(config, one)]
    return possible if len(possible) > 1 else [cell]


def _possible(config: Config, cell: Cell) -> bool:
    """Whether a run may have a candidate's values: in a short one not every number of rounds can be."""
    try:
        METHODS[cell.method].check(own_settings(config, cell), config.rounds)
    except ConfigError:
        return False
    return True


def check_tuning(config: Config, cells: Sequence[Cell]) -> None:
    """Refuse to choose what validation rows cannot decide, before anything is run.

    Args:
        config: The comparison's.
        cells: Its cells. The data are read for the first of them that has anything to choose.

    Raises:
        ConfigError: Where validation rows are missing, or lack what the metric needs.
    """
    seed = next((cell.seed for cell in cells if len(candidates(config, cell)) > 1), None)
    if seed is None:
        return
    scenario = build_scenario(config.data, config.scenario, seed)
    seen, _ = set_aside(scenario, config.evaluation.unseen_clients, seed)
    why = undecided(seen.federation, config.evaluation.metric)
    if why:
        fix = "leave it out, or give the federation validation rows with labels"
        raise ConfigError(f"validation rows choose methods' own settings, and {why}", where="--tune", fix=fix)


def check_folder(config: Config, out: Path, tune: bool) -> None:
    """Refuse to mix runs whose settings were chosen with runs whose settings were not.

    Args:
        config: The comparison's.
        out: Its results folder, which may hold cells.
        tune: Whether settings are to be chosen.

    Raises:
        ConfigError: The folder holds cells of the other kind.
    """
    names = [path.stem for path in sorted((out / folder.CELLS).glob("*.toml"))]
    chosen = [name for name in names if "=" in name]
    plain = [Cell(name.rpartition("-")[0], 0) for name in names if name not in chosen]
    what = "as they are given"
    if tune and any(len(candidates(config, cell)) > 1 for cell in plain):
        fix = "compare without --tune"
    elif not tune and chosen:
        what, fix = "chosen by validation rows (--tune)", "compare with --tune"
    else:
        return
    raise ConfigError(
        f"the comparison there has methods' own settings {what}",
        where=str(out),
        fix=f"{fix}, or give another folder with --out",
    )


def tuned(config: Config, cell: Cell, runs: Path, reasons: Mapping[str, str]) -> dict[str, Any]:
    """Read the cell's result: that of the candidate that does best on validation rows.

    Args:
        config: The comparison's.
        cell: Whose.
        runs: The folder with a results folder for each run.
        reasons: Why runs failed, by their names.

    Returns:
        As `cells.result` has it, with `tuned`: the settings that were chosen, how many candidates there were, how many
        failed, and what all of them cost. A cell with nothing to choose has none.
    """
    tried = candidates(config, cell)
    if len(tried) == 1:
        return result(tried[0], runs, reasons)
    ended = [one for one in tried if one.run not in reasons]
    if not ended:
        return result(tried[0], runs, reasons)
    summaries = [Summary.read(runs / one.run).to_json() for one in ended]
    if all(summary.get("validation_score") is None for summary in summaries):
        why = "validation rows choose its settings, and there are none: leave out --tune, or set some rows aside"
        return {"method": cell.method, "seed": cell.seed, "failed": why}
    best = ended[summaries.index(best_of(summaries, config.evaluation.metric))]
    costs = [*summaries, *(record for one in tried if one not in ended for record in _until_it_failed(runs / one.run))]
    spent = {key: sum(cost[key] for cost in costs) for key in COSTS}
    told = {"settings": dict(best.settings), "candidates": len(tried), "failed": len(tried) - len(ended)} | spent
    return result(best, runs, reasons) | {"tuned": told}


def _until_it_failed(run: Path) -> list[dict[str, Any]]:
    """The last record of each rate that a failed run tried: what it had cost by then."""
    return list({record["run"]: record for record in folder.read_records(run)}.values())


def runs_of(config: Config, cells: Sequence[Cell], tune: bool) -> list[Cell]:
    """List the runs that a comparison's cells need; an oracle is part of another one's.

    Args:
        config: The comparison's.
        cells: Its cells.
        tune: Whether settings are chosen.

    Returns:
        Cells, each with a run of its own.
    """
    own = [cell for cell in cells if cell.method != ORACLE]
    return [one for cell in own for one in candidates(config, cell)] if tune else own
