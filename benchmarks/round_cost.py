"""What does a `fedgmi` round cost when K grows? K=3 against K=9 on the same rows, round by round in turn.

python benchmarks/round_cost.py [--clients 30] [--rows 500] [--epochs 5] [--repeats 3] [--side 28] [--threads 2] [--cpu]

The rounds are the default preset's, but for one thing: its responsibilities are computed and then replaced by given,
nearly one-hot ones, so that every client holds one to three components of the nine (or what those are among the three).
Exits with 1 where a round at K=9 costs 2 times a round at K=3 or more, unless --no-target.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

from fedgmi.data.rows import Client, Rows, Schema
from fedgmi.methods import Task
from fedgmi.methods.fedgmi import fedgmi
from fedgmi.methods.fedgmi.presets import PRESETS, steps_of
from fedgmi.methods.fedgmi.schedule import lay_out
from fedgmi.methods.fedgmi.settings import FedGMISettings
from fedgmi.methods.local_training import plan
from fedgmi.mixture.posterior import Posterior
from fedgmi.models.densities import make_density
from fedgmi.models.experts import make_expert
from fedgmi.protocol.in_process import InProcess
from fedgmi.protocol.step import Step
from fedgmi.settings.run import DensitySettings, ExpertSettings, TrainingSettings
from fedgmi.tree import Tree

FEW, MANY, TARGET = 3, 9, 2.0
EVIDENCE, CALIBRATION, E_STEP, M_STEP, ROUND = "  evidence", "  calibration", "E-step", "M-step", "round"
UNSURE = 50  # one row in so many is shared with another component


def make_clients(n_clients: int, n_rows: int, schema: Schema) -> tuple[list[Client], list[Tensor]]:
    """Strokes as sparse as MNIST's, with a pattern per component and label, and each row's component among `MANY`."""
    draw = torch.Generator().manual_seed(0)
    patterns = torch.rand(MANY, schema.n_classes, *schema.shape, generator=draw)
    clients, components = [], []
    for client in range(n_clients):
        held = torch.randperm(MANY, generator=draw)[: 1 + client % 3]
        component = held[torch.randint(len(held), (n_rows,), generator=draw)]
        y = torch.randint(schema.n_classes, (n_rows,), generator=draw)
        x = 0.5 * patterns[component, y] + 0.5 * torch.rand(n_rows, *schema.shape, generator=draw)
        clients.append(Client(str(client), ((x - 0.6) * 2.5).clamp(0, 1), y))
        components.append(component)
    return clients, components


def nearly_one_hot(rows: Rows, n_components: int) -> Tensor:
    """0.999 for a row's own component; one row in `UNSURE` gives 0.3 to another one. [R, K]"""
    assert rows.component is not None
    own = F.one_hot(rows.component, n_components).double()
    draw = torch.Generator().manual_seed(1)
    another = rows.component + torch.randint(1, n_components, (len(rows),), generator=draw)
    other = F.one_hot(another % n_components, n_components).double()
    unsure = (torch.arange(len(rows)) % UNSURE == 0)[:, None]
    return torch.where(unsure, 0.7 * own + 0.3 * other, 0.999 * own + 0.001 / (n_components - 1) * (1 - own))


@dataclass
class Clock:
    """Seconds by name, per round, by the clock `now`."""

    now: Callable[[], float]
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        began = self.now()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + self.now() - began


