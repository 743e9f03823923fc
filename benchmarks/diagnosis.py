"""Is the diagnosis right? K, the coverage of the intervals and the size of the mixture test, as Markdown tables.

    .venv/bin/python benchmarks/diagnosis.py --data path/to/mnist --out runs/diagnosis

Sketch settings are the defaults throughout. A finished cell lies in --out as JSON and is read, not repeated.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from fedgmi.data.scenarios.scenarios import build_scenario
from fedgmi.data.scenarios.truth import Scenario
from fedgmi.diagnosis.diagnose import Diagnosis, diagnose
from fedgmi.diagnosis.survey import take_survey
from fedgmi.mixture.matching import match_components, reorder, total_variation
from fedgmi.mixture.spectrum import estimate_components
from fedgmi.report.formats import markdown_table
from fedgmi.runs import config
from fedgmi.runs.setup import Setup
from fedgmi.storage import files

MOST = {"rotation": 4, "labels": 6, "label-swap": 6, "gaussian": 6}  # components
# five of ten labels each are linearly dependent at K = 6 (rank 4), three are not
INDEPENDENT = {("labels", 6): {"scenario.labels_per_component": 3}}
HARD = {
    "as above": {},
    "10 clients": {"scenario.n_clients": 10},
    "50 rows each": {"scenario.rows_per_client": 50},
    "α = 10": {"scenario.alpha": 10.0},
    "α = 0.1": {"scenario.alpha": 0.1},
    "20 to 2000 rows": {"scenario.rows_per_client": 200, "scenario.size_ratio": 100.0},
}


@dataclass(frozen=True)
class Cell:
    """One federation; whole: the whole diagnosis at K components (None: K̂), else the estimated K alone."""

    scenario: str
    k: int
    seed: int
    changes: dict[str, Any]
    whole: bool = True

    def path(self, out: Path) -> Path:
        """Where its result lies."""
        changed = "".join(f"-{key.rpartition('.')[2]}={value}" for key, value in self.changes.items())
        return out / f"{self.scenario}-{self.k}{changed}-{'whole' if self.whole else 'k'}-{self.seed}.json"

    def result(self, options: argparse.Namespace) -> dict[str, Any]:
        """The cell's numbers, from its file where there is one."""
        path = self.path(options.out)
        if not path.exists():
            files.write_json(path, self._measure(options))
            print(f"done {path.stem}", flush=True)
        return files.read_json(path, "a result", {"k_estimated"}, "remove it")

    def _measure(self, options: argparse.Namespace) -> dict[str, Any]:
        settings = {
            "seed": self.seed,
            **({} if self.scenario == "gaussian" else {"data.path": options.data}),
            "scenario.name": self.scenario,
            "scenario.n_components": self.k,
            "scenario.n_clients": options.clients,
            "scenario.rows_per_client": options.rows,
            **({} if self.scenario == "pathological" else {"scenario.alpha": 1.0}),
        }
        loaded = config.load(None, [f"{key}={value}" for key, value in (settings | self.changes).items()])
        scenario = build_scenario(loaded.data, loaded.scenario, self.seed)
        federation = scenario.federation
        counts = take_survey(Setup(loaded, federation.schema, 1).task("fedgmi"), federation.clients).histograms
        if not self.whole:
            return {"k_estimated": estimate_components(counts, self.seed).n_components}
        began = time.process_time()
        found = diagnose(counts, n_components=None if scenario.truth is None else self.k, seed=self.seed)
        return numbers(found, scenario) | {"seconds": time.process_time() - began}


def numbers(found: Diagnosis, scenario: Scenario) -> dict[str, Any]:
    """What the tables tell of one diagnosis."""
    told = {
        "k_estimated": found.spectrum.n_components,
        "supported": found.mixture_supported,
        "p_value": found.misfit.p_value,
        "explained": found.explained.share or 0.0,
        "own_scatter": found.explained.own_scatter,
        "unfit": len(found.misfit.unfit),
    }
    if scenario.truth is None:
        return told
    order = match_components(found.topics.proportions, scenario.truth.drawn)
    estimate = reorder(found.topics.proportions, order)
    low, high = reorder(found.intervals, order, dim=1).unbind(-1)
    drawn = scenario.truth.drawn
    covered = ((low <= drawn) & (drawn <= high)).double()
    inside = ((low <= estimate) & (estimate <= high)).double()
    return told | {
        "coverage": float(covered.mean()),
        "width": float((high - low).mean()),
        "estimate_inside": float(inside.mean()),
        "tv": float(total_variation(estimate, drawn).mean()),
    }


