"""Methods side by side, as a table for the terminal, as Markdown and as CSV, from a comparison's record alone."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from fedgmi.report.console import words
from fedgmi.report.formats import bare_table, markdown_table, number, percent, plural, size
from fedgmi.report.numbers import METRICS
from fedgmi.report.travelled import AS_THEY_ARE
from fedgmi.storage import files, folder

Comparison = dict[str, Any]
"""What `comparison.json` holds."""

CLASSES = ("balanced_accuracy", "macro_f1", "auc", "log_loss", "calibration_error")
"""Of classification, beside the accuracy."""
PER_CLIENT = "MB a client"
SHORT = {"proportion error": "TV", "client accuracy %": "client acc. %"}
"""Heads of columns on the terminal: 80 columns hold no more."""
USUAL = 0.05
"""Where an older record does not say below which p-value a difference is one."""


OURS = ("fedgmi", "oracle")
"""Methods that have parts of clients' own by default, presets included."""


def write_comparison(comparison: Comparison, out: Path) -> None:
    """Write `comparison.csv` and `comparison.md`.

    Args:
        comparison: What `comparison.json` holds.
        out: The results folder.
    """
    path = out / folder.COMPARISON
    files.write_text(path.with_suffix(".csv"), to_csv(comparison))
    files.write_text(path.with_suffix(".md"), to_markdown(comparison))


def print_comparison(comparison: Comparison, out: Path, console: Console) -> None:
    """Print the table of methods, the verdict, and where the rest lies.

    Args:
        comparison: What `comparison.json` holds.
        out: The results folder.
        console: Where to print.
    """
    head, *lines = rows(comparison)
    head = [SHORT.get(name, name) for name in head]
    table = bare_table(f"{comparison['scenario']}, seeds {', '.join(map(str, comparison['seeds']))}", head, whole=True)
    for line in lines:
        table.add_row(*(cell.replace("*", "") for cell in line))
    console.print(table)
    if comparison["paired"]:
        console.print(words(verdict(comparison)))
    for choice in (*choices(comparison), *travelled(comparison)):
        console.print(words(choice))
    for cell in comparison["cells"]:
        if "failed" in cell:
            console.print(words(f"failed: {cell['method']}, seed {cell['seed']}: {cell['failed']}"))
    console.print(words(f"Results: {out} (comparison.md, .csv, .json)"), soft_wrap=True)


def to_csv(comparison: Comparison) -> str:
    """One line per cell.

    Args:
        comparison: What `comparison.json` holds.

    Returns:
        CSV with a head.
    """
    there = {name for cell in comparison["cells"] for name in cell.get("metrics") or ()}
    metrics = [name for name in METRICS if name != "accuracy" and (name in there or (not there and name in CLASSES))]
    columns = ("method", "seed", "client_accuracy", "majority_accuracy", *metrics)
    columns += ("proportion_tv", "bytes_down", "bytes_up", "mb_per_client", "most_mb", "seconds", "failed")
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for cell in comparison["cells"]:
        found = cell.get("metrics") or {}
        writer.writerow(cell | {name: found[name]["mean"] for name in metrics if name in found})
    return out.getvalue()


def to_markdown(comparison: Comparison) -> str:
    """The table of methods, the test behind it, expert matrices, and what failed.

    Args:
        comparison: What `comparison.json` holds.

    Returns:
        Markdown.
    """
    head, *lines = rows(comparison)
    parts = [f"## {comparison['scenario']}, seeds {', '.join(map(str, comparison['seeds']))}"]
    parts.append(markdown_table(head, lines))
    if comparison["paired"]:
        parts.append(verdict(comparison))
    for told in (choices(comparison), travelled(comparison)):
        if told:
            parts.append("\n".join(f"- {line}" for line in told))
    parts += [_matrix(method, found) for method, found in comparison["summary"].items() if found["expert_accuracy"]]
    failed = [cell for cell in comparison["cells"] if "failed" in cell]
    if failed:
        items = [f"- {cell['method']}, seed {cell['seed']}: {cell['failed']}" for cell in failed]
        parts.append("Failed:\n\n" + "\n".join(items))
    return "\n\n".join(parts) + "\n"


def rows(comparison: Comparison) -> list[list[str]]:
    """The main table's cells, for Markdown and the terminal alike.

    Args:
        comparison: What `comparison.json` holds.

    Returns:
        Rows of cells. The first row is the head, and the name of the best method stands in asterisks. A rival to whose
        clients `method.personal` gave a part of their own is told so; fedgmi has one by default.
    """
    metric = comparison.get("metric", "accuracy")
    name, show, unit, _ = METRICS[metric]
    head = ["method", "client accuracy %", "worst tenth %"] if metric == "accuracy" else ["method", name]
    of_classes = metric in CLASSES
    head += [] if metric == "accuracy" else ["worst tenth", *(["client accuracy %"] if of_classes else [])]
    table = [[*head, f"behind the best, {unit}", "p", "proportion error", *("down", "up", PER_CLIENT), "s a round"]]
    paired = comparison["paired"] or {"best": None, "against": {}}
    cell = partial(_cell, n_seeds=len(comparison["seeds"]))
    personal = {cell["method"] for cell in comparison["cells"] if cell.get("own_part")}
    for method, found in ranked(comparison):
        chosen = (found.get("metrics") or {}).get(metric, {"mean": None, "worst_tenth": None})
        accuracy = cell(found["client_accuracy"], percent)
        own = [cell(chosen["mean"], show), cell(chosen["worst_tenth"], show), *([accuracy] if of_classes else [])]
        quality = own if metric != "accuracy" else [accuracy, cell(found["worst_decile"], percent)]
        gap = paired["against"].get(method)
        told = f"{method} + own part" if method in personal and not method.startswith(OURS) else method
        name = f"**{told}**" if method == comparison["best"] else told
        table.append(
            [
                name,
                *quality,
                show(gap["difference"]) if gap else "–",
                _p(gap["p"]) if gap else "–",
                cell(found["proportion_tv"], lambda value: number(value, 3)),
                size(found["bytes_down"][0]),
                size(found["bytes_up"][0]),
                number((found.get("mb_per_client") or [None])[0], 2),
                number(found["seconds_per_round"][0], 2),
            ]
        )
    return table


