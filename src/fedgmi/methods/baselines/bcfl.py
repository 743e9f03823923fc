"""BCFL-G: clusters whose models are Gaussians, every client in its likeliest one (Wu et al. 2024, arXiv 2410.15473).

    j_i = argmin_k F_i(μ_k)                              F_i: the mean cross-entropy of client i's rows
    μ_i ≈ argmin F_i(θ) + s/2·Σ_p Λ_kp (θ_p − μ_kp)²     k = j_i, from μ_k: the cluster is the client's prior
    Λ_i = Λ_k + (passes)·Σ_b (|b|/n_i) ∇F_b(μ_i)²        squares by parameter, over batches b of client i's rows
    Λ_k ← mean of Λ_i,  μ_k ← Σ_i Λ_i μ_i / Σ_i Λ_i      over the clients with j_i = k; Λ_k = 1 at first

The greedy one of the paper's three algorithms: associations of clients and clusters are not summed over, the likeliest
is taken. A cluster that nobody chose stays as it was. Clients choose, predict and come anew as in `ifca`. Per round and
client: K models and their Λ down; one Λ_i, and one Λ_i μ_i up.

With `method.shared_trunk` all layers but the last are one Gaussian, to which all clients add. A cluster's own are
μ_k and Λ_k of its last layer.

This is built from the paper's abstract and its public code. The text was not at hand, so keep it out of headline
tables. Deviations from the code:
- Λ_i's squares are taken in a pass after training. The code adds them up in each step.
- The prior term acts. In the code no gradient comes from it, which is s = 0 here, nearly.
- No warm-up by clustering models. Batches of Λ_i are in the rows' order. Adam, fresh in each round.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.methods.baselines.ifca import best_of_k
from fedgmi.methods.baselines.ifca_starts import best_fit
from fedgmi.methods.contract import Entry, Method, Task
from fedgmi.methods.local_training import expert_objective, gradients_of_parts, need_labels, train_own
from fedgmi.methods.shared_trunk import TrunkSettings, parts_of, parts_of_own, starts, whole
from fedgmi.methods.summing import by_mass
from fedgmi.models import training
from fedgmi.protocol.message import Message, Models
from fedgmi.protocol.step import Kind, Step
from fedgmi.settings.base import PositiveFloat
from fedgmi.tree import Tree

KIND: Kind = "expert"
PULLED = "pulled"
"""In messages: Σ_i Λ_i μ_i."""


class BcflSettings(TrunkSettings):
    """BCFL's own settings.

    Attributes:
        strength: s, of the prior term.
    """

    name: Literal["bcfl"] = "bcfl"
    strength: PositiveFloat = 0.01


def bcfl(task: Task[BcflSettings]) -> Method:
    """Build the method for a task.

    Args:
        task: Its expert is the form of a cluster's mean, and of its precision.

    Returns:
        The method.

    Raises:
        ConfigError: For rows without labels.
    """
    need_labels(task, "bcfl")
    shared = task.settings.shared_trunk
    first = starts(task, task.n_components, shared, "bcfl")

    def train(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        chosen = best_fit(task, server["expert"], rows)  # [C, K]
        mean, precision = (server[name][chosen.argmax(1)] for name in ("expert", "precision"))
        near = prior(expert_objective(task), mean, task.settings.strength * precision, rows)
        own = train_own(task, rows, mean, (task.seed, round, "expert"), objective=near)
        precision = precision + task.training.epochs * squares(task, own, rows)
        sums = {"precision": precision, PULLED: precision * own}
        if shared:
            return {"proportions": chosen}, Message(parted(sums, chosen, rows))
        return {"proportions": chosen}, Message({name: by_mass(rows, leaf, chosen) for name, leaf in sums.items()})

    def parted(sums: Tree, chosen: Tensor, rows: Rows) -> dict[str, Models]:
        parts = [parts_of_own(task, rows, leaf, chosen, of=f"{name} ", alike=True) for name, leaf in sums.items()]
        return parts[0] | parts[1]

    def sums_of(server: Tree) -> Tree:
        return {"precision": server["precision"], PULLED: server["precision"] * server["expert"]}

    def models(server: Tree) -> Tree:
        if not shared:
            return sums_of(server)
        parts = [parts_of(task, leaf, f"{name} ") for name, leaf in sums_of(server).items()]
        return parts[0] | parts[1]

    def fuse(server: Tree, message: Message, round: int) -> Tree:
        precision, pulled = (
            whole(task, old, message, f"{name} ") if shared else message.models[name].mean(old)
            for name, old in sums_of(server).items()
        )
        return server | {"precision": precision, "expert": pulled / precision}

    step = Step(
        "train",
        train,
        fuse,
        reads=("expert", "precision"),
        writes=("expert", "precision"),
        models=models,
        apart=True,
        tells="a model of its cluster, trained on its rows, and how sharply they tell each parameter",
    )
    method = best_of_k(task, "bcfl", step)

    def init() -> Tree:
        return method.program.init() | {"expert": first, "precision": torch.ones_like(first)}

    sent = [f"{name}{part}" for name in ("precision", PULLED) for part in ("", " trunk", " head")]
    kinds = dict(method.program.kinds) | dict.fromkeys(sent, KIND)
    return replace(method, program=replace(method.program, init=init, kinds=kinds, relative=frozenset(sent)))


def prior(objective: training.Objective, mean: Tensor, strength: Tensor, rows: Rows) -> training.Objective:
    """The objective of each client's job, plus ½ Σ_p strength_p (θ_p − mean_p)².

    Args:
        objective: Without it.
        mean: Of each client's prior. [C, P]
        strength: [C, P]
        rows: Of these clients.

    Returns:
        The objective of jobs with all rows of one client each.
    """

    def whose(batch: training.Batch) -> Tensor:
        return rows.client_index[batch.row[:, 0]]

    def loss(params: Tensor, batch: training.Batch) -> Tensor:
        client = whose(batch)
        pull = (strength[client] * (params - mean[client]).square()).sum(1, keepdim=True)
        return objective.loss(params, batch) + 0.5 * pull

    def gradient(params: Tensor, batch: training.Batch, out: Tensor) -> None:
        client = whose(batch)
        objective.write_gradient(params, batch, out)
        out.addcmul_(strength[client], params - mean[client])

    return training.Objective(loss, gradient, model=objective.model)


def squares(task: Task, models: Tensor, rows: Rows) -> Tensor:
    """Σ_b (|b|/n_i) ∇F_b(θ_i)², by parameter: how sharply a client's rows tell its model.

    Args:
        task: Its expert is the form of the models; its batches are as large as in training.
        models: θ_i. [C, P]
        rows: Of these clients, with labels.

    Returns:
        [C, P]
    """
    total = torch.zeros_like(models)
    for i, share, gradient in gradients_of_parts(task, models, rows, task.training.batch_size):
        total[i].add_(gradient.square(), alpha=share)
    return total


BCFL = Entry(
    bcfl,
    BcflSettings,
    "clusters whose models are Gaussians, every client in its likeliest one",
    tune={"strength": (0.001, 0.01, 0.1)},
)
