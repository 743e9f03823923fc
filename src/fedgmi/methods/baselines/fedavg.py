"""FedAvg: one model for all (McMahan et al. 2017, arXiv 1602.05629).

    w ← Σ_i n_i w_i / Σ_i n_i        over the participants alone, w_i trained from w on client i's rows

An absent client does not enter the mean. Per round and client: one model down, one up.
"""

from __future__ import annotations

from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.methods.contract import Method, Task
from fedgmi.methods.local_training import average_step, need_labels, random_starts
from fedgmi.tree import Tree


def fedavg(task: Task) -> Method:
    """The method for a task; the model is the task's expert."""
    need_labels(task, "fedavg")

    def predict(server: Tree, states: Tree, rows: Rows) -> Tensor:
        return task.expert.log_prob(server["expert"], rows.x)[:, 0]

    return Method(
        name="fedavg",
        init=lambda: {"expert": random_starts(task, 1)},
        client_init=lambda ids: {},
        round=(average_step(task),),
        predict=predict,
        welcome=lambda server, rows: {},
        experts="expert",
    )