def ranked(comparison: Comparison) -> list[tuple[str, dict[str, Any]]]:
    """The methods with their numbers over seeds, the best mean first; of equal ones as they were asked for.

    Args:
        comparison: What `comparison.json` holds.

    Returns:
        Names and numbers.
    """
    metric = comparison.get("metric", "accuracy")
    higher = METRICS[metric].higher

    def badness(entry: tuple[str, dict[str, Any]]) -> float:
        found = entry[1]
        spread = (found.get("metrics") or {}).get(metric, {}).get("mean")
        spread = found["client_accuracy"] if metric == "accuracy" else spread
        return math.inf if spread is None else -spread[0] if higher else spread[0]

    return sorted(comparison["summary"].items(), key=badness)


def verdict(comparison: Comparison) -> str:
    """Which method is the best, or which ones are level.

    Args:
        comparison: What `comparison.json` holds, with `paired`.

    Returns:
        One sentence; two where there are too few pairs for any difference to be told.
    """
    significant, paired = comparison.get("significant", USUAL), comparison["paired"]
    if comparison["best"]:
        return f"{comparison['best']} is the best of them ({comparison['test']}; p < {significant} against each)."
    gaps, least = paired["against"], paired.get("least_p") or 0.0
    level = [method for method, gap in gaps.items() if gap["p"] >= significant]
    if least < significant or len(level) < len(gaps):
        return f"{paired['best']} has the best mean, but it is level with {', '.join(level)} ({comparison['test']})."
    pairs = max(gap["pairs"] for gap in gaps.values())
    few = f"With {plural(pairs, 'pair')} of seed and client, and {plural(len(gaps), 'method')} beside it, this test"
    cannot = f"{few} cannot tell methods apart: no p can be below {number(least, 3)}"
    return f"{paired['best']} has the best mean. {cannot} ({comparison['test']})."


def choices(comparison: Comparison) -> list[str]:
    """What validation rows chose of methods' own settings, and what that cost: a line for each method.

    Args:
        comparison: What `comparison.json` holds.

    Returns:
        Lines, the last for those that had nothing to choose; none where nobody had.
    """
    lines, without = list[str](), list[str]()
    for method in comparison["methods"]:
        found = [cell["tuned"] for cell in comparison["cells"] if cell["method"] == method and cell.get("tuned")]
        if found:
            keys = [f"{key} = {', '.join(str(one['settings'][key]) for one in found)}" for key in found[0]["settings"]]
            runs, lost = (sum(one[key] for one in found) for key in ("candidates", "failed"))
            spent = size(sum(one["bytes_down"] + one["bytes_up"] for one in found))
            cost = f"{runs} runs, {number(sum(one['seconds'] for one in found), 1)} s, {spent}"
            failed = f", {lost} of them failed" if lost else ""
            lines.append(f"{method}: validation rows chose {' and '.join(keys)}, by seed ({cost}{failed}).")
        elif any(cell["method"] == method and "failed" not in cell for cell in comparison["cells"]):
            without.append(method)
    return [*lines, f"Nothing to choose: {', '.join(without)}."] if lines and without else lines


def travelled(comparison: Comparison) -> list[str]:
    """How models travelled, and what the dearest client cost: a line for each method where models were made smaller, or
    bytes were budgeted.

    Args:
        comparison: What `comparison.json` holds.

    Returns:
        Lines.
    """
    lines = list[str]()
    for method in comparison["methods"]:
        found = [cell for cell in comparison["cells"] if cell["method"] == method and cell.get("models_travelled")]
        coded = any(cell.get("budget") or not cell["models_travelled"].startswith(AS_THEY_ARE) for cell in found)
        if coded:
            how = " or ".join(dict.fromkeys(cell["models_travelled"] for cell in found))
            budgets = [cell["budget"] for cell in found if cell.get("budget")]
            limits = {budget["mb_per_client"] for budget in budgets} - {None}
            of = f" of {limits.pop():g} MB" if limits else ""
            sat = sum(budget["sat_out"] for budget in budgets)
            out = f"; clients sat out {sat} times" if sat else "; nobody sat out" if budgets else ""
            most = number(max(cell["most_mb"] for cell in found), 3)
            lines.append(f"{method}: models travelled {how}; most of any client {most} MB{of}{out}.")
    return lines


def _matrix(method: str, found: dict[str, Any]) -> str:
    matrix = found["expert_accuracy"]
    accuracy = percent(found["client_accuracy"][0]) if found["client_accuracy"] else "–"
    lines = [[f"p{k}", *map(percent, row), accuracy if k == 0 else ""] for k, row in enumerate(matrix)]
    return markdown_table([method, *(f"c{k}" for k in range(len(matrix[0]))), "client"], lines)


def _cell(spread: Sequence[float] | None, show: Callable[[float], str], n_seeds: int) -> str:
    """Mean and deviation over seeds; of one seed there is no deviation."""
    if spread is None:
        return "–"
    return f"{show(spread[0])} ± {show(spread[1])}" if n_seeds > 1 else show(spread[0])


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else number(value, 3)
