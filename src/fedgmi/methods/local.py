"""Local: every client alone, on its own rows. The bound that shows what federation buys; nothing travels."""

from __future__ import annotations

import torch
from torch import Tensor

from fedgmi import training
from fedgmi.data.federation import Rows
from fedgmi.methods.base import Message, Method, Step, Task
from fedgmi.methods.local_training import all_rows, expert_loss, need_labels, plan
from fedgmi.randomness import generator
from fedgmi.tree import Tree


def local(task: Task) -> Method:
    """The method for a task; the model is the task's expert, one per client in its own state."""
    need_labels(task, "local")

    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        jobs = plan(task, rows, all_rows(rows))
        place = jobs.client.to(rows.x.device)
        trained = training.fit(
            expert_loss(task),
            states["expert"][place],
            jobs,
            rows,
            settings=task.training,
            lr=task.lr,
            key=(task.seed, round, "expert"),
        )
        return {"expert": states["expert"].index_copy(0, place, trained)}, Message()

    def predict(server: Tree, states: Tree, rows: Rows) -> Tensor:
        parts = [
            task.expert.log_prob(states["expert"][i][None], rows.x[rows.owner == i])[:, 0]
            for i in range(rows.n_clients)
        ]
        return torch.cat(parts)

    def client_init(ids: tuple[int, ...]) -> Tree:
        start = task.expert.init(generator(task.seed, "expert", 0))
        return {"expert": start.expand(len(ids), -1).clone()}

    return Method(
        name="local",
        init=dict,
        client_init=client_init,
        round=(Step("train", client, lambda server, sums, round: server),),
        predict=predict,
    )
