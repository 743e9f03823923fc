"""SCAFFOLD: FedAvg whose clients correct their drift by control variates (Karimireddy et al. 2020, arXiv 1910.06378).

    w_i ← steps from w on client i's rows, each along g_i(w_i) − c_i + c
    c_i⁺ = ∇F_i(w), F_i the mean cross-entropy of client i's rows          (the paper's option I)
    w ← Σ_i n_i w_i / Σ_i n_i                     over the participants
    c ← c + Σ_i n_i (c_i⁺ − c_i) / n              over the participants; n: the rows of all clients

c_i stays with the client, and is 0 at first, as c is. Before the first round every client tells how many rows it has.
Per round and client: two models' worth down, two up.

Deviations from the paper:
- Adam, fresh in every round, takes the corrected gradient, in place of SGD. Option II, (w − w_i)/(K η) − c + c_i, is a
  mean of gradients for SGD alone, so this is option I, at the price of one more pass over the rows.
- Clients weigh by their rows, in w and in c, as in FedAvg. The paper's means are plain.
- The server's step η_g is 1, as in the paper's experiments.

A newcomer gets the global model.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.methods.baselines.averaging import OneModelSettings, one_model
from fedgmi.methods.contract import Entry, Method, Task
from fedgmi.methods.local_training import by_rows, expert_objective, own_gradient, train_own
from fedgmi.methods.plausible import wrong_rows
from fedgmi.models import training
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import Step
from fedgmi.tree import Tree


class ScaffoldSettings(OneModelSettings):
    """SCAFFOLD has no more."""

    name: Literal["scaffold"] = "scaffold"


def scaffold(task: Task[ScaffoldSettings]) -> Method:
    """Build the method for a task.

    Args:
        task: Its expert is the model.

    Returns:
        The method.

    Raises:
        ConfigError: For rows without labels.
    """
    method = one_model(task, "scaffold")

    def zeros(n: int) -> Tensor:
        return torch.zeros(n, task.expert.size)

    def count(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        return states, Message(sums={"rows": rows.counts.sum().double()})

    def counted(server: Tree, message: Message, round: int) -> Tree:
        return server | {"rows": message.sums["rows"]}

    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        start, old = server["expert"].repeat(rows.n_clients, 1), states["control"]
        objective = corrected(task, server["control"] - old, rows)
        trained = train_own(task, rows, start, (task.seed, round, "expert"), objective=objective)
        control = own_gradient(task, start, rows)
        return {"control": control}, Message(
            {"expert": by_rows(rows, trained), "control": by_rows(rows, control - old)}
        )

    def take(server: Tree, message: Message, round: int) -> Tree:
        changed = message.models["control"].total / server["rows"].to(torch.float32)
        expert = message.models["expert"].mean(server["expert"])
        return server | {"expert": expert, "control": server["control"] + changed}

    train = Step(
        "train",
        client,
        take,
        reads=("expert", "control"),
        writes=("expert", "control"),
        models=lambda server: {"expert": server["expert"], "control": torch.zeros_like(server["control"])},
        apart=True,
        tells="updates of the model, and of the gradient of its rows, weighted by its rows",
    )
    program = replace(
        method.program,
        init=lambda: method.program.init() | {"control": zeros(1)},
        client_init=lambda ids: {"control": zeros(len(ids))},
        prepare=(Step("count", count, counted, writes=("rows",), check=wrong_rows, tells="how many rows it has"),),
        round=(train,),
        kinds={"expert": "expert", "control": "expert"},
        joins_late=False,
    )
    return replace(method, program=program)


def corrected(task: Task, correction: Tensor, rows: Rows) -> training.Objective:
    """The cross-entropy of the task's expert, with a constant added to each client's gradient.

    Args:
        task: Whose expert it is.
        correction: c − c_i. [C, P]
        rows: Of these clients.

    Returns:
        The objective of jobs on these rows.
    """
    one = expert_objective(task)

    def gradient(params: Tensor, batch: training.Batch, out: Tensor) -> None:
        one.write_gradient(params, batch, out)
        out.add_(correction[rows.client_index[batch.row[:, 0]]])

    return training.Objective(one.loss, gradient)


SCAFFOLD = Entry(scaffold, ScaffoldSettings, "FedAvg whose clients correct their drift", has_components=False)
