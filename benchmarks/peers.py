"""A round of local training beside the loops of peers: the same model, rows, batch size and Adam, turn by turn.

    python benchmarks/peers.py [--model mlp] [--clients 20] [--rows 500] [--epochs 1] [--repeats 7] [--threads 1]

Loops are written here in the form that other code has, from its description; no code of theirs is copied:

    bare      one module, one optimiser a client, batches by index from one tensor: the least that PyTorch asks for
    PFLlib    a module and a DataLoader of (x, y) pairs for every client, last batch dropped; the server adds parameters
    pfl       one module that is set to the central state, batches by slices; differences added up by name
    FedEM     K modules a client, every batch through all of them, losses weighted by responsibilities of all rows

FedAvg is compared with the first three, FedEM with the last, which trains every learner on every row where ours draws
rows in proportion to their responsibilities: the table has CPU seconds per trained row for it. Seconds are CPU seconds,
and ratios are of neighbours in one process; above 1 the peer is slower.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from fedgmi.data.rows import Client, Schema
from fedgmi.methods import METHODS, Method, Task
from fedgmi.methods.local_training import plan, row_losses
from fedgmi.models.densities import make_density
from fedgmi.models.expert import Expert
from fedgmi.models.experts import expert_from_module, make_expert
from fedgmi.protocol.in_process import InProcess
from fedgmi.settings.run import DensitySettings, ExpertSettings, TrainingSettings

SCHEMA = Schema((1, 28, 28), 10, "image", tuple(str(label) for label in range(10)))
BATCH, LR, K = 50, 1e-3, 3
Round = Callable[[], object]


def mlp() -> nn.Module:
    """784-200-10."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 10))


def cnn() -> nn.Module:
    """fedgmi's own small one."""
    layers = nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU()
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 49, 200), nn.ReLU(), nn.Linear(200, 10))


def own() -> nn.Module:
    """5×5 convolutions, as many papers have them; to fedgmi it is a user's own module."""
    first = nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)
    second = nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(64 * 49, 128), nn.ReLU(), nn.Linear(128, 10))


MODELS = {"mlp": mlp, "cnn": cnn, "own": own}


def make_clients(n_clients: int, n_rows: int) -> list[Client]:
    """Pictures with sparse strokes, as bright as MNIST's."""
    draw = torch.Generator().manual_seed(0)
    made = []
    for i in range(n_clients):
        x = (torch.rand(n_rows, *SCHEMA.shape, generator=draw) - 0.74).clamp(min=0) * 3.8
        made.append(Client(f"client-{i:03d}", x, torch.randint(10, (n_rows,), generator=draw)))
    return made


def task_for(model: str, epochs: int, method: str) -> Task:
    """What fedgmi is told of the model."""
    experts: dict[str, Callable[[], Expert]] = {
        "mlp": lambda: make_expert(ExpertSettings(shared="none"), SCHEMA),
        "cnn": lambda: make_expert(ExpertSettings(name="cnn", shared="none"), SCHEMA),
        "own": lambda: expert_from_module(own, SCHEMA),
    }
    return Task(
        schema=SCHEMA,
        n_components=K,
        density=make_density(DensitySettings(), SCHEMA),
        expert=experts[model](),
        training=TrainingSettings(epochs=epochs, batch_size=BATCH),
        settings=METHODS[method].settings(name=method),
        lr=LR,
        seed=0,
    )


def ours(method: Method, clients: list[Client]) -> Round:
    """A round of a method over the transport that measures: what a run does."""
    transport, server = InProcess(clients, method.program), method.program.init()

    def run() -> object:
        state = server
        with torch.no_grad():
            for step in method.program.round:
                state = step.server(state, transport.exchange(step, state, range(len(clients)), 1), 1)
        return state

    return run


def bare(make: Callable[[], nn.Module], clients: list[Client], epochs: int, fused: bool) -> Round:
    """The least that PyTorch asks for."""
    start = make()

    def run() -> object:
        total = [torch.zeros_like(p) for p in start.parameters()]
        for client in clients:
            model = copy.deepcopy(start)
            optimiser = torch.optim.Adam(model.parameters(), lr=LR, fused=fused)
            for _ in range(epochs):
                for rows in torch.randperm(len(client)).split(BATCH):
                    optimiser.zero_grad()
                    F.cross_entropy(model(client.x[rows]), labels(client)[rows]).backward()
                    optimiser.step()
            with torch.no_grad():
                for place, p in zip(total, model.parameters(), strict=True):
                    place.add_(p, alpha=len(client))
        return total

    return run


def pfllib(make: Callable[[], nn.Module], clients: list[Client], epochs: int, fused: bool) -> Round:
    """In the form of PFLlib: every client has a module and a loader of pairs."""
    start = make()
    models = [copy.deepcopy(start) for _ in clients]
    pairs = [list(zip(client.x, labels(client), strict=True)) for client in clients]

    def run() -> object:
        total = copy.deepcopy(start)
        for p in total.parameters():
            p.data.zero_()
        for model, rows in zip(models, pairs, strict=True):
            for new, old in zip(model.parameters(), start.parameters(), strict=True):
                new.data = old.data.clone()
            optimiser = torch.optim.Adam(model.parameters(), lr=LR, fused=fused)
            loader: DataLoader[tuple[Tensor, Tensor]] = DataLoader(
                rows,  # type: ignore[arg-type]
                batch_size=BATCH,
                drop_last=True,
                shuffle=True,
            )
            for _ in range(epochs):
                for x, y in loader:
                    loss = F.cross_entropy(model(x), y)
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
            for place, p in zip(total.parameters(), model.parameters(), strict=True):
                place.data += p.data.clone() * len(rows)
        return total

    return run


