"""How do time and memory grow with the number of clients? Each size in a process of its own.

    python benchmarks/scale.py [--sizes 100 1000 10000] [--participation 1.0] [--threads 1]

Every client has 50 rows of 64 features, a mixture of three Gaussians with a rule of labels each. The table has CPU
seconds of the preparation, of each round (median) and of the end, and the peak of the process's memory. The model fits
in the cache of a processor; what grows is the number of clients alone.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from statistics import median
from typing import Any

import torch

from fedgmi.data.federation import Federation
from fedgmi.data.rows import Client, Schema
from fedgmi.runs.config import from_table
from fedgmi.runs.fit import fit

ROWS, FEATURES, K = 50, 64, 3
ROUNDS, PHASES = 4, {"warm_up_rounds": 1, "reference_rounds": 3}


class Clock:
    """A listener: CPU seconds from one record to the next."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def started(self, name: str, rounds: int) -> None:
        """See `Listener`."""
        self.last = time.process_time()

    def round_done(self, record: Any) -> None:
        """See `Listener`."""
        now = time.process_time()
        self.seconds.append(now - self.last)
        self.last = now

    def doing(self, name: str, part: str) -> None:
        """See `Listener`."""

    def said(self, name: str, line: str) -> None:
        """See `Listener`."""

    def finished(self, name: str) -> None:
        """See `Listener`."""


def federation(n_clients: int) -> Federation:
    """Mixtures of three Gaussians, with a rule of labels each."""
    draw = torch.Generator().manual_seed(0)
    means, rules = 1.5 * torch.randn(K, FEATURES, generator=draw), torch.randn(K, FEATURES, generator=draw)
    clients = []
    for i in range(n_clients):
        share = torch._standard_gamma(torch.full((K,), 0.5), generator=draw)
        component = torch.multinomial(share / share.sum(), ROWS, True, generator=draw)
        offset = torch.randn(ROWS, FEATURES, generator=draw)
        y = ((offset * rules[component]).sum(1) > 0).long()
        clients.append(Client(f"client-{i:06d}", means[component] + offset, y))
    features = tuple(f"x{j}" for j in range(FEATURES))
    return Federation(Schema((FEATURES,), 2, "tabular", ("0", "1"), features), tuple(clients))


def measure(n_clients: int, participation: float, threads: int) -> dict[str, float]:
    """One size, in this process."""
    table: dict[str, Any] = {
        "rounds": ROUNDS,
        "device": "cpu",
        "threads": threads,
        "method": {"participation": participation, "n_components": K} | PHASES,
        "training": {"epochs": 5, "batch_size": ROWS, "lr": 3e-3},
    }
    clock = Clock()
    fit(from_table(table, "scale"), federation(n_clients), clock)
    preparation, *rounds, end = clock.seconds
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"preparation": preparation, "round": median(rounds), "end": end, "peak": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--participation", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    rest = options.participation, options.threads
    if options.one:
        print(json.dumps(measure(options.one, *rest)))
        return
    print(f"fedgmi, participation {options.participation:g}, {options.threads} threads")
    print("| clients | preparation, s | a round, s | a round, ms a client | end, s | peak, GB |")
    print("|---|---|---|---|---|---|")
    for size in options.sizes:
        done = subprocess.run([sys.executable, *sys.argv, "--one", str(size)], capture_output=True, text=True)
        if done.returncode:
            print(f"| {size} | failed: {done.stderr.strip().splitlines()[-1]} |")
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        each = 1000 * found["round"] / max(1, round(size * options.participation))
        figures = found["preparation"], found["round"], each, found["end"], found["peak"]
        print(f"| {size:,} | " + " | ".join(f"{figure:.2f}" for figure in figures) + " |", flush=True)


if __name__ == "__main__":
    main()
