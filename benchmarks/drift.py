"""The drift monitor on scripted streams: how often it alarms falsely, and how soon it notices what changed.

    .venv/bin/python benchmarks/drift.py                                  # closed-form Gaussians
    .venv/bin/python benchmarks/drift.py --config configs/digits.toml     # a model fitted to that configuration
    .venv/bin/python benchmarks/drift.py --config configs/mnist-rotation.toml --set data.path=path/to/mnist

Rows of reference and stream are independent draws from the same rows per component, so that they are exchangeable until
the script changes them. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from fedgmi.data.scenarios.scenarios import build_scenario
from fedgmi.drift import Monitor, Report
from fedgmi.estimator import FedGMI
from fedgmi.mixture.matching import match_components, reorder
from fedgmi.randomness import generator, numpy_generator
from fedgmi.runs.config import load

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]
LIMIT = 10  # run lengths are cut at so many times the nominal one
BEFORE = 20  # batches in control before the change
AFTER = 200  # batches in which the change is to be noticed
LATER = 5  # batches after the alarm
SHIFTS = (0.1, 0.3, 0.6)  # of proportions, total variation
STRANGE = (0.1, 0.3, 1.0)  # of rows


@dataclass(frozen=True)
class Identified:
    """The scores below are of components that rows tell apart."""

    identified: bool = True


class Scored:
    """A model whose rows are their own scores: x [n, 2K] holds log ratios and log densities."""

    def __init__(self, weights: Array) -> None:
        self.n_components_, self.client_names_, self.weights_ = len(weights), ("client",), weights[None]

    def log_ratios(self, x: Array, y: None = None) -> Array:
        return x[:, : self.n_components_]

    def component_log_prob(self, x: Array) -> Array:
        return x[:, self.n_components_ :]

    def infer_weights(self, x: Array, y: None = None) -> Identified:
        return Identified()


@dataclass(frozen=True)
class World:
    """weights [K]: what the model says of the client · truth [K]: what its rows are drawn by · strangers: kinds of rows
    that the model has never seen · draw(kind [n], rng): scores of such rows [n, 2K]; kinds from K on are strangers."""

    weights: Array
    truth: Array
    strangers: tuple[str, ...]
    draw: Callable[[Index, np.random.Generator], Array]

    def rows(self, n: int, shares: Array, rng: np.random.Generator) -> Array:
        """n rows, shares [K + strangers] of each kind."""
        return self.draw(rng.choice(len(shares), size=n, p=shares), rng)

    def monitor(self, reference: int, run_length: float, rng: np.random.Generator, seed: int) -> Monitor:
        """With a reference of so many rows."""
        rows = self.rows(reference, self.truth, rng)
        return Monitor(Scored(self.weights), "client", average_run_length=run_length, reference=(rows, None), seed=seed)


def gaussian_world(n_components: int, *, separation: float = 3.0, error: float = 0.0) -> World:
    """Unit Gaussians in K + 1 dimensions, `separation` apart, one of them unknown to the model; `error`: the standard
    deviation of the model's mistakes in every mean; its proportions are then even, and wrong."""
    means = np.eye(n_components + 1) * separation / np.sqrt(2)
    known = means[:-1] + error * numpy_generator(0, "error").normal(size=(n_components, n_components + 1))
    truth = np.arange(n_components, 0, -1) / (n_components * (n_components + 1) / 2)
    weights = np.full(n_components, 1 / n_components) if error else truth

    def draw(kind: Index, rng: np.random.Generator) -> Array:
        x = means[kind] + rng.normal(size=(len(kind), n_components + 1))
        logs = -0.5 * np.square(x[:, None] - known).sum(2)
        return np.concatenate([logs, logs], 1)

    return World(weights, truth, ("a component never seen",), draw)


