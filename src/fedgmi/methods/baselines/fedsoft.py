"""FedSoft: own models, drawn to the clusters that a client's rows are of (Ruan & Joe-Wong 2022, arXiv 2112.06053).

    u_is = share of client i's rows whose loss is least under c_s; 1e-4 in place of zero; taken anew every τ rounds
    w_i ≈ argmin F_i(w) + Σ_s λ/2·u_is·‖w − c_s‖², from where w_i stood
    c_s ← Σ_i v_is w_i, v_is = u_is n_i / Σ_j u_js n_j

F_i is the mean cross-entropy of client i's rows. The K centres c_s have a random start each, and all w_i another one in
common. w_i stays with the client and is what predicts. u_i, scaled to sum to one, are the proportions. Per round and
client: K models down, K up. The smoothing leaves no centre without mass: one that no row prefers becomes the mean of
all clients. The paper has no rule for clients that were not there. Here one with labels begins at
Σ_s u_is c_s / Σ_s u_is, and goes on by the rule above for 16 passes (`welcome`).

`method.shared_trunk` gives the centres all layers but the last in common: their mean is by rows, and goes up once.
Clients' own models stay whole.

Deviations from the paper:
- The paper selects clients for each centre with probability v_is, and averages them plainly. Here the participants are
  those of all methods, weighted by v_is over them: the paper's form without selection.
- A client sends its summands u_is n_i w_i, which are K models. The paper sends w_i and u_i.
- τ rounds are counted from a client's own last estimate, which is the same where all take part.
- Adam is fresh in every round.
- The K proximal terms are computed as one to their weighted mean, λ/2·(Σ_s u_is)·‖w − Σ_s u_is c_s / Σ_s u_is‖². It
  differs by a constant.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from fedgmi import tree
from fedgmi.data.rows import Rows
from fedgmi.methods.baselines.averaging import experts_step
from fedgmi.methods.contract import Entry, Method, Predictor, Task
from fedgmi.methods.local_training import (
    held_by_all,
    need_labels,
    own_log_prob,
    random_starts,
    row_losses,
    train_own,
)
from fedgmi.methods.own_models import LAST, welcomed
from fedgmi.methods.shared_trunk import TrunkSettings, parts_of_own, parts_step, starts
from fedgmi.methods.summing import by_mass
from fedgmi.mixture.posterior import uniform
from fedgmi.models.training import Pull
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import Program
from fedgmi.settings.base import PositiveFloat, PositiveInt
from fedgmi.tree import Tree

TELLS = "its own model, weighted by its rows and by how near it is to each cluster"


class FedSoftSettings(TrunkSettings):
    """FedSoft's own settings.

    Attributes:
        strength: λ of the proximal terms λ/2·u_is·‖w − c_s‖². 0 would be local training, and is refused.
        interval: τ, the rounds between two estimates of u.
        smoother: u of a cluster that no row prefers.
    """

    name: Literal["fedsoft"] = "fedsoft"
    strength: PositiveFloat = 0.01
    interval: PositiveInt = 2
    smoother: PositiveFloat = 1e-4


def fedsoft(task: Task[FedSoftSettings]) -> Method:
    """Build the method for a task.

    Args:
        task: Its expert is the form of the clients' own models and of the clusters'.

    Returns:
        The method.

    Raises:
        ConfigError: For rows without labels.
    """
    need_labels(task, "fedsoft")
    settings, n_clusters, shared = task.settings, task.n_components, task.settings.shared_trunk
    first = starts(task, n_clusters, shared, "fedsoft")

    def nearest(server: Tree, rows: Rows) -> Tensor:
        """Of each row the cluster with the least loss, one-hot [R, K]."""
        return F.one_hot(row_losses(task, server["expert"], rows).argmin(1), n_clusters).double()

    def estimate(server: Tree, states: Tree, rows: Rows, round: int) -> Tree:
        """States with u_i [C, K] where it was due."""
        due = (states["estimated"] == 0) | (round - states["estimated"] >= settings.interval)
        if not bool(due.any()):
            return states
        share = rows.sum_by_client(nearest(server, rows)) / rows.counts[:, None]
        share = share.where(share > 0, settings.smoother)
        return states | {
            "importance": share.where(due[:, None], states["importance"]),
            "estimated": torch.where(due, round, states["estimated"]),
        }

    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        centres = server["expert"]
        states = estimate(server, states, rows, round)
        importance = states["importance"].to(centres.dtype)  # u [C, K]
        pull = importance.sum(1)
        anchor = importance @ centres / pull[:, None]
        near = Pull(settings.strength * pull, anchor, torch.arange(rows.n_clients, device=anchor.device))
        models = train_own(task, rows, states["expert"], (task.seed, round, "expert"), near)
        mass = states["importance"] * rows.counts[:, None]  # u_is n_i [C, K]
        states = states | {"expert": models}
        if shared:
            return states, Message(parts_of_own(task, rows, models, mass))
        total = by_mass(rows, models, mass)
        return states, Message({"expert": held_by_all(rows, total.total, total.mass)})

    def client_init(ids: tuple[int, ...]) -> Tree:
        return {
            "expert": random_starts(task, 1, first=n_clusters).repeat(len(ids), 1),
            "importance": uniform(len(ids), n_clusters),
            "estimated": torch.zeros(len(ids), dtype=torch.long),  # the round of the last estimate; 0: none yet
        }

    def start(server: Tree, rows: Rows) -> Tree:
        states = tree.to(client_init(rows.ids), rows.x.device)
        share = estimate(server, states, rows, LAST)["importance"].to(server["expert"].dtype)
        return states | {"expert": share @ server["expert"] / share.sum(1, keepdim=True)}

    return Method(
        name="fedsoft",
        program=Program(
            init=lambda: {"expert": first},
            client_init=client_init,
            round=(parts_step(task, client, TELLS) if shared else experts_step(client, TELLS),),
            kinds={"expert": "expert", "trunk": "expert", "head": "expert"},
        ),
        predictor=Predictor(
            predict=lambda server, states, rows: own_log_prob(task, states["expert"], rows),
            reads=("expert",),
            proportions=lambda states: states["importance"] / states["importance"].sum(1, keepdim=True),
            responsibilities=lambda server, states, rows: nearest(server, rows),
            welcome=welcomed(client, task.training.epochs, start=start),
            expert=lambda server, x: task.expert.log_prob(server["expert"], x),
        ),
    )


FEDSOFT = Entry(
    fedsoft,
    FedSoftSettings,
    "own models, drawn to the clusters that a client's rows are of",
    tune={"strength": (0.01, 0.1)},
)
