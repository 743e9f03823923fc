"""Presets and bounds of finished comparisons, with what a comparison leaves out, as one Markdown table each.

    .venv/bin/fedgmi compare configs/digits.toml --methods fedgmi,fedgmi-plain,fedgmi-sketch,oracle,fedavg,local \\
        --seeds 0,1,2 --out runs/presets/digits
    .venv/bin/python benchmarks/figures.py runs/presets/digits

`benchmarks/rivals.py` makes those of MNIST.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from fedgmi.runs import records
from fedgmi.storage import folder
from fedgmi.storage.folder import CELLS

ROWS = ("fedgmi", "fedgmi-plain", "fedgmi-sketch", "oracle", "fedavg", "local")


def cell(values: list[float | None], scale: float = 1.0, digits: int = 3) -> str:
    """Mean ± standard deviation over seeds."""
    known = [value * scale for value in values if value is not None]
    if not known:
        return "–"
    spread = f" ± {statistics.stdev(known):.{digits}f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.{digits}f}{spread}"


def own(result: dict[str, Any] | None) -> float | None:
    """Accuracy of experts on their own component, in percent of rows."""
    matrix = (result or {}).get("expert_accuracy")
    return statistics.mean(row[k] for k, row in enumerate(matrix)) if matrix and len(matrix[0]) > 1 else None


def others(result: dict[str, Any] | None) -> float | None:
    """Accuracy of experts on the other components."""
    matrix = (result or {}).get("expert_accuracy")
    if not matrix or len(matrix[0]) == 1:
        return None
    return statistics.mean(value for i, row in enumerate(matrix) for k, value in enumerate(row) if i != k)


def line(name: str, results: list[dict[str, Any] | None]) -> str:
    """One row of the table."""
    found = [result or {} for result in results]
    numbers = [
        cell([result.get("proportion_tv") for result in found]),
        cell([result.get("proportion_tv_drawn") for result in found]),
        cell([result.get("assignment_accuracy") for result in found], 100, 1),
        cell([own(result) for result in found], 100, 1),
        cell([others(result) for result in found], 100, 1),
        cell([result.get("client_accuracy") for result in found], 100, 1),
        cell([result.get("gain_last_5_rounds") for result in found], 100, 2),
        cell([(result.get("bytes_down", 0) + result.get("bytes_up", 0)) / 1e6 for result in found], 1, 0),
        cell([result.get("seconds") for result in found], 1, 0),
    ]
    return f"| {name} | " + " | ".join(numbers) + " |"


HEAD = (
    "method",
    "`proportion_tv`",
    "to drawn π",
    "rows assigned %",
    "own expert %",
    "other experts %",
    "client accuracy %",
    "gain in last 5 rounds",
    "MB both ways",
    "seconds",
)


def table(comparison: Path) -> str:
    """The Markdown table of one comparison."""
    seeds = sorted({cell["seed"] for cell in records.Comparison.read(comparison).to_json()["cells"]})

    def read(method: str, seed: int) -> dict[str, Any] | None:
        if method == "oracle":
            return (read("fedgmi", seed) or {}).get("oracle")
        path = comparison / CELLS / f"{method}-{seed}"
        return records.Summary.read(path).to_json() if (path / folder.SUMMARY).exists() else None

    found = {method: [read(method, seed) for seed in seeds] for method in ROWS}
    lines = [line(method, results) for method, results in found.items() if any(results)]
    gate = cell([(result or {}).get("best_possible_gate") for result in found["fedgmi"]], 100, 1)
    head = f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}"
    told = f"Seeds {', '.join(map(str, seeds))}. Mean of max_k π_ik: {gate} %."
    return f"### {comparison.name}\n\n{head}\n" + "\n".join(lines) + f"\n\n{told}\n"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("comparisons", nargs="+", type=Path, help="folders of fedgmi compare")
    for comparison in parser.parse_args().comparisons:
        print(table(comparison))


if __name__ == "__main__":
    main()
