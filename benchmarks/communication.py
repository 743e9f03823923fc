"""Accuracy and proportion error against megabytes per client: budgets, codecs, and what rivals do with the same.

    python benchmarks/communication.py --mnist path/to/mnist --femnist path/to/femnist --seeds 1000 1001

Three small federations of 15 clients with 200 rows: rotation, labels, writers. Megabytes are 10^6 bytes, down and up,
mean over clients. Finished cells are read from `--out`, so a killed series goes on. `--only` runs some scenarios,
`--ways` some ways; `--tables` prints what there is and runs nothing, `--picture` draws it. `--small` runs every way
once on few digits, in a minute: whether each runs, and no figures to compare.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import log10
from pathlib import Path
from statistics import fmean
from typing import Any

from fedgmi.report.formats import markdown_table, number, percent
from fedgmi.runs import config
from fedgmi.runs.experiment import run
from fedgmi.storage import folder

CONFIGS = Path(__file__).parent.parent / "configs"
ALONE = ("threads=1", "evaluation.fedavg=false", "evaluation.local=false", "evaluation.oracle=false")
SIZE = ("scenario.n_clients=15", "scenario.rows_per_client=200", "rounds=15")
SCENARIOS = {
    "rotation": ("mnist-rotation", "mnist", SIZE),
    "labels": ("mnist-labels", "mnist", SIZE),
    "writers": ("femnist-writers", "femnist", SIZE),
}
SMALL = {
    "small": ("digits", "", ("scenario.n_clients=8", "scenario.rows_per_client=40", "rounds=4", "training.epochs=1"))
}
OURS = ("method.name=fedgmi", "density.shared=trunk")
BITS = ("communication.precision=4",)
FEW = (*BITS, "communication.top=0.1")


@dataclass(frozen=True)
class Way:
    """One line of the picture: what is run, and its points by name."""

    words: str
    points: dict[str, tuple[str, ...]]


def budgets(*own: str, mb: Sequence[float]) -> dict[str, tuple[str, ...]]:
    """Points at budgets in MB per client."""
    return {f"{each:g} MB": (*own, f"communication.mb_per_client={each:g}") for each in mb}


def codecs(*own: str) -> dict[str, tuple[str, ...]]:
    """Points as models travel: as they are, and at 4 bits."""
    return {"float32": own, "4 bits": (*own, *BITS)}


ONE = ("method.name=fedgmi", "method.n_components=1")
SMALL_BUDGETS = (0.3, 0.5, 1, 2)
WAYS = {
    "default": Way("fedgmi", codecs(*OURS)),
    "budget": Way("fedgmi on a budget", budgets(*OURS, mb=(*SMALL_BUDGETS, 4))),
    "fedavg": Way("FedAvg", codecs("method.name=fedavg")),
    "fedavg-budget": Way("FedAvg on a budget", budgets("method.name=fedavg", mb=SMALL_BUDGETS)),
    "fedem": Way("FedEM", codecs("method.name=fedem")),
    "fedem-budget": Way("FedEM on a budget", budgets("method.name=fedem", mb=(1, 2))),
    "one-budget": Way("K = 1, own parts, on a budget", budgets(*ONE, mb=SMALL_BUDGETS)),
    "sketch": Way("the sketch alone", {"1 round": (*OURS, "method.preset=sketch", "rounds=1", *FEW)}),
}


def cells(ways: Sequence[str], scenarios: dict[str, Any], seeds: Sequence[int]) -> list[tuple[str, str, str, int]]:
    """What there is to run, all of a seed first."""
    return [
        (scenario, way, point, seed)
        for seed in seeds
        for scenario in scenarios
        for way in ways
        for point in WAYS[way].points
    ]


def place(out: Path, cell: tuple[str, str, str, int]) -> Path:
    """The cell's results folder."""
    scenario, way, point, seed = cell
    return out / scenario / f"{way}-{point.replace(' ', '').replace('%', '')}" / str(seed)


def measured(out: Path, cell: tuple[str, str, str, int], scenarios: dict[str, Any], data: dict[str, str]) -> None:
    """One cell, or what is missing of it; its figures are then in `cell.json`."""
    scenario, way, point, seed = cell
    where = place(out, cell)
    if (where / "cell.json").exists():
        return
    name, source, size = scenarios[scenario]
    path = [f"data.path={data[source]}"] if source else []
    overrides = [*path, *ALONE, *size, *WAYS[way].points[point], f"seed={seed}"]
    began = time.process_time()
    found = run(config.load(CONFIGS / f"{name}.toml", overrides), where, resume=(where / folder.CONFIG).exists())
    figures = {
        "accuracy": found["client_accuracy"],
        "error": found["proportion_tv"],
        "mb": (found["bytes_down"] + found["bytes_up"]) / len(found["clients"]) / 1e6,
        "bytes": found["bytes"],
        "plan": found.get("budget"),
        "cpu_s": time.process_time() - began,
    }
    (where / "cell.json").write_text(json.dumps(figures))


