"""The figures of docs/results.md: every config × preset × seed, in parallel, resumable, as one Markdown table.

    .venv/bin/python benchmarks/figures.py configs/mnist-*.toml --seeds 0 1 2 --data path/to/mnist --out runs/figures

Each cell is an ordinary `fedgmi run`; the bounds (oracle, FedAvg, local) are run once per config and seed, beside the
default preset. A finished cell is read, not repeated.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from fedgmi import folder

PRESETS = ("default", "plain", "sketch")


def command(config: Path, preset: str, seed: int, data: str | None, out: Path) -> list[str]:
    """The `fedgmi run` of one cell."""
    settings = [f"seed={seed}", f"method.preset={preset}", "threads=1"]
    settings += [f"data.path={data}"] if data else []
    if preset != "default":
        settings += [f"evaluation.{bound}=false" for bound in ("oracle", "fedavg", "local")]
    flags = [word for setting in settings for word in ("--set", setting)]
    fedgmi = str(Path(sys.executable).parent / "fedgmi")
    return [fedgmi, "run", str(config), *flags, "--out", str(out), "--resume"]


def run_all(cells: dict[Path, list[str]], jobs: int) -> None:
    """At most `jobs` at a time; a failed cell is reported and does not sink the rest."""
    waiting, running = list(cells.items()), dict[Path, subprocess.Popen[bytes]]()
    while waiting or running:
        while waiting and len(running) < jobs:
            out, words = waiting.pop(0)
            out.parent.mkdir(parents=True, exist_ok=True)
            with Path(f"{out}.log").open("wb") as log:
                running[out] = subprocess.Popen(words, stdout=log, stderr=log)
        out, process = next(iter(running.items()))
        try:
            process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            running[out] = running.pop(out)  # look at another one next
            continue
        del running[out]
        print(f"{'done' if process.returncode == 0 else 'FAILED'} {out}", flush=True)


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


def table(config: Path, seeds: list[int], out: Path) -> str:
    """The Markdown table of one config."""

    def read(preset: str, seed: int) -> dict[str, Any] | None:
        path = cell_folder(out, config, preset, seed)
        return folder.read_summary(path) if (path / folder.SUMMARY).exists() else None

    main = [read("default", seed) for seed in seeds]
    lines = [line(f"fedgmi, {preset}", [read(preset, seed) for seed in seeds]) for preset in PRESETS]
    lines += [line(name, [(result or {}).get(name) for result in main]) for name in ("oracle", "fedavg", "local")]
    gate = cell([(result or {}).get("best_possible_gate") for result in main], 100, 1)
    head = f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}"
    return f"### {config.stem}\n\n{head}\n" + "\n".join(lines) + f"\n\nMean of max_k π_ik: {gate} %.\n"


def cell_folder(out: Path, config: Path, preset: str, seed: int) -> Path:
    """Where one cell's results lie."""
    return out / config.stem / f"{preset}-{seed}"


def main() -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("configs", nargs="+", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--data", help="the folder of MNIST; without it, what the config says")
    parser.add_argument("--out", type=Path, default=Path("runs/figures"))
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    cells = {}
    grid = itertools.product(options.seeds, PRESETS, options.configs)
    for seed, preset, config in sorted(grid, key=lambda cell: cell[1] != "default"):  # the presets after the bounds
        out = cell_folder(options.out, config, preset, seed)
        cells[out] = command(config, preset, seed, options.data, out)
    run_all(cells, options.jobs)
    for config in options.configs:
        print("\n" + table(config, options.seeds, options.out))


if __name__ == "__main__":
    main()
