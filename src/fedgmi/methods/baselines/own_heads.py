"""One trunk for all and a head for every client: what FedPer and FedRep have in common.

The server's leaf `expert` [1, T] holds the shared lower layers, a client's state `expert` [C, P − T] its own last
layer. Heads never travel. All heads begin at one random start.

A client that was never there has no head, and nothing that is not trained can stand for one: there is no
`infer_client`. With labels it trains one from the same start, for 64 passes in which the trunk stands still
(`welcome`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.methods.baselines.averaging import experts_step
from fedgmi.methods.contract import Method, Predictor, Task
from fedgmi.methods.local_training import (
    by_rows,
    expert_objective,
    need_labels,
    own_log_prob,
    random_starts,
    train_own,
    trained_part,
)
from fedgmi.methods.own_models import PASSES_AFRESH, welcomed
from fedgmi.methods.shared_trunk import need_trunk
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import Program
from fedgmi.tree import Tree

Train = Callable[[Tensor, Rows, int], Tensor]
"""(clients' whole models [C, P], their rows, round) → the trained models [C, P]."""


def own_heads(task: Task, name: str, train: Train) -> Method:
    """A method whose clients train whole models, send the trunks, and keep the heads.

    Args:
        task: Its expert is the form of the models. Its first T parameters are shared.
        name: The method's.
        train: What a client does in a round.

    Returns:
        The method. Trunks are averaged by rows.

    Raises:
        ConfigError: For rows without labels, and for an expert without a trunk.
    """
    need_labels(task, name)
    trunk = need_trunk(task, f"{name} shares all layers but the last")

    def whole(server: Tree, states: Tree) -> Tensor:
        heads = states["expert"]
        return torch.cat([server["expert"].expand(len(heads), -1), heads], 1)

    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        trained = train(whole(server, states), rows, round)
        return {"expert": trained[:, trunk:]}, Message({"expert": by_rows(rows, trained[:, :trunk])})

    def client_init(ids: tuple[int, ...]) -> Tree:
        return {"expert": random_starts(task, 1)[:, trunk:].repeat(len(ids), 1)}

    def head_alone(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        top = trained_part(expert_objective(task), slice(trunk, None))
        models = train_own(task, rows, whole(server, states), (task.seed, round, "head"), objective=top)
        return {"expert": models[:, trunk:]}, Message()

    def start(server: Tree, rows: Rows) -> Tree:
        return {"expert": client_init(rows.ids)["expert"].to(server["expert"])}

    def predict(server: Tree, states: Tree, rows: Rows) -> Tensor:
        return own_log_prob(task, whole(server, states), rows)

    return Method(
        name=name,
        program=Program(
            init=lambda: {"expert": random_starts(task, 1)[:, :trunk]},
            client_init=client_init,
            round=(experts_step(client, "updates of the shared layers, weighted by its rows"),),
            kinds={"expert": "expert"},
        ),
        predictor=Predictor(
            predict=predict,
            reads=("expert",),
            welcome=welcomed(head_alone, task.training.epochs, PASSES_AFRESH, start),
        ),
    )
