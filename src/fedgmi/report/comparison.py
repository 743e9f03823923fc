"""A comparison's numbers: means and spreads per method, paired differences with a test, as Markdown and CSV.

The test is Wilcoxon's signed-rank test (1945) on differences of client accuracy, paired by seed and client, two-sided,
adjusted by Holm's rule (1979) over the methods that stand against the best. Clients of one seed share their models, so
they are less independent than the test believes; the spread over seeds stands beside it.
"""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from fedgmi.report.formats import bare_table, number, percent, size

SIGNIFICANT = 0.05

Cell = dict[str, Any]
Comparison = dict[str, Any]


def compared(scenario: str, methods: list[str], seeds: list[int], cells: list[Cell]) -> Comparison:
    """`comparison.json`: cells, a summary per method, paired differences to the best, and the best where it is one."""
    finished = {method: [c for c in cells if c["method"] == method and "failed" not in c] for method in methods}
    summary = {method: summarise(found) for method, found in finished.items() if found}
    paired = differences({method: finished[method] for method in summary})
    return {
        "scenario": scenario,
        "methods": methods,
        "seeds": seeds,
        "cells": cells,
        "summary": summary,
        "paired": paired,
        "test": "Wilcoxon signed-rank on client accuracy paired by seed and client, two-sided, Holm-adjusted",
        "best": paired["best"] if paired and all(d["p"] < SIGNIFICANT for d in paired["against"].values()) else None,
    }


def summarise(cells: Sequence[Cell]) -> dict[str, Any]:
    """Mean and standard deviation over seeds of one method's numbers; None where there is no such number."""
    rounds = [cell["seconds"] / max(1, cell["rounds"]) for cell in cells]
    matrices = [cell["expert_accuracy"] for cell in cells if cell["expert_accuracy"]]
    return {
        "seeds": [cell["seed"] for cell in cells],
        "client_accuracy": _spread([cell["client_accuracy"] for cell in cells]),
        "worst_decile": _spread([worst_decile(cell["client_accuracy_per_client"]) for cell in cells]),
        "proportion_tv": _spread([cell["proportion_tv"] for cell in cells]),
        "bytes_down": _spread([cell["bytes_down"] for cell in cells]),
        "bytes_up": _spread([cell["bytes_up"] for cell in cells]),
        "seconds_per_round": _spread(rounds),
        "expert_accuracy": _mean_matrix(matrices),
    }


def worst_decile(accuracies: Sequence[float | None] | None) -> float | None:
    """The mean accuracy of the tenth of clients that fare worst, at least one.

    >>> worst_decile([0.9, 0.5, 0.8, 0.7])
    0.5
    """
    known = sorted(value for value in accuracies or () if value is not None)
    return statistics.mean(known[: max(1, round(len(known) / 10))]) if known else None


def differences(finished: dict[str, list[Cell]]) -> dict[str, Any] | None:
    """How far every method is behind the one with the best mean, in accuracy; None where fewer than two have any."""
    pairs = {method: _by_client(cells) for method, cells in finished.items()}
    pairs = {method: values for method, values in pairs.items() if values}
    if len(pairs) < 2:
        return None
    best = max(pairs, key=lambda method: statistics.mean(pairs[method].values()))
    against, raw = {}, {}
    for method, values in pairs.items():
        common = sorted(values.keys() & pairs[best].keys())
        if method == best or not common:
            continue
        gaps = [pairs[best][key] - values[key] for key in common]
        raw[method] = _wilcoxon(gaps)
        against[method] = {"difference": statistics.mean(gaps), "pairs": len(gaps)}
    adjusted = _holm(raw)
    return {"best": best, "against": {method: found | {"p": adjusted[method]} for method, found in against.items()}}


def to_csv(comparison: Comparison) -> str:
    """One line per cell."""
    columns = ("method", "seed", "client_accuracy", "proportion_tv", "bytes_down", "bytes_up", "seconds", "failed")
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(comparison["cells"])
    return out.getvalue()


