"""FLUX: clusters of clients by what their rows look like to a joint model (Fenoglio et al. 2025, arXiv 2511.22305).

    rounds 1..n      w ← Σ_i n_i w_i / Σ_i n_i, w_i trained from w on client i's rows
    round n + 1      each client sends its descriptor under w: moments of its rows' features, of all and by label
                     clusters: DBSCAN on descriptors, each moment scaled to [0, 1]; ε from their distances
    from then on     w_c ← Σ_{i∈c} n_i w_i / Σ_{i∈c} n_i, w_i trained from w_c; in round n + 1 from w_c = w

The number of clusters is found, not set: K is not used. A client predicts with its cluster's model. A client that is
like nobody is a cluster by itself. A newcomer without labels takes the cluster whose mean descriptor of x alone is
nearest. Descriptors go up one by one, so secure aggregation is not possible. Per round and client: one model down and
one up, then all clusters' models down, and one and a descriptor up. `method.shared_trunk` gives the clusters all layers
but the last in common: their mean is over all clients.

Deviations from the paper, and from its code, which this was built from:
- n is set (`method.joint_rounds`). The code stops FedAvg when accuracy gains little, which clients tell in every round.
- Features are what the last layer is given. The code takes those of LeNet's convolutions.
- A seeded rotation projects them to as many numbers as there are classes. The code's is of a PCA of random points.
- A client that was away in round n + 1, and a newcomer with labels, take the cluster whose whole mean descriptor is
  nearest. The paper's test clients have no labels, and all its clients take part. So descriptors are sent in every
  later round, too.
- Adam, fresh in every round.

It is made for clients with one distribution each and many rows of each label. Where clients are mixtures, or have few
rows, moments by label are noise, and many a client is a cluster by itself: docs/decisions.md has figures.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from fedgmi.data.rows import Rows
from fedgmi.errors import ConfigError
from fedgmi.methods.baselines.averaging import experts_step
from fedgmi.methods.baselines.clusters import (
    UNKNOWN,
    enter,
    in_order,
    look_up,
)
from fedgmi.methods.baselines.descriptors import alike, describe, scale_of
from fedgmi.methods.baselines.joint_rounds import JointSettings, check_joint_rounds, settle_joint_rounds
from fedgmi.methods.contract import Entry, Method, Predictor, Task, client_ids, wrong_index
from fedgmi.methods.local_training import (
    all_rows,
    expert_objective,
    need_labels,
    own_log_prob,
    train_components,
    train_own,
)
from fedgmi.methods.shared_trunk import parts_of_own, parts_step, starts
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import Program, Step
from fedgmi.settings.base import PositiveFloat
from fedgmi.tree import Tree

SCALE = ("centres", "low", "span")
"""The leaves by which the nearest cluster is found."""
LEFT = "joint_rounds_left"
JOINT_ROUNDS = 5
UPDATE = "an update of the model of its cluster, weighted by its rows"


class FluxSettings(JointSettings):
    """FLUX's own settings; n is 5 in a long run.

    Attributes:
        reach: How many times ε of the distances is the ε that joins clients.
    """

    name: Literal["flux"] = "flux"
    reach: PositiveFloat = 1.0


def flux(task: Task[FluxSettings]) -> Method:
    """Build the method for a task.

    Args:
        task: Its expert is the form of the joint model and of a cluster's model.

    Returns:
        The method.

    Raises:
        ConfigError: For rows without labels, and for an expert without a last layer apart.
    """
    need_labels(task, "flux")
    if task.expert.features is None:
        raise ConfigError(
            f"flux needs what the last layer is given, and the expert {task.expert.name} has no last layer apart",
            where="method.name",
            fix="of modules of your own an nn.Sequential has one",
        )
    objective, joint_rounds = expert_objective(task), task.settings.joint_rounds or JOINT_ROUNDS
    shared = task.settings.shared_trunk
    first = starts(task, 1, shared, "flux")

    def nearest(server: Tree, found: Tensor) -> Tensor:
        """The cluster whose centre is nearest to each descriptor [C, W], or to the first columns of one. [C]"""
        width = found.shape[1]
        scaled = (found - server["low"][:width]) / server["span"][:width]
        return torch.cdist(scaled, server["centres"][:, :width]).argmin(1)

    def train_joint(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        key = (task.seed, round, "expert")
        return states, Message({"joint": train_components(task, rows, all_rows(rows), server["joint"], objective, key)})

    def average_joint(server: Tree, message: Message, round: int) -> Tree:
        joint = message.models["joint"].mean(server["joint"])
        return server | {"joint": joint, "expert": joint, LEFT: server[LEFT] - 1}

    def tell(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        found = describe(task, server["joint"], rows)
        return states, Message(replies={"client": client_ids(rows), "descriptor": found})

    def assign(server: Tree, message: Message, round: int) -> Tree:
        replies = in_order(message.replies)
        ids, found = replies["client"], replies["descriptor"]
        if not clustered(server):
            return server | clusters_of(ids, found, server)
        known = look_up(server["cluster"], ids)
        joined = torch.where(known == UNKNOWN, nearest(server, found), known)
        return server | {"cluster": enter(server["cluster"], ids, joined)}

    def clusters_of(ids: Tensor, found: Tensor, server: Tree) -> Tree:
        low, span = scale_of(found, task.schema.n_classes)
        scaled = (found - low) / span
        label = alike(scaled, task.settings.reach)
        member = F.one_hot(label).to(scaled.dtype).T  # [G, C]
        return {
            "expert": server["joint"].repeat(len(member), 1),
            "centres": member @ scaled / member.sum(1, keepdim=True),
            "low": low,
            "span": span,
            "cluster": enter(server["cluster"], ids, label),
        }

    def train(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        mine = look_up(server["cluster"], client_ids(rows))  # of all who take part: `assign` came before
        weights = F.one_hot(mine, len(server["expert"])).double()[rows.client_index]
        key = (task.seed, round, "expert")
        return states, Message({"expert": train_components(task, rows, weights, server["expert"], objective, key)})

    def train_parts(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        mine = look_up(server["cluster"], client_ids(rows))
        trained = train_own(task, rows, server["expert"][mine], (task.seed, round, "expert"))
        mass = F.one_hot(mine, len(server["expert"])) * rows.counts[:, None].double()
        return states, Message(parts_of_own(task, rows, trained, mass))

    def settle(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        known = look_up(server["cluster"], client_ids(rows))
        lost = known == UNKNOWN
        if bool(lost.any()):
            known = torch.where(lost, nearest(server, describe(task, server["joint"], rows)), known)
        return {"cluster": known}, Message()

    def joint_is_done(server: Tree) -> bool:
        return int(server[LEFT]) == 0

    def clustered(server: Tree) -> bool:
        return "centres" in server

    joint = Step(
        "train the joint model",
        train_joint,
        average_joint,
        reads=("joint",),
        writes=("joint", "expert", LEFT),
        models=lambda server: {"joint": server["joint"]},
        apart=True,
        when=lambda server: not joint_is_done(server),
        tells="an update of the model of all, weighted by its rows",
    )
    described = Step(
        "describe",
        tell,
        assign,
        reads=("joint",),
        writes=("expert", "cluster", *SCALE),
        kind="sketch",
        single=True,
        check=wrong_index,
        when=joint_is_done,
        tells="its number, and means and deviations of what its rows are to the joint model, of all and by label",
    )
    trained = replace(
        parts_step(task, train_parts, UPDATE) if shared else experts_step(train, UPDATE),
        reads=("expert", "cluster"),
        when=joint_is_done,
    )
    return Method(
        name="flux",
        program=Program(
            init=lambda: {
                "joint": first,
                "expert": first,
                "cluster": torch.zeros(0, dtype=torch.long),
                LEFT: torch.tensor(joint_rounds),
            },
            client_init=lambda ids: {"cluster": torch.zeros(len(ids), dtype=torch.long)},
            # a round's own steps stand before the joint one, so that they wait for the round after the last of these
            round=(described, trained, joint),
            finish=(Step("settle", settle, reads=("cluster", "joint", *SCALE), when=clustered),),
            grows=frozenset({"expert", "cluster"}),
            kinds={
                "expert": "expert",
                "joint": "expert",
                "trunk": "expert",
                "head": "expert",
                "centres": "sketch",
                "low": "sketch",
                "span": "sketch",
            },
            warm_up=joint_rounds,
        ),
        predictor=Predictor(
            predict=lambda server, states, rows: own_log_prob(task, server["expert"][states["cluster"]], rows),
            reads=("expert", "joint", *SCALE),
            infer_client=lambda server, rows: {"cluster": nearest(server, describe(task, server["joint"], rows))},
            expert=lambda server, x: task.expert.log_prob(server["expert"], x),
        ),
    )


FLUX = Entry(
    flux,
    FluxSettings,
    "clusters of clients by what their rows look like to a joint model",
    has_components=False,
    check=check_joint_rounds,
    settle=settle_joint_rounds(JOINT_ROUNDS),
    tasks=("classification",),
    tune={"joint_rounds": (1, 5, 10)},
)
