"""A round of local training on a CPU core and on a GPU: how much faster, and are the results the same?

    python benchmarks/device.py [--clients 1000] [--rows 50] [--model mlp] [--repeats 5]

The serial loop is one module after another on one core with `torch.optim.Adam`, as `peers.py` has it. Packed training
runs on the CPU and on the GPU; draws and sums are the same, so the models should differ by rounding alone. Exits with
1 where they differ by more than 1e-3 of their length. Without a GPU it prints the CPU's figures alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from statistics import median

import torch
from peers import MODELS, bare, make_clients, task_for
from torch import Tensor

from fedgmi.methods import METHODS
from fedgmi.protocol.in_process import InProcess

TOLERANCE = 1e-3


def round_on(device: str, model: str, clients: list) -> Callable[[], Tensor]:
    """A round of FedAvg on a device → the averaged model [P]."""
    method = METHODS["fedavg"].build(task_for(model, 1, "fedavg"))
    transport = InProcess(clients, method.program, device=torch.device(device))
    server = {name: leaf.to(device) for name, leaf in method.program.init().items()}

    def run() -> Tensor:
        state = server
        with torch.no_grad():
            for step in method.program.round:
                state = step.server(state, transport.exchange(step, state, range(len(clients)), 1), 1)
        return state["expert"].cpu()[0]

    return run


def seconds(run: Callable[[], object], repeats: int) -> float:
    """The median by the clock, after one round to warm up."""
    run()
    taken = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        taken.append(time.perf_counter() - begin)
    return median(taken)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=50)
    parser.add_argument("--model", choices=MODELS, default="mlp")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    clients = make_clients(options.clients, options.rows)
    serial = seconds(bare(MODELS[options.model], clients, 1, False), options.repeats)
    on_cpu = round_on("cpu", options.model, clients)
    packed = seconds(on_cpu, options.repeats)
    print(f"{options.clients} clients × {options.rows} rows, {options.model}")
    print("| where | seconds a round | against the serial loop |\n|---|---|---|")
    print(
        f"| serial loop, one core | {serial:.3f} | 1.0 |\n| packed, one core | {packed:.3f} | {serial / packed:.1f} |"
    )
    if not torch.cuda.is_available():
        print("\nno GPU is here, so nothing is compared with it")
        return 0
    on_gpu = round_on("cuda", options.model, clients)
    fast = seconds(on_gpu, options.repeats)
    print(f"| packed, {torch.cuda.get_device_name()} | {fast:.3f} | {serial / fast:.1f} |")
    here, there = on_cpu(), on_gpu()
    apart = float((here - there).norm() / here.norm())
    print(f"\nthe models are {apart:.1e} of their length apart")
    return int(apart > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
