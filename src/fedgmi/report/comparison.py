"""Methods side by side, as a table for the terminal, as Markdown and as CSV, from a comparison's record alone."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from fedgmi.report.formats import bare_table, markdown_table, number, percent, size
from fedgmi.storage import files, folder

Comparison = dict[str, Any]
"""What `comparison.json` holds."""

USUAL = 0.05
"""Where an older record does not say below which p-value a difference is one."""


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
    table = bare_table(f"{comparison['scenario']}, seeds {', '.join(map(str, comparison['seeds']))}", head)
    for line in lines:
        table.add_row(*(cell.replace("*", "") for cell in line))
    console.print(table)
    if comparison["paired"]:
        console.print(verdict(comparison), highlight=False)
    for cell in comparison["cells"]:
        if "failed" in cell:
            console.print(f"failed: {cell['method']}, seed {cell['seed']}: {cell['failed']}", markup=False)
    console.print(f"Results: {out} (comparison.md, .csv, .json)", highlight=False, soft_wrap=True)


def to_csv(comparison: Comparison) -> str:
    """One line per cell.

    Args:
        comparison: What `comparison.json` holds.

    Returns:
        CSV with a head.
    """
    columns = ("method", "seed", "client_accuracy", "proportion_tv", "bytes_down", "bytes_up", "seconds", "failed")
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(comparison["cells"])
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
        Rows of cells. The first row is the head, and the name of the best method stands in asterisks.
    """
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


def verdict(comparison: Comparison) -> str:
    """Which method is the best, or which ones are level.

    Args:
        comparison: What `comparison.json` holds, with `paired`.

    Returns:
        One sentence.
    """
    significant = comparison.get("significant", USUAL)
    if comparison["best"]:
        return f"{comparison['best']} is the best of them ({comparison['test']}; p < {significant} against each)."
    paired = comparison["paired"]
    level = [method for method, gap in paired["against"].items() if gap["p"] >= significant]
    return f"{paired['best']} has the highest mean, but it is level with {', '.join(level)} ({comparison['test']})."


def _matrix(method: str, found: dict[str, Any]) -> str:
    matrix = found["expert_accuracy"]
    accuracy = percent(found["client_accuracy"][0]) if found["client_accuracy"] else "–"
    lines = [[f"p{k}", *map(percent, row), accuracy if k == 0 else ""] for k, row in enumerate(matrix)]
    return markdown_table([method, *(f"c{k}" for k in range(len(matrix[0]))), "client"], lines)


def _cell(spread: Sequence[float] | None, show: Callable[[float], str]) -> str:
    return "–" if spread is None else f"{show(spread[0])} ± {show(spread[1])}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else number(value, 3)
