"""What noise on the clients' histograms costs: proportion error after the sketch against `method.epsilon`.

    .venv/bin/python benchmarks/privacy.py --data path/to/mnist
    .venv/bin/python benchmarks/privacy.py --data path/to/mnist --scenarios rotation --clients 29 --rows 2000

The error is the total variation to the realised shares, mean ± standard deviation over seeds; in brackets how many
components the noisy counts show (`components_shown`), where they do not show all. Only the sketch runs: codebook,
histograms, topics, fold-in; the codebook, which ε does not protect, is the same for all ε of a seed. The last column is
the error of giving every client the mean of all proportions.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence

import torch

from fedgmi.data.scenarios.scenarios import build_scenario
from fedgmi.methods import METHODS
from fedgmi.mixture.matching import total_variation
from fedgmi.protocol.in_process import InProcess
from fedgmi.protocol.step import Step
from fedgmi.runs import config
from fedgmi.runs.evaluation import proportion_errors
from fedgmi.runs.setup import Setup
from fedgmi.tree import Tree

EPSILONS = ("inf", "10", "3", "1", "0.3", "0.1")


def errors(settings: config.Config, epsilons: Sequence[str]) -> tuple[list[float], list[int], float]:
    """Per ε the error and the components shown, and the error of the mean proportions."""
    scenario = build_scenario(settings.data, settings.scenario, settings.seed)
    assert scenario.truth is not None
    task = Setup(settings, scenario.federation.schema, settings.scenario.n_components).task()
    program = METHODS["fedgmi"](task).program
    transport = InProcess(scenario.federation.clients, program)
    ids = range(len(scenario.federation.clients))

    def exchange(server: Tree, steps: Sequence[Step]) -> Tree:
        for step in steps:
            server = step.server(server, transport.exchange(step, server, ids, 0), 0)
        return server

    begin = [step.name for step in program.prepare].index("histograms")
    words = exchange(program.init(), program.prepare[:begin])
    found, shown = [], []
    for epsilon in epsilons:
        transport.states = program.client_init(tuple(ids))
        noise = {"epsilon": None if epsilon == "inf" else float(epsilon)}
        method = METHODS["fedgmi"](task.replace(settings=task.settings.model_copy(update=noise)))
        server = exchange(words, method.program.prepare[begin:])
        numbers, _ = proportion_errors(transport.states["proportions"], scenario)
        found.append(numbers["proportion_tv"])
        shown.append(int(method.metrics(server)["components_shown"]))
    true = scenario.truth.proportions()
    return found, shown, float(total_variation(true.mean(0).expand_as(true), true).mean())


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation."""
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{deviation}"


def row(name: str, options: argparse.Namespace) -> str:
    """One scenario's row of the table."""
    overrides = {
        "data.path": options.data,
        "scenario.name": name,
        "scenario.n_clients": options.clients,
        "scenario.rows_per_client": options.rows,
        "scenario.size_ratio": options.size_ratio,
        "scenario.alpha": options.alpha,
        "scenario.n_components": options.components,
        "method.codewords": options.codewords,
        "method.preset": "sketch",
    }
    found, shown, blind = [], [], []
    for seed in options.seeds:
        settings = config.load(None, [f"{key}={value}" for key, value in overrides.items()] + [f"seed={seed}"])
        numbers = errors(settings, options.epsilons)
        for collected, value in zip((found, shown, blind), numbers, strict=True):
            collected.append(value)
    cells = []
    for values, components in zip(zip(*found, strict=True), zip(*shown, strict=True), strict=True):
        told = " (" + ", ".join(map(str, components)) + ")" if min(components) < options.components else ""
        cells.append(spread(values) + told)
    return f"| {name}, {options.clients} × {options.rows} | {' | '.join(cells)} | {spread(blind)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="digits, or the folder of MNIST")
    parser.add_argument("--scenarios", nargs="+", default=["rotation", "labels", "label-swap"])
    parser.add_argument("--clients", type=int, default=30)
    parser.add_argument("--rows", type=int, default=500, help="of each client")
    parser.add_argument("--size-ratio", type=float, default=1.0, help="of the largest client to the smallest")
    parser.add_argument("--alpha", type=float, default=1.0)
    parser.add_argument("--components", type=int, default=3)
    parser.add_argument("--codewords", type=int, default=20)
    parser.add_argument("--epsilons", nargs="+", default=EPSILONS, help="inf: without noise")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    head = [*("no noise" if e == "inf" else f"ε = {e}" for e in options.epsilons), "mean of all"]
    print(f"| scenario, clients × rows | {' | '.join(head)} |\n|---|{'---|' * len(head)}")
    for name in options.scenarios:
        print(row(name, options), flush=True)


if __name__ == "__main__":
    main()
