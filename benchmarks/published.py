"""Published figures beside ours, on the same rows with the same splits: one command, one Markdown table a source.

    .venv/bin/python benchmarks/published.py --data ../shared/data --out runs/published

What the two tables compare:

- `flamby-heart`: FLamby's Fed-Heart-Disease (Ogier du Terrail et al. 2022, arXiv 2210.04620), seeds 42 to 46, with the
  settings of its `config_heart_disease.json`: logistic regression from the same start, batches of 4, 15 rounds of 100
  steps of plain SGD; pooled and local 50 passes of Adam at 0.001.
- `tcga`: FLamby's Fed-TCGA-BRCA, seeds 42 to 46, with the settings of its `config_tcga_brca.json`: Cox's model from
  nought, batches of 8, 5 rounds of 100 steps of plain SGD; pooled and local 30 passes of Adam at 0.01. Our training
  adds a term to Cox's partial likelihood that sets the risks' level. Columns are on one scale for it, which FLamby's
  are not: with ages of 58 years the term's first steps of SGD leave the range of risks.
- all others: one logistic regression for all clients and one for each, by accuracy on all test rows. Published are
  those of scikit-learn (C = 1, columns standardised by all training rows).

A cell (a line, a data set, a seed) is kept in --out as soon as it is done, and read again while its settings are these.
A table is a list of `Line`s: another source, with another metric of `Summary.metrics`, is one more entry of `TABLES`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fedgmi.data.federation import Federation
from fedgmi.data.rows import Client
from fedgmi.data.scenarios.scenarios import build_scenario, wants_scale
from fedgmi.methods import METHODS
from fedgmi.protocol.in_process import InProcess
from fedgmi.protocol.rounds import Progress, run_rounds
from fedgmi.report.formats import markdown_table
from fedgmi.runs import config
from fedgmi.runs.evaluation import predictions, quality
from fedgmi.runs.setup import Setup
from fedgmi.storage.files import write_json

CONFIGS = Path(__file__).parents[1] / "configs"
SAME_ROWS = ("scenario.validation_share=0.0", "threads=1", "device=cpu")
QUICK = ("rounds=1", "training.max_steps=2")


class OneLogit(nn.Module):
    """FLamby's `Baseline`: p(y = 1 | x) = sigmoid(x·w + b), as two logits of which the first is 0."""

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_features, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, 2] of rows [B, D]."""
        logit = self.linear(x)
        return torch.cat([torch.zeros_like(logit), logit], -1)


@dataclass(frozen=True)
class Line:
    """One line of a table.

    Attributes:
        name: What it is called.
        published: Others' figure.
        overrides: Of the data set's configuration.
        rows: (data set's folder, its federation) → the federation to train on; None: as it is.
        spread: The standard deviation over seeds of others' figure, where it was published.
    """

    name: str
    published: float | None
    overrides: tuple[str, ...]
    rows: Callable[[Path, Federation], Federation] | None = None
    spread: float | None = None


@dataclass(frozen=True)
class Table:
    """One published table.

    Attributes:
        title: A line about it.
        config: The configuration of its data.
        lines: What it holds.
        overrides: What all lines have in common.
        seeds: Of the starts and draws.
        metric: By `Summary.metrics`: which, and how clients come together (`mean` or `all_rows`).
        expert: (features, seed) → the model; None: that of the configuration.
    """

    title: str
    config: str
    lines: tuple[Line, ...]
    overrides: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    metric: tuple[str, str] = ("accuracy", "mean")
    expert: Callable[[int, int], nn.Module] | None = None


def flamby_start(n_features: int, seed: int) -> nn.Module:
    """The model from which all of FLamby's methods start at a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return OneLogit(n_features)


def cox_start(n_features: int, seed: int) -> nn.Module:
    """FLamby's model of TCGA: one linear layer without a constant, from nought."""
    layer = nn.Linear(n_features, 1, bias=False)
    nn.init.zeros_(layer.weight)
    return layer


def together(folder: Path, federation: Federation) -> Federation:
    """One client with everybody's training rows; held-out rows stay their clients'."""
    x = torch.cat([client.x for client in federation.clients])
    y = torch.cat([client.y for client in federation.clients if client.y is not None])
    return replace(federation, clients=(Client("all", x, y),), validation=())


def flamby_pooled(folder: Path, federation: Federation) -> Federation:
    """As FLamby pools hospitals: values as measured, scaled by all training rows, and not by each hospital's own."""
    settings = config.load(CONFIGS / "fed-heart-disease.toml", [*SAME_ROWS, f"data.path={folder.parent / HEART}"])
    raw = together(folder, build_scenario(settings.data, settings.scenario, 0).federation)
    x = raw.clients[0].x[:, [raw.schema.features.index(name) for name in HEART_NUMBERS]]
    pain, rest = (raw.clients[0].x[:, raw.schema.features.index(name), None] for name in ("cp", "restecg"))
    x = torch.cat([x, pain == torch.tensor([2.0, 3.0, 4.0]), rest == torch.tensor([1.0, 2.0])], 1)
    x = (x - x.mean(0)) / (x.std(0) + 1e-9)
    return replace(together(folder, federation), clients=(Client("all", x, raw.clients[0].y),))


HEART = "fed-heart-disease"
HEART_NUMBERS = ("age", "sex", "trestbps", "chol", "fbs", "thalach", "exang", "oldpeak")
SGD = ("training.optimizer=sgd", "rounds=15", "training.epochs=20", "training.max_steps=100")
ALONE = ("method.name=local", "rounds=1", "training.epochs=50")
MOMENTS = ("method.beta_1=0.9", "method.beta_2=0.999", "method.tau=1e-8")
FLAMBY_HEART = Table(
    "FLamby's heart disease: accuracy, mean over hospitals, mean ± standard deviation over seeds 42 to 46",
    f"{HEART}-flamby",
    (
        Line("pooled", 0.735, ALONE, flamby_pooled, 0.003),
        Line("local", 0.730, ALONE, spread=0.029),
        Line("fedavg", 0.685, (*SGD, "method.name=fedavg"), spread=0.028),
        Line("fedprox", 0.685, (*SGD, "method.name=fedprox", "method.mu=0.01"), spread=0.028),
        Line("scaffold", 0.684, (*SGD, "method.name=scaffold"), spread=0.028),
        Line(
            "fedadam",
            0.726,
            (*SGD, "training.lr=0.01", "method.name=fedadam", "method.server_lr=0.01", *MOMENTS),
            spread=0.014,
        ),
        Line(
            "fedyogi",
            0.731,
            (*SGD, "training.lr=0.003162", "method.name=fedyogi", "method.server_lr=0.01", *MOMENTS),
            spread=0.013,
        ),
        Line(
            "fedadagrad",
            0.731,
            (
                *(*SGD, "training.lr=0.003162", "method.name=fedadagrad", "method.server_lr=0.316228"),
                *(MOMENTS[0], MOMENTS[2]),
            ),
            spread=0.013,
        ),
        Line("fedavg-ft", 0.735, (*SGD, "method.name=fedavg-ft"), spread=0.008),  # FLamby's file has no rate for it
        Line("fedavg-ft, rate 0.003162", 0.735, (*SGD, "training.lr=0.003162", "method.name=fedavg-ft"), spread=0.008),
    ),
    ("training.batch_size=4", "training.lr=0.001"),
    (42, 43, 44, 45, 46),
    expert=flamby_start,
)
TCGA_SGD = ("training.optimizer=sgd", "rounds=5", "training.epochs=20", "training.max_steps=100")
TCGA_ALONE = ("method.name=local", "rounds=1", "training.epochs=30", "training.lr=0.01")
TCGA = Table(
    "FLamby's TCGA-BRCA: C-index, mean over regions, mean ± standard deviation over seeds 42 to 46",
    "fed-tcga-brca",
    (
        Line("pooled", 0.676, TCGA_ALONE, together),
        Line("local", 0.689, TCGA_ALONE),
        Line("fedavg", 0.732, (*TCGA_SGD, "training.lr=0.1", "method.name=fedavg")),
        Line(
            "fedadam",
            0.815,
            (*TCGA_SGD, "training.lr=0.01", "method.name=fedadam", "method.server_lr=0.1", *MOMENTS),
        ),
        Line("fedavg-ft", None, (*TCGA_SGD, "training.lr=0.1", "method.name=fedavg-ft")),
        Line("fedgmi", None, ("method.name=fedgmi", "rounds=15", "training.epochs=2", "training.lr=0.01")),
    ),
    ("training.batch_size=8", "expert={}"),
    (42, 43, 44, 45, 46),
    metric=("c_index", "mean"),
    expert=cox_start,
)
PASSES = ("training.optimizer=sgd", "training.lr=0.1", "training.batch_size=20")
ONE_STEP = ("training.optimizer=sgd", "training.lr=1.0", "training.batch_size=400", "training.epochs=1")


def logistic(name: str, one: float, own: float) -> Table:
    """One logistic regression for all, and one a client, of a data set.

    With one step a round on all of a client's rows FedAdam is Adam on all rows together, so that it ends where they do.
    FedAvg with a pass a round does not, where clients differ.
    """
    once = ("method.name=local", "rounds=1")
    large = ("training.lr=3e-2", "training.epochs=200", "training.batch_size=200")
    return Table(
        f"{name}: logistic regression, accuracy on all test rows",
        name,
        (
            Line("one for all, rows together", one, (*once, *large), together),
            Line("one for all, fedadam", one, ("method.name=fedadam", "method.server_lr=0.1", "rounds=300", *ONE_STEP)),
            Line("one for all, fedavg", one, ("method.name=fedavg", "rounds=100", "training.epochs=1", *PASSES)),
            Line("one a client, local", own, (*once, "training.epochs=100", *PASSES)),
            Line("fedavg-ft", None, ("method.name=fedavg-ft", "rounds=100", "training.epochs=1", *PASSES)),
            Line("fedgmi", None, ("method.name=fedgmi", "rounds=30", "training.epochs=5")),
        ),
        ("expert.name=linear", "training.lr=3e-3"),
        metric=("accuracy", "all_rows"),
    )


TABLES: dict[str, Table] = {
    "flamby-heart": FLAMBY_HEART,
    "tcga": TCGA,
    "watch-exercises": logistic("watch-exercises", 0.926, 0.984),
    "wisdm": logistic("wisdm", 0.793, 0.847),
    "landmine": logistic("landmine", 0.941, 0.947),
    "school": logistic("school", 0.433, 0.414),
    "us-math": logistic("us-math", 0.503, 0.463),
}


def settings_of(table: Table, line: Line, seed: int, folder: Path, quick: bool) -> config.Config:
    """The settings of a cell."""
    common = (*SAME_ROWS, f"data.path={folder}", f"seed={seed}")
    words = [*common, *table.overrides, *line.overrides, *(QUICK if quick else ())]
    return config.load(CONFIGS / f"{table.config}.toml", words)


def measured(settings: config.Config, table: Table, line: Line, folder: Path) -> float:
    """Train, predict each client's test rows, and measure."""
    federation = build_scenario(settings.data, settings.scenario, settings.seed).federation
    schema, tested = federation.schema, federation.clients
    if line.rows is not None:
        federation = line.rows(folder, federation)
    scale = wants_scale(settings.data, settings.scenario, schema)
    expert = None if table.expert is None else table.expert(schema.n_features, settings.seed)
    n_components = settings.scenario.n_components if METHODS[settings.method.name].has_components else 1
    method = Setup(settings, schema, n_components, scale, expert).method()
    transport = InProcess(federation.clients, method.program, validation=federation.validation)
    start = Progress(method.program.init())
    end = run_rounds(
        method.name,
        method.program,
        transport,
        start,
        n_clients=len(federation.clients),
        rounds=settings.rounds,
        seed=settings.seed,
    )
    groups = [federation.held_out] if line.rows is None else [(client,) for client in federation.held_out]
    found = [predictions(method.predictor, end.server, transport.states, group) or [] for group in groups]
    metrics = quality([one for group in found for one in group], tested, schema)["metrics"]
    return float(metrics[table.metric[0]][table.metric[1]])


def cell(out: Path, table: Table, line: Line, seed: int, folder: Path, quick: bool) -> tuple[float, float]:
    """A cell's figure and its seconds, from its file where that is of the same settings."""
    path = out / table.config / f"{line.name.replace(', ', ' ').replace(' ', '-')}-{seed}.json"
    settings = settings_of(table, line, seed, folder, quick)
    digest = settings.digest()
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["digest"] == digest:
            return kept["value"], kept["seconds"]
    began = time.perf_counter()
    value = measured(settings, table, line, folder)
    seconds = time.perf_counter() - began
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"digest": digest, "value": value, "seconds": seconds})
    return value, seconds


