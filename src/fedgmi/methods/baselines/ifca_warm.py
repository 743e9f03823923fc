"""IFCA's warm start: rounds of FedAvg for all, and from their model K clusters that differ a little.

    rounds 1..n      w ← Σ_i n_i w_i / Σ_i n_i, w_i trained from w on client i's rows
    then             θ_k ← w + s·‖w‖/√P · (ε_k − ε̄), ε_k ~ N(0, I) by the seed, ε̄ their mean; IFCA goes on from there

The paper's code for FEMNIST starts all clusters from a model that FedAvg trained. It draws the last layer anew for
each, and then trains each cluster for 20 rounds on random groups of clients. Here small noise on all layers tells
clusters apart: no layer is lost, and nobody trains what it did not choose.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.methods.baselines.ifca_starts import IfcaSettings
from fedgmi.methods.contract import Method, Task
from fedgmi.methods.local_training import all_rows, expert_objective, random_starts, train_components
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import Step
from fedgmi.randomness import generator
from fedgmi.tree import Tree

JOINT, LEFT = "joint", "warm_rounds_left"


def warm_started(method: Method, task: Task[IfcaSettings]) -> Method:
    """The method with rounds of FedAvg before its own.

    Args:
        method: IFCA.
        task: From which it was built; its settings say how many rounds.

    Returns:
        The method; as it was where there are none.
    """
    if not task.settings.warm_rounds:
        return method

    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        key = (task.seed, round, "expert")
        return states, Message(
            {JOINT: train_components(task, rows, all_rows(rows), server[JOINT], expert_objective(task), key)}
        )

    def average(server: Tree, message: Message, round: int) -> Tree:
        joint, left = message.models[JOINT].mean(server[JOINT]), server[LEFT] - 1
        split = {} if int(left) else {"expert": apart(task, joint)}
        return server | {JOINT: joint, LEFT: left} | split

    def first() -> Tree:
        return method.program.init() | {JOINT: random_starts(task, 1), LEFT: torch.tensor(task.settings.warm_rounds)}

    warm = Step(
        "warm up",
        client,
        average,
        reads=(JOINT,),
        writes=(JOINT, LEFT, "expert"),
        models=lambda server: {JOINT: server[JOINT]},
        apart=True,
        when=lambda server: int(server[LEFT]) > 0,
        tells="an update of the model of all, weighted by its rows",
    )
    # its own steps come first, so that they wait for the round after the last warm one
    own = tuple(replace(step, when=lambda server: int(server[LEFT]) == 0) for step in method.program.round)
    program = replace(
        method.program,
        init=first,
        round=(*own, warm),
        kinds=dict(method.program.kinds) | {JOINT: "expert"},
        warm_up=task.settings.warm_rounds,
    )
    return replace(method, program=program)


def apart(task: Task[IfcaSettings], model: Tensor) -> Tensor:
    """K models around one.

    Args:
        task: Its settings say how far; its seed draws.
        model: w. [1, P]

    Returns:
        θ_k, whose mean is w. [K, P]
    """
    noise = torch.stack(
        [torch.randn(model.shape[1], generator=generator(task.seed, "apart", k)) for k in range(task.n_components)]
    ).to(model.device)
    if task.settings.shared_trunk:
        noise[:, : task.expert.trunk] = 0.0
    return model + task.settings.warm_spread * model.square().mean().sqrt() * (noise - noise.mean(0))
