"""Who is in which cluster: the server's register, clients that are not in it, and what each predicts with."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fedgmi import tree
from fedgmi.data.rows import Rows
from fedgmi.methods.contract import Method, Predictor, Task
from fedgmi.methods.local_training import own_log_prob, random_starts, row_losses, train_own
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import Program, Step
from fedgmi.tree import Tree

UNKNOWN = -1  # the cluster of a client that is in none


def clustered_method(task: Task, name: str, train: Step, more: Tree) -> Method:
    """A method whose server holds cluster models "expert" [G, P] and a register "cluster" [N] by client id.

    It begins with one random model, an empty register, and the leaves `more`. In the end every client learns its
    cluster, with whose model it predicts; one that the register does not know takes the model of least loss on its
    rows. So does a client that was not there; without labels it gets the cluster of most clients.
    """

    def settle(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        return {"cluster": find(task, server, rows)}, Message()

    def infer_client(server: Tree, rows: Rows) -> Tree:
        if rows.y is not None:
            return {"cluster": least_loss(task, server, rows)}
        known = server["cluster"][server["cluster"] != UNKNOWN]
        return {"cluster": known.bincount(minlength=1).argmax().repeat(rows.n_clients)}

    return Method(
        name=name,
        program=Program(
            init=lambda: {"expert": random_starts(task, 1), "cluster": torch.zeros(0, dtype=torch.long)} | more,
            client_init=lambda ids: {"cluster": torch.zeros(len(ids), dtype=torch.long)},
            round=(train,),
            finish=(Step("settle", settle, reads=("cluster", "expert")),),
            kinds={"expert": "expert", "joint": "expert"},
        ),
        predictor=Predictor(
            predict=lambda server, states, rows: own_log_prob(task, server["expert"][states["cluster"]], rows),
            reads=("cluster", "expert"),
            infer_client=infer_client,
            expert=lambda server, x: task.expert.log_prob(server["expert"], x),
        ),
    )


def update_reply(task: Task, rows: Rows, start: Tensor, cluster: Tensor, round: int) -> Tree:
    """What each client sends: its id, its cluster [C], its number of rows, and Δ_i = w_i − start_i [C, P]."""
    update = train_own(task, rows, start, (task.seed, round, "expert")) - start
    return {"client": client_ids(rows), "cluster": cluster, "rows": rows.counts, "update": update}


def in_order(replies: Tree) -> Tree:
    """Replies by client id, so that clusters get the same numbers in whatever order clients answer."""
    return tree.take(replies, replies["client"].argsort())


def find(task: Task, server: Tree, rows: Rows) -> Tensor:
    """Each client's cluster [C]; those whom the register does not know take the model of least loss."""
    known = look_up(server["cluster"], client_ids(rows))
    lost = known == UNKNOWN
    return torch.where(lost, least_loss(task, server, rows), known) if bool(lost.any()) else known


def least_loss(task: Task, server: Tree, rows: Rows) -> Tensor:
    """Which model has the least cross-entropy on each client's rows [C]; the first of several equal ones."""
    return rows.sum_by_client(row_losses(task, server["expert"], rows)).argmin(1)


def client_ids(rows: Rows) -> Tensor:
    """The clients' places in the federation [C]: never their places among those that take part."""
    return torch.tensor(rows.ids, device=rows.x.device)


def look_up(register: Tensor, ids: Tensor) -> Tensor:
    """The clusters of the clients `ids` [C] in the register [N]; UNKNOWN for those that it does not reach.

    >>> look_up(torch.tensor([1, 0]), torch.tensor([0, 5])).tolist()
    [1, -1]
    """
    return _reaching(register, ids)[ids]


def enter(register: Tensor, ids: Tensor, cluster: Tensor) -> Tensor:
    """The register with the clusters [C] of the clients `ids` [C]; it grows to the largest id.

    >>> enter(torch.tensor([1, 0]), torch.tensor([3, 0]), torch.tensor([2, 2])).tolist()
    [2, 0, -1, 2]
    """
    return _reaching(register, ids).index_copy(0, ids, cluster)


def _reaching(register: Tensor, ids: Tensor) -> Tensor:
    return F.pad(register, (0, max(0, int(ids.max()) + 1 - len(register))), value=UNKNOWN)
