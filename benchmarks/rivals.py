"""Every rival on every scenario of docs/results.md: a series of `fedgmi compare`, and two tables of them all.

    .venv/bin/python benchmarks/rivals.py --mnist path/to/mnist --femnist path/to/femnist --jobs 2
    .venv/bin/python benchmarks/rivals.py --small --jobs 2

Rivals are all that the table of methods has, those of outside packages too. Hours on two cores, hence resumable:
finished cells are read, `--only rotation labels` runs a part, and `--methods fedavg flux` runs some. `--small` runs
every method once on few digits, in minutes: whether each runs, and no figures to compare. `--tables` prints what there
is and runs nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedgmi.methods import METHODS
from fedgmi.report.comparison import write_comparison
from fedgmi.report.formats import markdown_table, number, percent
from fedgmi.runs import config, records
from fedgmi.runs.compare import compare
from fedgmi.storage import folder

RIVALS = tuple(name for name in METHODS if name != "fedgmi")
WITH_TRUTH = ("fedgmi", "oracle", *RIVALS)
ALL = (*WITH_TRUTH, "fedgmi-plain", "fedgmi-sketch")
NO_ORACLE = ("fedgmi", *RIVALS)
CONFIGS = Path(__file__).parent.parent / "configs"


@dataclass(frozen=True)
class Comparison:
    """One `fedgmi compare`: its config, what differs from it, methods and seeds."""

    name: str
    config: str
    overrides: tuple[str, ...] = ()
    methods: tuple[str, ...] = WITH_TRUTH
    seeds: tuple[int, ...] = (0,)


SERIES = (
    *(Comparison(name, f"mnist-{name}", methods=ALL, seeds=(0, 1, 2)) for name in ("rotation", "labels", "label-swap")),
    Comparison("digits", "digits", methods=ALL, seeds=(0, 1, 2)),
    Comparison("domain", "mnist-domain"),
    *(
        Comparison(f"{name}, α = 0.3", f"mnist-{name}", ("scenario.alpha=0.3",), NO_ORACLE)
        for name in ("rotation", "labels", "label-swap", "domain")
    ),
    Comparison("rotation, 20 %", "mnist-rotation", ("method.participation=0.2",)),
    Comparison("writers", "femnist-writers", methods=NO_ORACLE),
    Comparison("pathological", "mnist-pathological", methods=NO_ORACLE),
)
SMALL = Comparison(
    "small",
    "digits",
    (
        "rounds=4",
        "scenario.n_clients=8",
        "scenario.rows_per_client=40",
        "training.epochs=1",
    ),
    methods=ALL,
)


def place(out: Path, comparison: Comparison) -> Path:
    """Its folder; cells of other settings never meet there.

    >>> place(Path("runs"), SERIES[5]).name
    'rotation-a03'
    """
    name = comparison.name.replace(", α = 0.3", "-a03").replace(", 20 %", "-part")
    return out / {"writers": "femnist"}.get(name, name)


def table(found: dict[str, dict[str, Any]], show: Callable[[dict[str, Any]], str]) -> str:
    """Methods × comparisons, as Markdown; a dash where a method has no such number or has not run."""
    methods = [name for name in ALL if any(name in each["summary"] for each in found.values())]
    lines = [[name, *(show(each["summary"].get(name, {})) for each in found.values())] for name in methods]
    return markdown_table(["method", *found], lines)


def accuracy(summary: dict[str, Any]) -> str:
    """Mean ± deviation over seeds, percent; the worst tenth of clients in brackets."""
    mean, worst = summary.get("client_accuracy"), summary.get("worst_decile")
    if not mean or not worst:
        return "–"
    spread = f" ± {percent(mean[1])}" if len(summary["seeds"]) > 1 else ""
    return f"{percent(mean[0])}{spread} ({percent(worst[0])})"


def error(summary: dict[str, Any]) -> str:
    """Proportion error, mean ± deviation over seeds."""
    mean = summary.get("proportion_tv")
    if not mean:
        return "–"
    spread = f" ± {number(mean[1], 3)}" if len(summary["seeds"]) > 1 else ""
    return f"{number(mean[0], 3)}{spread}"


def cost(summary: dict[str, Any]) -> str:
    """Megabytes both ways, all clients and rounds."""
    return f"{(summary['bytes_down'][0] + summary['bytes_up'][0]) / 1e6:.0f}" if summary else "–"


def tables(out: Path, series: Sequence[Comparison]) -> str:
    """Accuracy, proportion error and bytes of all that have been run."""
    done = [comparison for comparison in series if (place(out, comparison) / folder.COMPARISON).exists()]
    found = {comparison.name: records.Comparison.read(place(out, comparison)).to_json() for comparison in done}
    parts = [
        f"{title}\n\n{table(found, show)}" for title, show in (("accuracy", accuracy), ("error", error), ("MB", cost))
    ]
    return "\n\n".join(parts) if found else "nothing has been run yet"


def run(comparison: Comparison, out: Path, data: dict[str, str], jobs: int) -> None:
    """One comparison, or what is missing of it."""
    path = data.get(comparison.config.partition("-")[0])
    source = [] if path is None else [f"data.path={path}"]
    settings = config.load(CONFIGS / f"{comparison.config}.toml", [*source, "threads=1", *comparison.overrides])
    record = compare(settings, place(out, comparison), comparison.methods, comparison.seeds, jobs=jobs)
    write_comparison(record, place(out, comparison))
    print(f"done: {comparison.name}", flush=True)


def main() -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mnist", default="ylecun/mnist")
    parser.add_argument("--femnist", default="flwrlabs/femnist")
    parser.add_argument("--out", type=Path, default=Path("runs/rivals"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=[comparison.name for comparison in SERIES])
    parser.add_argument("--methods", nargs="+", choices=ALL, help="of each comparison's; all by default")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--tables", action="store_true")
    options = parser.parse_args()
    series = [comparison for comparison in SERIES if not options.only or comparison.name in options.only]
    series = [SMALL] if options.small else series
    if options.methods:
        chosen = [[name for name in comparison.methods if name in options.methods] for comparison in series]
        series = [replace(each, methods=tuple(some)) for each, some in zip(series, chosen, strict=True) if some]
    for comparison in () if options.tables else series:
        run(comparison, options.out, {"mnist": options.mnist, "femnist": options.femnist}, options.jobs)
    print(tables(options.out, series))


if __name__ == "__main__":
    main()