def figure(values: Sequence[float], spread: float | None = None) -> str:
    """Mean ± standard deviation, to three places.

    >>> figure([0.5, 0.75]), figure([0.5], 0.01)
    ('.625 ± .177', '.500 ± .010')
    """
    spread = statistics.stdev(values) if len(values) > 1 else spread
    told = f"{statistics.mean(values):.3f}" + ("" if spread is None else f" ± {spread:.3f}")
    return told.replace("0.", ".")


def shown(table: Table, found: dict[str, list[tuple[float, float]]]) -> str:
    """A table as Markdown."""
    lines = []
    for line in table.lines:
        values, seconds = zip(*found[line.name], strict=True)
        published = "–" if line.published is None else figure([line.published], line.spread)
        apart = "–"
        if line.published is not None:  # adding 0 makes +0 of -0
            apart = f"{round(statistics.mean(values) - line.published, 3) + 0:+.3f}".replace("0.", ".")
        lines.append([line.name, published, figure(values), apart, f"{statistics.mean(seconds):.1f}"])
    return f"{table.title}\n\n" + markdown_table(["method", "published", "ours", "apart", "seconds"], lines)


def main() -> None:
    """Run what is missing, and write the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="where the data sets' folders are")
    parser.add_argument("--out", type=Path, default=Path("runs/published"))
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--quick", action="store_true", help="one seed, one round of two steps: does it run?")
    options = parser.parse_args()
    torch.set_num_threads(1)
    parts = []
    for name in options.only:
        table = TABLES[name]
        folder = options.data / table.config
        if not folder.is_dir():
            print(f"{name}: there is no {folder}, so that it is left out", flush=True)
            continue
        found: dict[str, list[tuple[float, float]]] = {}
        for line in table.lines:
            seeds = table.seeds[:1] if options.quick else table.seeds
            found[line.name] = [cell(options.out, table, line, seed, folder, options.quick) for seed in seeds]
            print(f"{name}, {line.name}: {figure([value for value, _ in found[line.name]])}", flush=True)
        parts.append(shown(table, found))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "published.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print("\n" + "\n\n".join(parts))


if __name__ == "__main__":
    main()
