"""A client that was not there: proportion error of its inferred weights by the number of rows it shows.

    .venv/bin/python benchmarks/new_client.py configs/mnist-*.toml --data path/to/mnist --out runs/new-client

A quarter of the clients takes no part in training. Each then shows 20, 50, 200 of its rows, without labels and with
them. The error is the total variation to the realised shares in the rows shown, mean ± standard deviation over those
clients, beside the oracle's (densities and experts of the true components) and that of always answering π̄. A finished
run is read, not repeated.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from fedgmi.data.rows import Client, pack
from fedgmi.data.scenarios.scenarios import build_scenario
from fedgmi.data.scenarios.truth import Scenario
from fedgmi.data.scenarios.unseen import set_aside
from fedgmi.mixture.matching import reorder, total_variation
from fedgmi.runs import config, experiment
from fedgmi.runs.evaluation import proportion_errors
from fedgmi.runs.setup import Setup
from fedgmi.storage import checkpoint, folder

ROWS = (20, 50, 200)
UNSEEN = 0.25


def shown(unseen: Scenario, n_rows: int, labels: bool) -> tuple[list[Client], Tensor]:
    """The first rows of every unseen client, and the realised shares among them [C, K]."""
    assert unseen.truth is not None
    clients = [
        replace(client, x=client.x[:n_rows], y=client.y[:n_rows] if labels and client.y is not None else None)
        for client in unseen.federation.clients
    ]
    firsts = tuple(component[:n_rows] for component in unseen.truth.components)
    return clients, replace(unseen.truth, components=firsts).proportions()


def lines(settings: config.Config, out: Path) -> list[str]:
    """The rows of the table for one configuration."""
    experiment.run(settings, out, resume=True)
    whole = build_scenario(settings.data, settings.scenario, settings.seed)
    seen, unseen = set_aside(whole, settings.evaluation.unseen_clients, settings.seed)
    assert unseen is not None
    name, table = settings.scenario.name, []
    for labels in (False, True):
        for who in ("fedgmi", "oracle"):
            found = checkpoint.load(out / folder.CHECKPOINTS, who, digest=settings.digest())
            assert found is not None
            setup = Setup(settings, whole.federation.schema, settings.scenario.n_components)
            predictor = setup.method(who).predictor
            assert predictor.infer_client is not None
            assert predictor.proportions is not None
            assert predictor.identified is not None
            _, order = proportion_errors(predictor.proportions(found.clients), seen)
            assert order is not None
            cells, identified = [], True
            for n_rows in ROWS:
                clients, truth = shown(unseen, n_rows, labels)
                states = predictor.infer_client(found.server, pack(clients))
                error = total_variation(reorder(predictor.proportions(states), order), truth)
                identified = bool(predictor.identified(states).all())
                cells.append(f"{float(error.mean()):.3f} ± {float(error.std()):.3f}")
            kind = "with labels" if labels else "without labels"
            table.append(f"| {name} | {kind} | {who} | {' | '.join(cells)} | {'yes' if identified else 'no'} |")
    pooled = []
    for n_rows in ROWS:
        truth = shown(unseen, n_rows, labels=False)[1]
        assert seen.truth is not None
        error = total_variation(seen.truth.proportions().mean(0, keepdim=True).expand_as(truth), truth)
        pooled.append(f"{float(error.mean()):.3f} ± {float(error.std()):.3f}")
    return [*table, f"| {name} | – | always π̄ | {' | '.join(pooled)} | – |"]


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("configs", nargs="+", type=Path)
    parser.add_argument("--data", help="the folder of MNIST; without it, what the config says")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clients", type=int, default=40)
    parser.add_argument("--out", type=Path, default=Path("runs/new-client"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = []
    for path in options.configs:
        overrides = [
            f"seed={options.seed}",
            "threads=1",
            f"scenario.n_clients={options.clients}",
            f"evaluation.unseen_clients={UNSEEN}",
            "evaluation.fedavg=false",
            "evaluation.local=false",
            *([f"data.path={options.data}"] if options.data else []),
        ]
        table += lines(config.load(path, overrides), options.out / path.stem)
    print("| scenario | rows | method | " + " | ".join(f"{n} rows" for n in ROWS) + " | identified |")
    print("|---|---|---|" + "---|" * (len(ROWS) + 1))
    print("\n".join(table))


if __name__ == "__main__":
    main()
