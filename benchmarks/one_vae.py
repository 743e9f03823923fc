"""One VAE for all components, or one for each? Nats, accuracy, proportion error, megabytes and seconds of both.

    python benchmarks/one_vae.py --data ../shared/data --seeds 1000 1001 1002 1003 1004

Pictures of four mixtures, writers, and three tables, with up to 15 clients of 200 rows; rows are judged in closed form
(the default), or by the densities themselves. Accuracy is the shared model's, without clients' own parts. Nats are
those of clients' held-out rows, each under its client's own mixture. Megabytes are 10^6 bytes, down and up, a client.
A finished cell is a line of `--out` and is not repeated. `--only` runs some federations, `--judges` one of the judges;
`--tables` prints what there is and runs nothing. `--small` runs few digits and a small table, in seconds: whether both
run, and no figures to compare.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from figures import cell

from fedgmi.data.scenarios.scenarios import build_scenario
from fedgmi.report.formats import markdown_table
from fedgmi.runs import config
from fedgmi.runs.evaluation import client_accuracy, proportion_error
from fedgmi.runs.fit import fit, log_density

CONFIGS = Path(__file__).parent.parent / "configs"
ALIKE = ("threads=1", "method.personal=false")  # clients' own nets take half of the time, and no density
SIZE = (*ALIKE, "scenario.n_clients=15", "scenario.rows_per_client=200", "rounds=8", "method.reference_rounds=6")
FEW = (*ALIKE, "scenario.n_clients=6", "scenario.rows_per_client=30", "rounds=2", "training.epochs=1")
FEDERATIONS = {
    "rotation": ("mnist-rotation", "mnist", SIZE),
    "labels": ("mnist-labels", "mnist", SIZE),
    "label-swap": ("mnist-label-swap", "mnist", SIZE),
    "domain": ("mnist-domain", "mnist", SIZE),
    "writers": ("femnist-writers", "femnist", SIZE),
    "gaussian": ("digits", "", ("scenario.name=gaussian", *SIZE)),
    "wisdm": ("wisdm", "wisdm", SIZE),
    "landmine": ("landmine", "landmine", SIZE),
}
SMALL = {"digits": ("digits", "", FEW), "gaussian": ("digits", "", ("scenario.name=gaussian", *FEW))}
WAYS = ("none", "trunk")  # of density.shared
MEASURES = {"nats": (1.0, 1), "accuracy": (100.0, 1), "error": (1.0, 3), "mb": (1.0, 1), "cpu_s": (1.0, 1)}
HEAD = ("", "nats", "accuracy, %", "proportion error", "MB a client", "CPU seconds")

Cell = tuple[str, str, int, str]
"""Judges, federation, seed, way."""


def measured(at: Cell, federations: dict[str, Any], data: Path) -> dict[str, Any]:
    """One fit, and its figures."""
    judges, name, seed, way = at
    file, source, size = federations[name]
    path = [f"data.path={data / source}"] if source else []
    own = [f"method.judges={judges}", f"density.shared={way}", f"seed={seed}"]
    settings = config.load(CONFIGS / f"{file}.toml", [*path, *size, *own])
    scenario = build_scenario(settings.data, settings.scenario, seed)
    began = time.process_time()
    model = fit(settings, scenario.federation)
    seconds, predictor, held_out = time.process_time() - began, model.method.predictor, scenario.federation.held_out
    assert predictor.client_state is not None
    states = predictor.client_state(model.proportions) | model.own
    accuracy = client_accuracy(predictor, model.server, states, held_out)
    return {
        "nats": log_density(model, held_out),
        "accuracy": None if accuracy is None else float(accuracy.nanmean()),
        "error": proportion_error(predictor, states, scenario),
        "mb": (model.bytes_down + model.bytes_up) / len(model.names) / 1e6,
        "cpu_s": seconds,
    }


def found(out: Path) -> dict[Cell, dict[str, Any]]:
    """What is measured already."""
    lines = out.read_text().splitlines() if out.exists() else []
    return {tuple(line["cell"]): line for line in map(json.loads, lines)}


def both(at: dict[Cell, dict[str, Any]], judges: str, name: str, seeds: Sequence[int], measure: str) -> str:
    """Apart → one network, each over seeds, and the difference seed by seed."""
    pairs = [[at.get((judges, name, seed, way), {}).get(measure) for way in WAYS] for seed in seeds]
    pairs = [pair for pair in pairs if None not in pair]
    if not pairs:
        return "–"
    scale, digits = MEASURES[measure]
    apart, one = (cell(list(values), scale, digits) for values in zip(*pairs, strict=True))
    differences = [after - before for before, after in pairs]
    sign = "+" if fmean(differences) >= 0 else ""
    return f"{apart} → {one} ({sign}{cell(differences, scale, digits)})"


def tables(at: dict[Cell, dict[str, Any]], judges: Sequence[str], seeds: Sequence[int]) -> str:
    """A table for each way of judging."""
    parts = []
    for judge in judges:
        names = dict.fromkeys(name for judged, name, *_ in at if judged == judge)
        lines = [[name, *(both(at, judge, name, seeds, measure) for measure in MEASURES)] for name in names]
        parts.append(f"Rows judged: {judge}\n\n{markdown_table(HEAD, lines)}")
    return "\n\n".join(parts)


def main() -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/one-vae.jsonl"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", choices=FEDERATIONS)
    parser.add_argument("--judges", nargs="+", choices=("closed", "density"), default=["closed", "density"])
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--tables", action="store_true")
    options = parser.parse_args()
    federations = SMALL if options.small else {name: FEDERATIONS[name] for name in options.only or FEDERATIONS}
    of_seed = [(judges, name, way) for judges in options.judges for name in federations for way in WAYS]
    there = found(options.out)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for seed in () if options.tables else options.seeds:
        for judges, name, way in of_seed:
            if (at := (judges, name, seed, way)) not in there:
                there[at] = {"cell": at, **measured(at, federations, options.data)}
                with options.out.open("a") as file:
                    file.write(json.dumps(there[at]) + "\n")
                print("done:", *at, flush=True)
    print(tables(there, options.judges, options.seeds))


if __name__ == "__main__":
    main()
