"""Who is in which cluster: the server's register, clients that are not in it, and what each predicts with."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from fedgmi import tree
from fedgmi.data.rows import Rows
from fedgmi.methods.contract import Method, Predictor, Task, client_ids, wrong_index
from fedgmi.methods.local_training import own_log_prob, random_starts, row_losses, train_own
from fedgmi.methods.shared_trunk import TrunkSettings, need_trunk
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import ClientStep, Program, ServerStep, Step
from fedgmi.tree import Tree

UNKNOWN = -1  # the cluster of a client that is in none


def common_layers(task: Task[TrunkSettings], name: str) -> int:
    """How many parameters, from the first on, all clusters have in common.

    Args:
        task: Its settings say whether they share the lower layers.
        name: The method's.

    Returns:
        T where they do, else 0.

    Raises:
        ConfigError: They are to share them, and the expert has none.
    """
    if not task.settings.shared_trunk:
        return 0
    return need_trunk(task, f"{name} is to share all layers but the last", "method.shared_trunk")


def clustered_method(task: Task, name: str, train: Step, more: Tree) -> Method:
    """A method whose server holds cluster models "expert" [G, P] and a register "cluster" [N] by client id.

    It begins with one random model and an empty register. In the end every client learns its cluster, with whose model
    it predicts. One that the register does not know takes the model of least loss on its rows. A client that was not
    there does so too. Without labels it gets the cluster of most clients.

    Args:
        task: Its expert is the form of the models.
        name: The method's.
        train: The one step of a round.
        more: Leaves of the server's first state beside these two.

    Returns:
        The method.
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
            grows=frozenset({"expert", "cluster"}),
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
    """What each client sends.

    Args:
        task: Its training settings, and its learning rate.
        rows: Of C clients.
        start: The model from which each client trains. [C, P]
        cluster: The cluster of each client. [C]
        round: Of which the draws are.

    Returns:
        Its `client` id [C], its `cluster` [C], its number of `rows` [C], and its `update` Δ_i = w_i − start_i [C, P].
    """
    update = train_own(task, rows, start, (task.seed, round, "expert")) - start
    return {"client": client_ids(rows), "cluster": cluster, "rows": rows.counts, "update": update}


def wrong_with(lowest: int, server: Tree, message: Message, client: int, rows: int) -> str | None:
    """What is wrong with a client's `update_reply`: whose it says it is, for how many rows, and of which cluster.

    Args:
        lowest: The lowest number of a cluster that a client may send.
        server: With the leaves `expert` [G, P] and `cluster` [N].
        message: The client's.
        client: Its index in the federation.
        rows: How many rows it has.

    Returns:
        The reason in words; None where nothing is wrong.
    """
    said = int(message.replies["rows"])
    if said != rows:
        return f"its update counts for {said} rows, and the site has {rows}"
    cluster, known = int(message.replies["cluster"]), int(look_up(server["cluster"], torch.tensor([client])))
    if cluster != known and known != UNKNOWN:
        return f"it says that it is in cluster {cluster}, and is in {known}"
    if not lowest <= cluster < len(server["expert"]):
        return f"it says that it is in cluster {cluster}, and there are {len(server['expert'])}"
    return wrong_index(server, message, client, rows)


def update_step(
    client: ClientStep, server: ServerStep, reads: tuple[str, ...], writes: tuple[str, ...], lowest: int = 0
) -> Step:
    """The one step of a round, in which every client sends an `update_reply`.

    Args:
        client: Its client part.
        server: Its server part.
        reads: What the client part reads.
        writes: What the server part writes.
        lowest: The lowest number of a cluster that a client may send; UNKNOWN where it may be in none.

    Returns:
        The step.
    """
    return Step(
        "train",
        client,
        server,
        reads=reads,
        writes=writes,
        kind="expert",
        updates=lambda server: {"update": torch.zeros_like(server["expert"][:1])},
        apart=True,
        single=True,
        check=partial(wrong_with, lowest),
        tells="its number, its cluster, how many rows it has, and the update of its model",
    )


def in_order(replies: Tree) -> Tree:
    """Sort replies by client id, so that clusters get the same numbers in whatever order clients answer.

    Args:
        replies: As `update_reply` makes them. [C, …]

    Returns:
        The same leaves in another order. [C, …]
    """
    return tree.take(replies, replies["client"].argsort())


def find(task: Task, server: Tree, rows: Rows) -> Tensor:
    """Each client's cluster. Those whom the register does not know take the model of least loss.

    Args:
        task: Its expert is the form of the models.
        server: With the leaves `expert` [G, P] and `cluster` [N].
        rows: Of C clients, with labels.

    Returns:
        Numbers of clusters. [C]
    """
    known = look_up(server["cluster"], client_ids(rows))
    lost = known == UNKNOWN
    return torch.where(lost, least_loss(task, server, rows), known) if bool(lost.any()) else known


def least_loss(task: Task, server: Tree, rows: Rows) -> Tensor:
    """Which model has the least cross-entropy on each client's rows; the first of several equal ones.

    Args:
        task: Its expert is the form of the models.
        server: With the leaf `expert`. [G, P]
        rows: Of C clients, with labels.

    Returns:
        Numbers of models. [C]
    """
    return rows.sum_by_client(row_losses(task, server["expert"], rows)).argmin(1)


def look_up(register: Tensor, ids: Tensor) -> Tensor:
    """The clusters of some clients.

    Args:
        register: Cluster by client id. [N]
        ids: The clients'. [C]

    Returns:
        Their clusters; UNKNOWN for those that the register does not reach. [C]

    Examples:
        >>> look_up(torch.tensor([1, 0]), torch.tensor([0, 5])).tolist()
        [1, -1]
    """
    return _reaching(register, ids)[ids]


def enter(register: Tensor, ids: Tensor, cluster: Tensor) -> Tensor:
    """Enter the clusters of some clients. The register grows to the largest id.

    Args:
        register: Cluster by client id. [N]
        ids: The clients'. [C]
        cluster: Theirs. [C]

    Returns:
        The new register. [N or more]

    Examples:
        >>> enter(torch.tensor([1, 0]), torch.tensor([3, 0]), torch.tensor([2, 2])).tolist()
        [2, 0, -1, 2]
    """
    return _reaching(register, ids).index_copy(0, ids, cluster)


def _reaching(register: Tensor, ids: Tensor) -> Tensor:
    return F.pad(register, (0, max(0, int(ids.max()) + 1 - len(register))), value=UNKNOWN)
