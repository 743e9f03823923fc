"""Ditto: a personal model for every client, held near a global one (Li et al. 2021, arXiv 2012.04221).

    w   ← FedAvg's round
    v_i ← some passes on F_i(v) + μ/2·‖v − w_t‖², from where v_i stood        (the paper writes λ for μ)

w_t is the global model as the round received it, F_i the mean cross-entropy of client i's rows. v_i stays with the
client, is never averaged, and is what predicts. Per round and client: one model down, one up.

A client that was never drawn predicts with v_i's random start. One that was never there gets the global model, near
which its own would be held: `infer_client` trains nothing. With labels its own begins there, held near it, for 16
passes (`welcome`).

Deviations from the paper:
- One μ for all. The paper's clients choose among 0.1, 1 and 2 by their validation rows, or take 1, our default, where
  those are too few.
- Adam, fresh in every round. As many passes for v_i as for w.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.methods.baselines.averaging import average_step
from fedgmi.methods.contract import Entry, Method, Predictor, Task
from fedgmi.methods.local_training import need_labels, own_log_prob, random_starts, train_own
from fedgmi.methods.own_models import welcomed
from fedgmi.models.training import Pull
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import Program, Step
from fedgmi.settings.base import MethodSettings, PositiveFloat
from fedgmi.tree import Tree


class DittoSettings(MethodSettings):
    """Ditto's own settings.

    Attributes:
        mu: How strongly the personal model is held to the global one. 0 would be local training, and is refused.
    """

    name: Literal["ditto"] = "ditto"
    mu: PositiveFloat = 1.0


def ditto(task: Task[DittoSettings]) -> Method:
    """Build the method for a task.

    Args:
        task: Its expert is the form of the personal models and of the global one.

    Returns:
        The method.

    Raises:
        ConfigError: For rows without labels.
    """
    need_labels(task, "ditto")

    def personalise(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        """Before the global model moves."""
        near = Pull(task.settings.mu, server["expert"], torch.zeros_like(rows.counts))
        key = (task.seed, round, "personal")
        return {"personal": train_own(task, rows, states["personal"], key, near)}, Message()

    def predict(server: Tree, states: Tree, rows: Rows) -> Tensor:
        return own_log_prob(task, states["personal"], rows)

    return Method(
        name="ditto",
        program=Program(
            init=lambda: {"expert": random_starts(task, 1)},
            client_init=lambda ids: {"personal": copies(random_starts(task, 1), len(ids))},
            round=(Step("personalise", personalise, reads=("expert",)), average_step(task)),
            kinds={"expert": "expert"},
        ),
        predictor=Predictor(
            predict=predict,
            reads=("expert",),
            infer_client=lambda server, rows: {"personal": copies(server["expert"], rows.n_clients)},
            welcome=welcomed(personalise, task.training.epochs),
            expert=lambda server, x: task.expert.log_prob(server["expert"], x),
        ),
    )


def copies(model: Tensor, n_clients: int) -> Tensor:
    """One model for each client.

    Args:
        model: [1, P]
        n_clients: C.

    Returns:
        [C, P]
    """
    return model.repeat(n_clients, 1)


DITTO = Entry(
    ditto,
    DittoSettings,
    "a personal model for every client, held near a global one",
    has_components=False,
    tune={"mu": (0.01, 0.1, 1.0)},
)
