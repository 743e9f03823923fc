"""FL+HC: FedAvg, one clustering of the clients, then FedAvg per cluster (Briggs et al. 2020, arXiv 2004.11791).

    rounds 1..n      w ← w + Σ_i n_i Δ_i / Σ_i n_i,  Δ_i = w_i − w, w_i trained from w on client i's rows
    round n + 1      clusters c of the Δ_i: complete linkage on ‖Δ_i − Δ_j‖, K of them or up to a distance
    from then on     w_c ← w_c + Σ_{i∈c} n_i Δ_i / Σ_{i∈c} n_i,  Δ_i = w_i − w_c; in round n + 1 from w_c = w

A client predicts with its cluster's model. Per round and client: all clusters' models down, one update up, and a few
numbers. Updates go up one by one, so secure aggregation is not possible.

With `method.shared_trunk` the clusters' models have all layers but the last in common, and the mean of these layers'
updates is over all clients. Clusters are found by whole updates, for the model was one until then.

The paper clusters all clients at once; here those that take part in round n + 1. One that was away trains from the
joint w of round n when next it takes part, joins the cluster whose mean update of round n + 1 is nearest to its own,
and trains with it from then on. Who has not been back in the end takes the cluster model of least loss on its rows.
A new client, for which the paper has no rule, does so too. Without labels it gets the cluster of most clients.

Deviations from the paper:
- Of its distances (L1, L2, cosine) and linkages, one each: L2 and complete linkage.
- K clusters by default, as every method here is given K. The paper sets a distance.
- Round n + 1 also counts as the clusters' first.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch

from fedgmi import tree
from fedgmi.data.rows import Rows
from fedgmi.errors import ConfigError
from fedgmi.methods.baselines.clusters import (
    UNKNOWN,
    clustered_method,
    common_layers,
    enter,
    in_order,
    look_up,
    update_reply,
    update_step,
)
from fedgmi.methods.baselines.joint_rounds import JointSettings, check_joint_rounds, settle_joint_rounds
from fedgmi.methods.contract import Entry, Method, Task, client_ids
from fedgmi.methods.local_training import need_labels, random_starts
from fedgmi.protocol.message import Message
from fedgmi.settings.base import PositiveFloat
from fedgmi.tree import Tree

JOINT_ROUNDS = 10


class FlhcSettings(JointSettings):
    """FL+HC's own settings; n is 10 in a long run.

    Attributes:
        distance_threshold: Clusters merge while their farthest updates are nearer than this. None: until there are K.
    """

    name: Literal["flhc"] = "flhc"
    distance_threshold: PositiveFloat | None = None


def flhc(task: Task[FlhcSettings]) -> Method:
    """Build the method for a task.

    Args:
        task: Its expert is the form of the joint model and of a cluster's model.

    Returns:
        The method.

    Raises:
        ConfigError: For rows without labels.
    """
    need_labels(task, "flhc")
    settings, common = task.settings, common_layers(task, "flhc")
    joint_rounds = settings.joint_rounds or JOINT_ROUNDS

    def train(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        cluster = look_up(server["cluster"], client_ids(rows))
        own = server["expert"][cluster.clamp(min=0)]
        start = torch.where(cluster[:, None] == UNKNOWN, server["joint"], own)
        return states, Message(replies=update_reply(task, rows, start, cluster, round))

    def average(server: Tree, message: Message, round: int) -> Tree:
        from fedgmi.methods.baselines.clustering import mean_updates  # no site's part

        replies = in_order(message.replies)
        if round <= joint_rounds:
            one = torch.zeros_like(replies["cluster"])
            joint = server["joint"] + mean_updates(replies["update"], replies["rows"], one, 1)
            return server | {"joint": joint, "expert": joint}
        return average_in_clusters(server, replies) if "centres" in server else form_clusters(server, replies)

    def form_clusters(server: Tree, replies: Tree) -> Tree:
        from fedgmi.methods.baselines.clustering import agglomerate, euclidean_distances, mean_updates

        update, n_rows = replies["update"], replies["rows"]
        cluster = agglomerate(euclidean_distances(update, update), task.n_components, settings.distance_threshold)
        n_clusters = int(cluster.max()) + 1
        return server | {
            "expert": server["joint"] + mean_updates(update, n_rows, cluster, n_clusters, common),
            "centres": mean_updates(update, torch.ones_like(n_rows), cluster, n_clusters),  # [G, P]
            "cluster": enter(server["cluster"], replies["client"], cluster),
        }

    def average_in_clusters(server: Tree, replies: Tree) -> Tree:
        from fedgmi.methods.baselines.clustering import euclidean_distances, mean_updates

        new = replies["cluster"] == UNKNOWN
        known, back = tree.take(replies, ~new), tree.take(replies, new)
        moved = mean_updates(known["update"], known["rows"], known["cluster"], len(server["expert"]), common)
        nearest = euclidean_distances(back["update"], server["centres"]).argmin(1)
        joined = enter(server["cluster"], replies["client"], replies["cluster"].masked_scatter(new, nearest))
        return server | {"expert": server["expert"] + moved, "cluster": joined}

    writes = ("centres", "cluster", "expert", "joint")
    step = update_step(train, average, reads=("cluster", "expert", "joint"), writes=writes, lowest=UNKNOWN)
    method = clustered_method(task, "flhc", step, {"joint": random_starts(task, 1)})
    return replace(method, program=replace(method.program, warm_up=joint_rounds))


def check_flhc(settings: FlhcSettings, rounds: int) -> None:
    """Refuse settings that contradict each other.

    Args:
        settings: FL+HC's.
        rounds: R.

    Raises:
        ConfigError: For a clustering that comes after the last round, or that is given both a number and a distance.
    """
    check_joint_rounds(settings, rounds)
    if settings.n_components is not None and settings.distance_threshold is not None:
        raise ConfigError(
            "flhc merges clusters up to a distance or down to a number of them, not both",
            where="method.n_components",
            fix="unset it, or method.distance_threshold",
        )


FLHC = Entry(
    flhc,
    FlhcSettings,
    "FedAvg, one clustering of the clients, then FedAvg per cluster",
    check=check_flhc,
    settle=settle_joint_rounds(JOINT_ROUNDS),
    tune={"joint_rounds": (1, 5, 10)},
)