def to_markdown(comparison: Comparison) -> str:
    """The table of methods, the test behind it, expert matrices, and what failed."""
    parts = [f"## {comparison['scenario']}, seeds {', '.join(map(str, comparison['seeds']))}", _main(comparison)]
    if comparison["paired"]:
        parts.append(_verdict(comparison))
    parts += [_matrix(method, found) for method, found in comparison["summary"].items() if found["expert_accuracy"]]
    failed = [cell for cell in comparison["cells"] if "failed" in cell]
    if failed:
        lines = [f"- {cell['method']}, seed {cell['seed']}: {cell['failed']}" for cell in failed]
        parts.append("Failed:\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def rows(comparison: Comparison) -> list[list[str]]:
    """The main table's cells, for Markdown and the terminal alike; the first row is the head."""
    head = ["method", "client accuracy %", "worst tenth %", "behind the best, points", "p", "proportion error"]
    table = [[*head, "down", "up", "s a round"]]
    paired = comparison["paired"] or {"best": None, "against": {}}
    for method, found in comparison["summary"].items():
        gap = paired["against"].get(method)
        name = f"**{method}**" if method == comparison["best"] else method
        table.append(
            [
                name,
                _cell(found["client_accuracy"], percent),
                _cell(found["worst_decile"], percent),
                percent(gap["difference"]) if gap else "–",
                _p(gap["p"]) if gap else "–",
                _cell(found["proportion_tv"], lambda value: number(value, 3)),
                size(found["bytes_down"][0]),
                size(found["bytes_up"][0]),
                number(found["seconds_per_round"][0], 2),
            ]
        )
    return table


def print_comparison(comparison: Comparison, out: Path, console: Console) -> None:
    """The table of methods, the verdict, and where the rest lies."""
    head, *lines = rows(comparison)
    table = bare_table(f"{comparison['scenario']}, seeds {', '.join(map(str, comparison['seeds']))}", head)
    for line in lines:
        table.add_row(*(cell.replace("*", "") for cell in line))
    console.print(table)
    if comparison["paired"]:
        console.print(_verdict(comparison), highlight=False)
    for cell in comparison["cells"]:
        if "failed" in cell:
            console.print(f"failed: {cell['method']}, seed {cell['seed']}: {cell['failed']}", markup=False)
    console.print(f"Results: {out} (comparison.md, .csv, .json)", highlight=False, soft_wrap=True)


def _main(comparison: Comparison) -> str:
    head, *lines = rows(comparison)
    return "\n".join(["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *lines)])


def _verdict(comparison: Comparison) -> str:
    if comparison["best"]:
        return f"{comparison['best']} is the best of them ({comparison['test']}; p < {SIGNIFICANT} against each)."
    paired = comparison["paired"]
    level = [method for method, gap in paired["against"].items() if gap["p"] >= SIGNIFICANT]
    return f"{paired['best']} has the highest mean, level with {', '.join(level)} ({comparison['test']})."


def _matrix(method: str, found: dict[str, Any]) -> str:
    matrix = found["expert_accuracy"]
    accuracy = percent(found["client_accuracy"][0]) if found["client_accuracy"] else "–"
    head = [method, *(f"c{k}" for k in range(len(matrix[0]))), "client"]
    lines = [head, ["---"] * len(head)]
    for k, row in enumerate(matrix):
        lines.append([f"p{k}", *map(percent, row), accuracy if k == 0 else ""])
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)


def _by_client(cells: Sequence[Cell]) -> dict[tuple[int, int], float]:
    return {
        (cell["seed"], i): value
        for cell in cells
        for i, value in enumerate(cell["client_accuracy_per_client"] or ())
        if value is not None
    }


def _wilcoxon(gaps: Sequence[float]) -> float:
    from scipy.stats import wilcoxon

    return 1.0 if not any(gaps) else float(wilcoxon(gaps, zero_method="zsplit").pvalue)


def _holm(raw: dict[str, float]) -> dict[str, float]:
    """Holm's step-down adjustment.

    >>> _holm({"a": 0.01, "b": 0.04, "c": 0.03})
    {'a': 0.03, 'c': 0.06, 'b': 0.06}
    """
    adjusted, largest = {}, 0.0
    for rank, (method, p) in enumerate(sorted(raw.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(raw) - rank) * p))
        adjusted[method] = largest
    return adjusted


def _spread(values: Sequence[float | None]) -> list[float] | None:
    known = [value for value in values if value is not None]
    return [statistics.mean(known), statistics.stdev(known) if len(known) > 1 else 0.0] if known else None


def _mean_matrix(matrices: Sequence[list[list[float | None]]]) -> list[list[float | None]] | None:
    """Mean over seeds, entry by entry; None where a component has no expert in some seed."""
    if not matrices or len({(len(m), len(m[0])) for m in matrices}) > 1:
        return None

    def mean(entries: Sequence[float | None]) -> float | None:
        known = [entry for entry in entries if entry is not None]
        return statistics.mean(known) if len(known) == len(entries) else None

    stacked = zip(*matrices, strict=True)
    return [[mean(entries) for entries in zip(*same_row, strict=True)] for same_row in stacked]


def _cell(spread: Sequence[float] | None, show: Callable[[float], str]) -> str:
    return "–" if spread is None else f"{show(spread[0])} ± {show(spread[1])}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else number(value, 3)
