"""FedSoft: own models, drawn to the clusters that a client's rows are of (Ruan & Joe-Wong 2022, arXiv 2112.06053).

    u_is = share of client i's rows whose loss is least under c_s; 1e-4 in place of zero; taken anew every τ rounds
    w_i ≈ argmin F_i(w) + Σ_s λ/2·u_is·‖w − c_s‖², from where w_i stood
    c_s ← Σ_i v_is w_i, v_is = u_is n_i / Σ_j u_js n_j

F_i is the mean cross-entropy of client i's rows; the K centres c_s have a random start each, all w_i another one in
common. w_i stays with the client and is what predicts; u_i, scaled to sum to one, are the proportions. Per round and
client: K models down; one up, and u_i when it is new. By the smoothing no centre is ever without mass: one that no row
prefers becomes the mean of all clients. The paper has no rule for clients that were not there.

Deviations from the paper: for each centre it selects clients with probability v_is and averages them plainly; here the
participants are those of all methods, weighted by v_is over them (the paper's form without selection). τ rounds are
counted from a client's own last estimate, which is the same where all take part. Adam is fresh in every round. The K
proximal terms are computed as one to their weighted mean, λ/2·(Σ_s u_is)·‖w − Σ_s u_is c_s / Σ_s u_is‖², which differs
by a constant.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fedgmi.data.rows import Rows
from fedgmi.methods.contract import Message, Method, Step, Task, mean_by_mass
from fedgmi.methods.local_training import need_labels, own_log_prob, random_starts, row_losses, train_own
from fedgmi.tree import Tree


def fedsoft(task: Task) -> Method:
    """The method for a task; own and cluster models are the task's expert."""
    need_labels(task, "fedsoft")
    settings, n_clusters = task.settings.fedsoft, task.n_components

    def nearest(server: Tree, rows: Rows) -> Tensor:
        """Of each row the cluster with the least loss, one-hot [R, K]."""
        return F.one_hot(row_losses(task, server["expert"], rows).argmin(1), n_clusters).double()

    def estimate(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, int]:
        """States with u_i [C, K] where it was due, and of how many clients."""
        due = (states["estimated"] == 0) | (round - states["estimated"] >= settings.interval)
        if not bool(due.any()):
            return states, 0
        share = rows.sum_by_client(nearest(server, rows)) / rows.counts[:, None]
        share = share.where(share > 0, settings.smoother)
        fresh = {
            "importance": share.where(due[:, None], states["importance"]),
            "estimated": torch.where(due, round, states["estimated"]),
        }
        return states | fresh, int(due.sum())

    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        centres = server["expert"]
        states, n_new = estimate(server, states, rows, round)
        importance = states["importance"].to(centres.dtype)  # u [C, K]
        pull = importance.sum(1)
        anchor = importance @ centres / pull[:, None]
        models = train_own(task, rows, states["expert"], (task.seed, round, "expert"), anchor, settings.strength * pull)
        mass = states["importance"] * rows.counts[:, None]  # u_is n_i [C, K]
        values = {"total": mass.T.to(models.dtype) @ models, "mass": mass.sum(0)}
        up = models.nbytes + n_new * states["importance"][0].nbytes
        return states | {"expert": models}, Message(values, rows.n_clients * centres.nbytes, up)

    def average(server: Tree, sums: Tree, round: int) -> Tree:
        return {"expert": mean_by_mass(server["expert"], sums["total"], sums["mass"])}

    def client_init(ids: tuple[int, ...]) -> Tree:
        return {
            "expert": random_starts(task, 1, first=n_clusters).repeat(len(ids), 1),
            "importance": torch.full((len(ids), n_clusters), 1.0 / n_clusters, dtype=torch.float64),
            "estimated": torch.zeros(len(ids), dtype=torch.long),  # the round of the last estimate; 0: none yet
        }

    return Method(
        name="fedsoft",
        init=lambda: {"expert": random_starts(task, n_clusters)},
        client_init=client_init,
        round=(Step("train", client, average),),
        predict=lambda server, states, rows: own_log_prob(task, states["expert"], rows),
        proportions=lambda states: states["importance"] / states["importance"].sum(1, keepdim=True),
        responsibilities=lambda server, states, rows: nearest(server, rows),
        experts="expert",
    )