def fitted_worlds(path: Path, overrides: list[str]) -> list[World]:
    """One per client of the federation that a configuration describes; rows are drawn from its pure held-out rows."""
    config = load(path, overrides)
    scenario = build_scenario(config.data, config.scenario, config.seed)
    assert scenario.truth is not None
    settings = {"density.hidden": config.density.hidden}
    rate = config.training.lr_candidates("fedgmi")[0]
    model = FedGMI(config.scenario.n_components, rounds=config.rounds, learning_rate=rate, seed=config.seed)
    model.set_params(settings=settings).fit(scenario.federation)
    order = match_components(torch.from_numpy(model.weights_), scenario.truth.proportions())
    pure = [component.x for component in scenario.truth.pure]
    plain = pure[0]
    noise = torch.rand(plain.shape, generator=generator(0, "noise"))
    strangers = {"turned by 270°": plain.rot90(3, (-2, -1)), "half noise": (plain + noise) / 2, "faint": plain / 2}
    scored = [
        np.concatenate([model.log_ratios(x), model.component_log_prob(x)], 1) for x in [*pure, *strangers.values()]
    ]

    def draw(kind: Index, rng: np.random.Generator) -> Array:
        place = rng.random(len(kind))
        return np.stack([scored[k][int(u * len(scored[k]))] for k, u in zip(kind, place, strict=True)])

    weights = reorder(torch.from_numpy(model.weights_), order).numpy()
    columns = np.concatenate([order.numpy(), order.numpy() + len(order)])
    scored = [scores[:, columns] for scores in scored]
    return [
        World(mine, truth, tuple(strangers), draw)
        for mine, truth in zip(weights, scenario.truth.proportions().numpy(), strict=True)
    ]


def moved(shares: Array, shift: float) -> Array:
    """`shift` of mass (total variation) from the largest components to the smallest."""
    after, order, left = shares.copy(), np.argsort(-shares), shift
    for k in order[:-1]:
        taken = min(left, after[k])
        after[k] -= taken
        left -= taken
    after[order[-1]] += shift - left
    return after


def run_until_alarm(monitor: Monitor, batches: Iterator[Array]) -> Report:
    """The first report with an alarm, or the last one."""
    for rows in batches:
        report = monitor.update(rows)
        if report.cause is not None:
            break
    return report


def false_alarms(worlds: list[World], batch: int, nominal: float, reference: int, runs: int) -> str:
    """Mean run length over nominal and its standard error, share of runs cut, share of alarms that blame the fit."""
    reports = []
    for run in range(runs):
        world, rng = worlds[run % len(worlds)], numpy_generator(run, "false", batch, int(nominal))
        monitor = world.monitor(reference, nominal, rng, run)
        stream = (world.rows(batch, world.truth, rng) for _ in range(int(LIMIT * nominal)))
        reports.append(run_until_alarm(monitor, stream))
    lengths = [report.batch / nominal for report in reports]
    states = [report.state for report in reports]
    cut, fit = states.count("in control"), states.count("rows no longer fit")
    error = statistics.stdev(lengths) / runs**0.5
    return f"{statistics.mean(lengths):.2f} ± {error:.2f} | {cut / runs:.1%} | {fit / max(runs - cut, 1):.0%}"


@dataclass(frozen=True)
class Judgement:
    """Batches that the change point is off · whether the verdict is right · the total variation between new proportions
    and the truth, NaN where there are none."""

    off: int
    right: bool
    error: float


def judge(report: Report, after: Array, n_components: int) -> Judgement:
    """Of a report after an alarm, where rows are drawn by `after` since batch BEFORE."""
    assert report.change_point is not None
    novel = len(after) > n_components
    right = report.state == ("rows no longer fit" if novel else "proportions moved")
    error = float("nan") if novel or report.weights_now is None else variation(report.weights_now, after)
    return Judgement(abs(report.change_point - BEFORE), right, error)


def notice(
    world: World, after: Array, batch: int, nominal: float, reference: int, run: int
) -> tuple[int, Judgement, Judgement] | str:
    """One stream with a change after BEFORE batches: the delay, and what is said then and LATER batches on;
    or "early" (a false alarm), or "missed"."""
    rng = numpy_generator(run, "delay", batch, int(nominal))
    monitor = world.monitor(reference, nominal, rng, run)
    before = (world.rows(batch, world.truth, rng) for _ in range(BEFORE))
    if run_until_alarm(monitor, before).cause is not None:
        return "early"
    alarm = run_until_alarm(monitor, (world.rows(batch, after, rng) for _ in range(AFTER)))
    if alarm.cause is None:
        return "missed"
    later = [monitor.update(world.rows(batch, after, rng)) for _ in range(LATER)][-1]
    first, last = (judge(report, after, len(world.truth)) for report in (alarm, later))
    return alarm.batch - BEFORE, first, last


