"""What the literal versions of baselines need: ragged clients, rounds with some away, one client's passes by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from federations import gaussian_scenario, transport_for
from fedgmi.data.rows import Client, pack
from fedgmi.data.scenarios.truth import Scenario
from fedgmi.methods import Method, Task
from fedgmi.methods.local_training import expert_objective, plan
from fedgmi.models import training
from fedgmi.protocol.in_process import InProcess
from fedgmi.randomness import generator
from fedgmi.tree import Tree

SIZES = (1, 7, 20, 24, 24)
EVERYONE = tuple(range(len(SIZES)))
SOME_AWAY = (EVERYONE, (0, 2, 4))
"""Who takes part in the first round and in the second."""


def ragged_scenario(seed: int = 0) -> Scenario:
    """Five clients of 1 to 24 rows."""
    scenario = gaussian_scenario(len(SIZES), max(SIZES), seed)
    clients = zip(scenario.federation.clients, SIZES, strict=True)
    cut = tuple(replace(client, x=client.x[:n], y=None if client.y is None else client.y[:n]) for client, n in clients)
    return Scenario(replace(scenario.federation, clients=cut))


def run_rounds(method: Method, scenario: Scenario, who: Sequence[Sequence[int]]) -> tuple[Tree, Tree]:
    """All phases, with these participants → server and client states."""
    transport, server = transport_for(method, scenario), method.program.init()
    everyone = range(len(scenario.federation.clients))
    program = method.program
    phases = [(program.prepare, everyone), *((program.round, ids) for ids in who), (program.finish, everyone)]
    for number, (steps, ids) in enumerate(phases):
        server = exchange(transport, server, steps, ids, number)
    return server, transport.states


def exchange(transport: InProcess, server: Tree, steps: Sequence, ids: Sequence[int], number: int) -> Tree:
    """Some steps with some clients → server state."""
    with torch.no_grad():
        for step in steps:
            if step.when is None or step.when(server):
                server = step.server(server, transport.exchange(step, server, ids, number), number)
    return server


def train_alone(
    task: Task,
    clients: Sequence[Client],
    i: int,
    start: Tensor,
    key: tuple[int | str, ...],
    *,
    component: int = 0,
    share: Tensor | float = 1.0,
    count: Tensor | None = None,
    pull: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Client i's local passes from start [P] on its rows, each to a share [n] that is all of it by default.

    count: how much each row's loss counts [n]. pull: of the model [P], added to the mean loss.
    """
    rows = pack(clients, [i])
    weights = torch.zeros(len(rows), component + 1, dtype=torch.float64)
    weights[:, component] = share
    loss = expert_objective(task).loss

    def pulled(params: Tensor, batch: training.Batch) -> Tensor:
        extra = 0.0 if pull is None else torch.stack([pull(model) for model in params])[:, None]
        counted = 1.0 if count is None else count[batch.row].float()
        return counted * loss(params, batch) + extra

    trained = training.fit(
        training.Objective(pulled),
        start[None],
        plan(task, rows, weights),
        rows,
        settings=task.training,
        lr=task.lr,
        key=key,
    )
    return trained[0]


def losses(task: Task, model: Tensor, client: Client) -> Tensor:
    """Cross-entropy of each of a client's rows [n], in nats."""
    logits = task.expert.logits(model[None], client.x[None])[0]
    return torch.nn.functional.cross_entropy(logits, client.y, reduction="none")


def start_of(task: Task, k: int) -> Tensor:
    """The k-th random start [P]."""
    return task.expert.init(generator(task.seed, "expert", k))


def weighted_mean(models: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Σ_i weight_i · model_i / Σ_i weight_i."""
    return sum(w * model for w, model in zip(weights, models, strict=True)) / sum(weights)
