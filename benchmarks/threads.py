"""What do two threads bring, on a quiet machine and on a crowded one? Each run in a process of its own, in turn.

    python benchmarks/threads.py [--threads 1 2] [--repeats 3] [--crowd 0] [--spins 30000]

A round of the default by the clock (median of a run's rounds, then of the runs): of the digits' size (20 clients of 70
rows of 64 features), and of MNIST's (30 of 500, 784). "spin" is PyTorch as Python starts it, whose threads spin while
they wait; "wait" is with OMP_WAIT_POLICY=PASSIVE, which `fedgmi` sets. `--crowd` starts so many busy processes beside.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from statistics import median
from typing import Any

SIZES = {"digits": (20, 70, 64, 3e-2), "MNIST": (30, 500, 784, 1e-2)}
ROUNDS, K, CLASSES = 4, 3, 10
BUSY = "while True: pass"


class Clock:
    """A listener: seconds by the clock from one record to the next."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def started(self, name: str, rounds: int) -> None:
        """See `Listener`."""
        self.last = time.perf_counter()

    def round_done(self, record: Any) -> None:
        """See `Listener`."""
        now = time.perf_counter()
        self.seconds.append(now - self.last)
        self.last = now

    def doing(self, name: str, part: str) -> None:
        """See `Listener`."""

    def said(self, name: str, line: str) -> None:
        """See `Listener`."""

    def finished(self, name: str) -> None:
        """See `Listener`."""


def measure(size: str, threads: int) -> float:
    """Seconds of a round, in this process."""
    import torch

    from fedgmi.data.federation import Federation
    from fedgmi.data.rows import Client, Schema
    from fedgmi.runs.config import from_table
    from fedgmi.runs.fit import fit

    n_clients, n_rows, n_features, lr = SIZES[size]
    draw = torch.Generator().manual_seed(0)
    means = 0.5 * torch.randn(K, n_features, generator=draw)
    clients = []
    for i in range(n_clients):
        component, y = torch.randint(K, (n_rows,), generator=draw), torch.randint(CLASSES, (n_rows,), generator=draw)
        x = means[component] + torch.randn(n_rows, n_features, generator=draw)
        clients.append(Client(f"client-{i:02d}", x, y))
    names = tuple(f"x{j}" for j in range(n_features))
    schema = Schema((n_features,), CLASSES, "tabular", tuple(map(str, range(CLASSES))), names)
    method = {"n_components": K, "warm_up_rounds": 1, "reference_rounds": ROUNDS}
    table = {"rounds": ROUNDS, "device": "cpu", "threads": threads, "method": method, "training": {"lr": lr}}
    clock = Clock()
    fit(from_table(table, "threads"), Federation(schema, tuple(clients)), clock)
    return median(clock.seconds[2:-1])  # without the preparation, the warm-up and the end


def one(size: str, threads: int, policy: str) -> float:
    """The same in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    environment |= {"wait": {"OMP_WAIT_POLICY": "PASSIVE"}, "spin": {}}.get(policy, {"GOMP_SPINCOUNT": policy})
    command = [sys.executable, __file__, "--one", size, str(threads)]
    return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--spins", type=int, nargs="*", default=[], help="threads that spin so often, and then wait")
    parser.add_argument("--crowd", type=int, default=0)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(measure(options.one[0], int(options.one[1])))
        return
    policies = ("wait", "spin", *map(str, options.spins))
    cases = [(threads, policy) for threads in options.threads for policy in policies[: 1 if threads == 1 else None]]
    print(f"{options.crowd} busy processes beside, load {os.getloadavg()[0]:.1f}; seconds a round")
    print("| size | " + " | ".join(f"{threads}, {policy}" for threads, policy in cases) + " |")
    print("|---|" + "---|" * len(cases), flush=True)
    crowd = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(options.crowd)]
    try:
        for size in options.sizes:
            seconds = [[one(size, *case) for case in cases] for _ in range(options.repeats)]
            print(
                f"| {size} | " + " | ".join(f"{median(each):.3f}" for each in zip(*seconds, strict=True)) + " |",
                flush=True,
            )
    finally:
        for process in crowd:
            process.kill()


if __name__ == "__main__":
    main()
