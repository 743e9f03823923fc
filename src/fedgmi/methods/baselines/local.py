"""Local: every client alone, on its own rows. The bound that shows what federation buys; no model travels.

A client that was never there does as the others did, for 64 passes (`welcome`).
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.methods.contract import Entry, Method, Predictor, Task
from fedgmi.methods.local_training import need_labels, own_log_prob, random_starts, train_own
from fedgmi.methods.own_models import PASSES_AFRESH, welcomed
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import Program, Step
from fedgmi.settings.base import MethodSettings
from fedgmi.tree import Tree


class LocalSettings(MethodSettings):
    """Local training has none of its own."""

    name: Literal["local"] = "local"


def local(task: Task[LocalSettings]) -> Method:
    """Build the method for a task.

    Args:
        task: Its expert is the form of the models, one in each client's own state.

    Returns:
        The method.

    Raises:
        ConfigError: For rows without labels.
    """
    need_labels(task, "local")

    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        return {"expert": train_own(task, rows, states["expert"], (task.seed, round, "expert"))}, Message()

    def client_init(ids: tuple[int, ...]) -> Tree:
        return {"expert": random_starts(task, 1).repeat(len(ids), 1)}

    def start(server: Tree, rows: Rows) -> Tree:
        return {"expert": client_init(rows.ids)["expert"].to(rows.x.device)}

    def predict(server: Tree, states: Tree, rows: Rows) -> Tensor:
        return own_log_prob(task, states["expert"], rows)

    return Method(
        name="local",
        program=Program(
            init=dict,
            client_init=client_init,
            round=(Step("train", client),),
        ),
        predictor=Predictor(predict=predict, welcome=welcomed(client, task.training.epochs, PASSES_AFRESH, start)),
    )


LOCAL = Entry(local, LocalSettings, "every client alone, on its own rows", has_components=False)