def variation(first: Array, second: Array) -> float:
    """Total variation."""
    return 0.5 * float(np.abs(first - second).sum())


def delays(
    worlds: list[World], shift: float, kind: int | None, batch: int, nominal: float, reference: int, runs: int
) -> str:
    """One row of the table: `shift` of mass moves among the components, or to the strangers of this kind."""
    found = []
    for run in range(runs):
        world = worlds[run % len(worlds)]
        after = moved(world.truth, shift)
        if kind is not None:
            after = np.concatenate([(1 - shift) * world.truth, shift * np.eye(len(world.strangers))[kind]])
        found.append(notice(world, after, batch, nominal, reference, run))
    tried = [one for one in found if one != "early"]
    alarms = [one for one in tried if not isinstance(one, str)]
    if not alarms:
        return "– | – | – | – | – | 100%"
    lengths, *judged = zip(*alarms, strict=True)
    errors = [[one.error for one in part if one.error == one.error] for part in judged]
    return " | ".join(
        [
            f"{statistics.mean(lengths):.1f} ± {statistics.pstdev(lengths):.1f}",
            f"{np.quantile(lengths, 0.9):.0f}",
            " → ".join(f"{statistics.mean(one.right for one in part):.0%}" for part in judged),
            " → ".join(f"{statistics.mean(one.off for one in part):.1f}" for part in judged),
            " → ".join(f"{statistics.mean(part):.3f}" if part else "–" for part in errors),
            f"{1 - len(alarms) / len(tried):.1%}",
        ]
    )


def table(head: str, lines: Iterator[str]) -> None:
    """Print a Markdown table, line by line."""
    print(f"\n| {head} |\n|{'---|' * (head.count('|') + 1)}")
    for line in lines:
        print(f"| {line} |", flush=True)


FALSE = "run length / nominal | cut | blames the fit"
DELAY = "delay, batches | 90% | right verdict | change point off by | TV of new π | missed"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--config", type=Path, help="fit a model to this configuration; without it, Gaussians")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="section.key=value")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--reference", type=int, nargs="+", default=[200], help="rows")
    parser.add_argument("--batch", type=int, nargs="+", default=[20], help="rows")
    parser.add_argument(
        "--nominal", type=float, nargs="+", default=[100.0], help="run length to a false alarm, batches"
    )
    parser.add_argument("--components", type=int, nargs="+", default=[3], help="of the Gaussians")
    parser.add_argument("--error", type=float, nargs="+", default=[0.0], help="of the Gaussians' means in the model")
    parser.add_argument("--part", choices=["false", "delay"], help="one table only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    fitted = fitted_worlds(options.config, options.overrides) if options.config else None
    worlds = {
        (k, error): fitted or [gaussian_world(k, error=error)]
        for k, error in itertools.product(options.components, options.error)
    }
    cells = list(itertools.product(worlds.items(), options.nominal, options.reference, options.batch))
    names = "components | model's error | nominal | reference rows | rows a batch"

    def false_lines() -> Iterator[str]:
        for ((k, error), world), nominal, reference, batch in cells:
            numbers = false_alarms(world, batch, nominal, reference, options.runs)
            yield f"{k} | {error:g} | {nominal:g} | {reference} | {batch} | {numbers}"

    def delay_lines() -> Iterator[str]:
        for ((k, error), world), nominal, reference, batch in cells:
            cell = f"{k} | {error:g} | {nominal:g} | {reference} | {batch}"
            for shift in SHIFTS:
                numbers = delays(world, shift, None, batch, nominal, reference, options.runs)
                yield f"{cell} | π moves by {shift} | {numbers}"
            for (kind, name), share in itertools.product(enumerate(world[0].strangers), STRANGE):
                numbers = delays(world, share, kind, batch, nominal, reference, options.runs)
                yield f"{cell} | {share:.0%} {name} | {numbers}"

    if options.part != "delay":
        table(f"{names} | {FALSE}", false_lines())
    if options.part != "false":
        table(f"{names} | what changes | {DELAY}", delay_lines())


if __name__ == "__main__":
    main()
