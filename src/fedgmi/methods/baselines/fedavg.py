"""FedAvg: one model for all (McMahan et al. 2017, arXiv 1602.05629).

    w ← Σ_i n_i w_i / Σ_i n_i        over the participants alone, w_i trained from w on client i's rows

An absent client does not enter the mean. Per round and client: one model down, one up.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.methods.contract import Entry, Method, Predictor, Task
from fedgmi.methods.local_training import average_step, need_labels, random_starts
from fedgmi.protocol.step import Program
from fedgmi.settings.base import MethodSettings
from fedgmi.tree import Tree


class FedAvgSettings(MethodSettings):
    """FedAvg has none of its own."""

    name: Literal["fedavg"] = "fedavg"


def fedavg(task: Task[FedAvgSettings]) -> Method:
    """Build the method for a task.

    Args:
        task: Its expert is the model.

    Returns:
        The method.

    Raises:
        ConfigError: For rows without labels.
    """
    need_labels(task, "fedavg")

    def predict(server: Tree, states: Tree, rows: Rows) -> Tensor:
        return task.expert.log_prob(server["expert"], rows.x)[:, 0]

    return Method(
        name="fedavg",
        program=Program(
            init=lambda: {"expert": random_starts(task, 1)},
            client_init=lambda ids: {},
            round=(average_step(task),),
            kinds={"expert": "expert"},
        ),
        predictor=Predictor(
            predict=predict,
            reads=("expert",),
            infer_client=lambda server, rows: {},
            expert=lambda server, x: task.expert.log_prob(server["expert"], x),
        ),
    )


FEDAVG = Entry(fedavg, FedAvgSettings, "one model for all", has_components=False)