class Federation:
    """A run at one K: `play` is its next round."""

    def __init__(self, task: Task, clients: list[Client], components: list[Tensor], now: Callable[[], float]) -> None:
        self.task, self.jobs, self.steps = task, 0, 0
        self._clock, self._number, self._ids = Clock(now), 0, range(len(clients))
        program, self._preset = fedgmi(task).program, PRESETS["default"](task)
        given = replace(self._preset, training=self._posterior, shared_rounds=0, shared_trunk=False)
        steps = steps_of(task, replace(given, reference_rounds=None))
        self._round = lay_out(given.schedule, "round", steps, task.settings, task.schema)
        self._transport = InProcess(clients, program, components=components)
        self._server = program.init()
        for step in program.prepare:
            self._exchange(step)

    def _exchange(self, step: Step) -> None:
        message = self._transport.exchange(step, self._server, self._ids, self._number)
        self._server = step.server(self._server, message, self._number)

    def _posterior(self, server: Tree, states: Tree, rows: Rows) -> Posterior:
        """The preset's own, for its cost; then the given one."""
        with self._clock.time(CALIBRATION):
            posterior = self._preset.posterior(server, states, rows)
        given = nearly_one_hot(rows, self.task.n_components)
        jobs = plan(self.task, rows, given)
        self.jobs, self.steps = len(jobs), int(jobs.steps.sum())
        return Posterior(posterior.proportions, given, posterior.log_likelihood)

    def play(self) -> dict[str, float]:
        """Seconds by part."""
        self._number += 1
        self._clock = clock = Clock(self._clock.now)
        first, *rest, em = self._round
        with torch.no_grad():
            with clock.time(EVIDENCE):
                self._exchange(first)
            with clock.time(CALIBRATION):
                for step in rest:
                    self._exchange(step)
            before = clock.seconds[CALIBRATION]
            with clock.time(M_STEP):
                self._exchange(em)
        parts = clock.seconds
        parts[M_STEP] -= parts[CALIBRATION] - before
        parts[E_STEP] = parts[EVIDENCE] + parts[CALIBRATION]
        return parts | {ROUND: parts[E_STEP] + parts[M_STEP]}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=30)
    parser.add_argument("--rows", type=int, default=500, help="of each client")
    parser.add_argument("--epochs", type=int, default=5, help="local epochs of a round")
    parser.add_argument("--repeats", type=int, default=3, help="rounds that are timed, after one that is not")
    parser.add_argument("--side", type=int, default=28, help="of the square images, in pixels")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu", action="store_true", help="CPU time instead of the clock's, for a busy machine")
    parser.add_argument("--no-target", action="store_true", help="exit with 0 whatever the ratio")
    options = parser.parse_args(arguments)
    torch.set_flush_denormal(True)
    torch.set_num_threads(options.threads)
    schema = Schema(shape=(1, options.side, options.side), n_classes=10, kind="image")
    clients, components = make_clients(options.clients, options.rows, schema)
    density, expert = make_density(DensitySettings(), schema), make_expert(ExpertSettings(), schema)
    training, settings = TrainingSettings(epochs=options.epochs), FedGMISettings(warm_up_rounds=1, judges="density")
    now = time.process_time if options.cpu else time.perf_counter
    runs: dict[int, Federation] = {}
    for k in (FEW, MANY):
        task = Task(schema, k, density, expert, training, settings, lr=1e-3, seed=0)
        runs[k] = Federation(task, clients, [component * k // MANY for component in components], now)
        runs[k].play()
    print(
        f"{options.clients} clients of {options.rows} rows, {options.side}x{options.side} pixels; {options.epochs} "
        f"local epochs in batches of {training.batch_size}; VAE {density.size:,} and expert {expert.size:,} "
        f"parameters; {settings.calibration_steps} calibration steps; {options.threads} threads"
    )
    for k, run in runs.items():
        print(f"K={k}: {run.jobs} jobs of {options.clients * k} pairs, {run.steps} job-steps, for VAE and expert each")
    rounds: dict[int, list[dict[str, float]]] = {k: [] for k in runs}
    for repeat in range(options.repeats):
        for k in (FEW, MANY) if repeat % 2 == 0 else (MANY, FEW):
            rounds[k].append(runs[k].play())
    print(f"median {'CPU ' if options.cpu else ''}seconds of {options.repeats} rounds each, in turn")
    print(f"                       K={FEW}      K={MANY}    ratio")
    ratio = float("nan")
    for part in (E_STEP, EVIDENCE, CALIBRATION, M_STEP, ROUND):
        few, many = (median(played[part] for played in rounds[k]) for k in (FEW, MANY))
        ratio = many / few
        print(f"{part:<17} {few:8.3f} {many:8.3f} {ratio:8.2f}")
    print(f"target: a round at K={MANY} costs less than {TARGET:g} times a round at K={FEW}: {ratio:.2f}")
    return 0 if ratio < TARGET or options.no_target else 1


if __name__ == "__main__":
    sys.exit(main())