def mean_of(out: Path, scenario: str, way: str, point: str, seeds: Sequence[int]) -> dict[str, float | None] | None:
    """Means over the seeds that are there."""
    files = [place(out, (scenario, way, point, seed)) / "cell.json" for seed in seeds]
    found = [json.loads(file.read_text()) for file in files if file.exists()]
    if not found:
        return None
    keys = ("mb", "accuracy", "error", "cpu_s")
    return {key: None if found[0][key] is None else fmean(each[key] for each in found) for key in keys}


def tables(out: Path, scenarios: dict[str, Any], seeds: Sequence[int]) -> str:
    """MB per client, accuracy in percent and proportion error, scenario by scenario."""
    lines = []
    for way, what in WAYS.items():
        for point in what.points:
            row = [f"{what.words}, {point}"]
            for scenario in scenarios:
                found = mean_of(out, scenario, way, point, seeds)
                row.append("–" if found is None else shown(found))
            lines.append(row)
    return markdown_table(["", *scenarios], lines)


def shown(found: dict[str, Any]) -> str:
    """One cell of the table: MB: accuracy, error."""
    error = "" if found["error"] is None else f", {number(found['error'], 3)}"
    return f"{found['mb']:.2f} MB: {percent(found['accuracy'])}{error}"


COLOURS = ("#1f77b4", "#17becf", "#d62728", "#e377c2", "#2ca02c", "#98df8a", "#ff7f0e", "#7f7f7f")
WIDE, HIGH, EDGE = 340, 260, 46  # of a panel, and of what is around it, in pixels


def picture(out: Path, scenarios: dict[str, Any], seeds: Sequence[int]) -> str:
    """Accuracy over MB per client on a logarithmic scale, a panel for each scenario, as SVG."""
    panels = [panel(out, name, seeds, number) for number, name in enumerate(scenarios)]
    legend = [
        f'<text x="{EDGE + 170 * (i % 4)}" y="{HIGH + 2 * EDGE + 18 * (i // 4)}" fill="{colour}">{way.words}</text>'
        for i, (way, colour) in enumerate(zip(WAYS.values(), COLOURS, strict=True))
    ]
    size = f'width="{len(panels) * (WIDE + EDGE) + EDGE}" height="{HIGH + 3 * EDGE}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *panels, *legend, "</svg>\n"])


def panel(out: Path, scenario: str, seeds: Sequence[int], number: int) -> str:
    """One scenario."""
    found: dict[str, list[tuple[float, float]]] = {}
    for way, what in WAYS.items():
        means = [mean_of(out, scenario, way, point, seeds) for point in what.points]
        found[way] = sorted((float(at["mb"] or 0), float(at["accuracy"] or 0)) for at in means if at)
    every = [point for points in found.values() for point in points]
    if not every:
        return ""
    low, high = (choose(log10(mb) for mb, _ in every) for choose in (min, max))
    least, most = (choose(accuracy for _, accuracy in every) for choose in (min, max))
    left = EDGE + number * (WIDE + EDGE)

    def place(mb: float, accuracy: float) -> tuple[float, float]:
        across, up = (log10(mb) - low) / max(high - low, 1e-9), (accuracy - least) / max(most - least, 1e-9)
        return round(left + WIDE * across, 1), round(EDGE + HIGH * (1 - up), 1)

    lines = [f'<text x="{left}" y="{EDGE - 18}">{scenario}: accuracy in %, over MB per client</text>']
    lines += [f'<rect x="{left}" y="{EDGE}" width="{WIDE}" height="{HIGH}" fill="none" stroke="#999"/>']
    for mb in [m for m in (0.1, 0.3, 1, 3, 10, 30, 100) if low <= log10(m) <= high]:
        lines.append(f'<text x="{place(mb, least)[0] - 6}" y="{EDGE + HIGH + 16}">{mb:g}</text>')
    for accuracy in (least, most):
        lines.append(f'<text x="{left - 30}" y="{place(1, accuracy)[1] + 4}">{percent(accuracy)}</text>')
    for colour, points in zip(COLOURS, found.values(), strict=True):
        dots = [place(*point) for point in points]
        path = " ".join(f"{x},{y}" for x, y in dots)
        lines.append(f'<polyline points="{path}" fill="none" stroke="{colour}"/>')
        lines += [f'<circle cx="{x}" cy="{y}" r="3.5" fill="{colour}"/>' for x, y in dots]
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mnist", default="ylecun/mnist")
    parser.add_argument("--femnist", default="flwrlabs/femnist")
    parser.add_argument("--out", type=Path, default=Path("runs/communication"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", choices=SCENARIOS)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--tables", action="store_true")
    parser.add_argument("--picture", type=Path, help="an SVG to draw it in")
    options = parser.parse_args()
    scenarios = SMALL if options.small else {name: SCENARIOS[name] for name in options.only or SCENARIOS}
    for cell in () if options.tables else cells(options.ways, scenarios, options.seeds):
        measured(options.out, cell, scenarios, {"mnist": options.mnist, "femnist": options.femnist})
        print("done:", *cell, flush=True)
    print(tables(options.out, scenarios, options.seeds))
    if options.picture:
        options.picture.write_text(picture(options.out, scenarios, options.seeds))


if __name__ == "__main__":
    main()