def seeds(options: argparse.Namespace, n: int) -> range:
    """As many seeds from the first on."""
    return range(options.seed, options.seed + n)


def components_table(options: argparse.Namespace) -> str:
    """How often K̂ = K, by scenario and K."""
    rows, n_right, n_runs = [], 0, 0
    for name in options.scenarios:
        row = [name]
        for k in range(1, 7):
            changes = INDEPENDENT.get((name, k), {})
            cells = [Cell(name, k, seed, changes, whole=False) for seed in seeds(options, options.seeds_k)]
            found = [cell.result(options)["k_estimated"] for cell in cells] if k <= MOST[name] else []
            n_right, n_runs = n_right + found.count(k), n_runs + len(found)
            wrong = sorted(set(found) - {k})
            row.append(f"{found.count(k)}/{len(found)}{f' ({wrong})' if wrong else ''}" if found else "–")
        rows.append(row)
    return f"{markdown_table(['K̂ = K', *range_names(6)], rows)}\n\nRight: {n_right} of {n_runs}."


def range_names(most: int) -> list[str]:
    """Column heads K = 1..most."""
    return [f"K={k}" for k in range(1, most + 1)]


HEAD = ["runs", "K̂ = K", "coverage %", "width", "TV to drawn π", "called no mixture", "explained", "φ̂", "CPU s"]


def whole_row(name: str, results: list[dict[str, Any]], k: int | None) -> list[str]:
    """One line of figures over whole diagnoses."""
    right = [result["k_estimated"] == k for result in results]
    known = k is not None
    return [
        name,
        str(len(results)),
        str(sum(right))
        if known
        else f"{min(r['k_estimated'] for r in results)}-{max(r['k_estimated'] for r in results)}",
        f"{100 * mean(r['coverage'] for r in results):.1f}" if known else "–",
        f"{mean(r['width'] for r in results):.3f}" if known else "–",
        f"{mean(r['tv'] for r in results):.3f}" if known else "–",
        str(sum(not r["supported"] for r in results)),
        f"{mean(r['explained'] for r in results):.2f}",
        f"{mean(r['own_scatter'] for r in results):.2f}",
        f"{mean(r['seconds'] for r in results):.1f}",
    ]


def whole_table(options: argparse.Namespace) -> str:
    """Coverage and size at K = 3, and the federation that is no mixture."""
    names = [*options.scenarios, *(["pathological"] if options.data != "none" else [])]
    rows = []
    for name in names:
        results = [Cell(name, 3, seed, {}).result(options) for seed in seeds(options, options.seeds)]
        rows.append(whole_row(name, results, None if name == "pathological" else 3))
    return markdown_table(["K=3", *HEAD], rows)


def hard_table(options: argparse.Namespace) -> str:
    """Where it breaks."""
    rows = []
    for name in options.hard:
        for told, changes in HARD.items():
            results = [Cell(name, 3, seed, changes).result(options) for seed in seeds(options, options.seeds_hard)]
            rows.append(whole_row(f"{name}, {told}", results, 3))
    return markdown_table(["K=3", *HEAD], rows)


TABLES = {"components": components_table, "whole": whole_table, "hard": hard_table}


def main() -> None:
    """Measure what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", default="none", help='the folder of MNIST; the scenario "gaussian" needs none')
    parser.add_argument("--out", type=Path, default=Path("runs/diagnosis"))
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--scenarios", nargs="+", choices=MOST, default=list(MOST))
    parser.add_argument("--hard", nargs="+", choices=MOST, default=["labels"])
    parser.add_argument("--clients", type=int, default=40)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1000, help="the first of each row")
    parser.add_argument("--seeds-k", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--seeds-hard", type=int, default=6)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.tables:
        print(f"\n{TABLES[name](options)}", flush=True)


if __name__ == "__main__":
    main()
