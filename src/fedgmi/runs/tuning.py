"""`fedgmi compare --tune`: every method's own settings, chosen on the validation rows of each seed.

A cell of the comparison becomes a run for each combination of the values in its method's line of the table. The run
that does best on validation rows is the cell's result. Held-out rows are not looked at, and what all runs cost is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from fedgmi.errors import ConfigError
from fedgmi.methods import METHODS
from fedgmi.runs.cells import Cell, own_settings, result
from fedgmi.runs.choosing import best_of
from fedgmi.runs.config import Config
from fedgmi.runs.contestants import ORACLE
from fedgmi.runs.records import Summary

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
    spent = {key: sum(summary[key] for summary in summaries) for key in COSTS}
    told = {"settings": dict(best.settings), "candidates": len(tried), "failed": len(tried) - len(ended)} | spent
    return result(best, runs, reasons) | {"tuned": told}


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