def pfl(make: Callable[[], nn.Module], clients: list[Client], epochs: int, fused: bool) -> Round:
    """In the form of pfl-research: one module, set to the central state, and differences by name."""
    model = make()
    central = {name: p.detach().clone() for name, p in model.named_parameters()}

    def run() -> object:
        total: dict[str, Tensor] = {}
        for client in clients:
            with torch.no_grad():
                for name, p in model.named_parameters():
                    p.copy_(central[name])
            optimiser = torch.optim.Adam(model.parameters(), lr=LR, fused=fused)
            for _ in range(epochs):
                for x, y in zip(client.x.split(BATCH), labels(client).split(BATCH), strict=True):
                    optimiser.zero_grad()
                    F.cross_entropy(model(x), y).backward()
                    optimiser.step()
            moved = {name: central[name] - p.detach() for name, p in model.named_parameters()}
            total = {name: total[name] + leaf * len(client) if total else leaf for name, leaf in moved.items()}
        return total

    return run


def fedem(make: Callable[[], nn.Module], clients: list[Client], epochs: int) -> Round:
    """In the form of FedEM's code: K learners, responsibilities of all rows, every batch through every learner."""
    start = [make() for _ in range(K)]

    def run() -> object:
        total = [[torch.zeros_like(p) for p in learner.parameters()] for learner in start]
        for client in clients:
            learners = [copy.deepcopy(learner) for learner in start]
            optimisers = [torch.optim.Adam(learner.parameters(), lr=LR) for learner in learners]
            with torch.no_grad():
                logs = [F.cross_entropy(learner(client.x), labels(client), reduction="none") for learner in learners]
            share = torch.softmax(-torch.stack(logs), 0)
            for _ in range(epochs):
                for rows in torch.randperm(len(client)).split(BATCH):
                    for k, (learner, optimiser) in enumerate(zip(learners, optimisers, strict=True)):
                        optimiser.zero_grad()
                        loss = F.cross_entropy(learner(client.x[rows]), labels(client)[rows], reduction="none")
                        (loss @ share[k, rows] / len(rows)).backward()
                        optimiser.step()
            with torch.no_grad():
                for places, learner in zip(total, learners, strict=True):
                    for place, p in zip(places, learner.parameters(), strict=True):
                        place.add_(p, alpha=len(client))
        return total

    return run


def labels(client: Client) -> Tensor:
    """A client's, which it has."""
    assert client.y is not None
    return client.y


def in_turn(rounds: dict[str, Round], repeats: int) -> dict[str, list[float]]:
    """CPU seconds of each, round by round in turn, after one round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in rounds}
    for run in rounds.values():
        run()
    for _ in range(repeats):
        for name, run in rounds.items():
            begin = time.process_time()
            run()
            seconds[name].append(time.process_time() - begin)
    return seconds


def table(title: str, seconds: dict[str, list[float]], rows: dict[str, float] | None = None) -> str:
    """Medians, and ratios to the first line with their range over neighbours; per trained row where these are given."""
    first = next(iter(seconds))
    lines = [f"| {title} | CPU seconds | ratio | range |", "|---|---|---|---|"]
    for name, taken in seconds.items():
        scale = rows[first] / rows[name] if rows else 1.0
        ratios = sorted(scale * mine / base for mine, base in zip(taken, seconds[first], strict=True))
        spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        lines.append(f"| {name} | {median(taken):.3f} | {median(ratios):.2f} | {spread} |")
    return "\n".join(lines)


def trained_rows(task: Task, clients: list[Client]) -> float:
    """How many rows our FedEM draws in a round, by its plan."""
    method = METHODS["fedem"].build(task)
    transport = InProcess(clients, method.program)
    rows = transport._rows(tuple(range(len(clients))))
    share = torch.softmax(-row_losses(task, method.program.init()["expert"], rows), 1)
    return float(plan(task, rows, share).steps.sum() * BATCH)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="mlp")
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    clients, make, epochs = make_clients(options.clients, options.rows), MODELS[options.model], options.epochs
    average = METHODS["fedavg"].build(task_for(options.model, epochs, "fedavg"))
    rounds: dict[str, Round] = {"fedgmi's FedAvg": ours(average, clients)}
    for name, loop in {"bare": bare, "PFLlib": pfllib, "pfl": pfl}.items():
        for fused in (True, False):
            rounds[f"{name}, {'fused' if fused else 'default'} Adam"] = loop(make, clients, epochs, fused)
    size = f"{options.clients} × {options.rows} rows, {epochs} epochs, {options.model}, {options.threads} threads"
    print(table(size, in_turn(rounds, options.repeats)), flush=True)
    task = task_for(options.model, epochs, "fedem")
    pair: dict[str, Round] = {"fedgmi's FedEM": ours(METHODS["fedem"].build(task), clients)}
    pair["FedEM's form"] = fedem(make, clients, epochs)
    seconds = in_turn(pair, options.repeats)
    print("\n" + table(f"{size}, K = {K}", seconds))
    whole = K * epochs * options.clients * options.rows
    rows = {"fedgmi's FedEM": trained_rows(task, clients), "FedEM's form": float(whole)}
    print("\n" + table("the same per trained row", seconds, rows))


if __name__ == "__main__":
    sys.exit(main())
