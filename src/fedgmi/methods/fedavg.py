"""FedAvg: one model for all (McMahan et al. 2017, arXiv 1602.05629).

    w ← Σ_i n_i w_i / Σ_i n_i        over the participants alone, w_i trained from w on client i's rows

An absent client does not enter the mean. Per round and client: one model down, one up.
"""

from __future__ import annotations

from torch import Tensor

from fedgmi.data.federation import Rows
from fedgmi.methods.base import Message, Method, Step, Task, mean_by_mass
from fedgmi.methods.local_training import all_rows, expert_loss, need_labels, train_components
from fedgmi.randomness import generator
from fedgmi.tree import Tree


def fedavg(task: Task) -> Method:
    """The method for a task; the model is the task's expert."""
    need_labels(task, "fedavg")

    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        key = (task.seed, round, "expert")
        trained = train_components(task, rows, all_rows(rows), server["expert"], expert_loss(task), key)
        cost = rows.n_clients * server["expert"].nbytes
        return states, Message({"total": trained.total, "mass": trained.mass}, cost, cost)

    def average(server: Tree, sums: Tree, round: int) -> Tree:
        return {"expert": mean_by_mass(server["expert"], sums["total"], sums["mass"])}

    def predict(server: Tree, states: Tree, rows: Rows) -> Tensor:
        return task.expert.log_prob(server["expert"], rows.x)[:, 0]

    return Method(
        name="fedavg",
        init=lambda: {"expert": task.expert.init(generator(task.seed, "expert", 0))[None]},
        client_init=lambda ids: {},
        round=(Step("train", client, average),),
        predict=predict,
        experts="expert",
    )
