"""APFL: every client mixes a model of its own with the global one (Deng et al. 2020, arXiv 2003.13461).

    v̄_i = α_i v_i + (1 − α_i) w_i                 what client i predicts with
    w_i ← w_i − η ∇F_i(w_i)                        in every step, on the same batch
    v_i ← v_i − η ∇_v F_i(v̄_i)
    α_i ← α_i − η_α ⟨v_i − w, ∇F_i(v̄_i)⟩, cut to [0, 1]        once, as a round begins
    w   ← Σ_i n_i w_i / Σ_i n_i                    over the participants

F_i is the mean cross-entropy of client i's rows. v_i and α_i stay with the client. In predictions w_i is the global w.
Per round and client: one model down, one up. The global model is FedAvg's.

A client that was never drawn predicts with the mixture of its random start and the global model. One that was never
there gets the global model: `infer_client` trains nothing. With labels its own begins there, for rounds of 16 passes
in which the global model stands still (`welcome`).

Deviations from the paper:
- Adam, fresh in every round, in place of SGD. So α, which takes plain gradient steps, has a rate of its own.
- α's gradient is over all rows of the client, not over one batch.
- Clients weigh by their rows. The paper's mean is plain.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.methods.baselines.averaging import experts_step
from fedgmi.methods.contract import Entry, Method, Predictor, Task
from fedgmi.methods.local_training import (
    by_rows,
    expert_objective,
    need_labels,
    own_gradient,
    own_log_prob,
    random_starts,
    train_own,
)
from fedgmi.methods.own_models import welcomed
from fedgmi.models import training
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import Program
from fedgmi.settings.base import Fraction, MethodSettings, PositiveFloat
from fedgmi.tree import Tree


class ApflSettings(MethodSettings):
    """APFL's own settings.

    Attributes:
        alpha: α at the start, how much of a client's mixture is its own model. 1 would be local training at first.
        alpha_rate: η_α, by which α follows its gradient.
    """

    name: Literal["apfl"] = "apfl"
    alpha: Fraction = 0.5
    alpha_rate: PositiveFloat = 0.1


def apfl(task: Task[ApflSettings]) -> Method:
    """Build the method for a task.

    Args:
        task: Its expert is the form of the clients' own models and of the global one.

    Returns:
        The method.

    Raises:
        ConfigError: For rows without labels.
    """
    need_labels(task, "apfl")
    settings = task.settings

    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        model, own = server["expert"].repeat(rows.n_clients, 1), states["personal"]
        slope = ((own - model) * own_gradient(task, mixed(states["alpha"], own, model), rows)).sum(1)
        alpha = (states["alpha"] - settings.alpha_rate * slope).clamp(0.0, 1.0)
        key, objective = (task.seed, round, "expert"), both(task, alpha, rows)
        model, own = train_own(task, rows, torch.cat([model, own], 1), key, objective=objective).chunk(2, 1)
        return {"personal": own, "alpha": alpha}, Message({"expert": by_rows(rows, model)})

    def predict(server: Tree, states: Tree, rows: Rows) -> Tensor:
        return own_log_prob(task, mixed(states["alpha"], states["personal"], server["expert"]), rows)

    def state(own: Tensor, n_clients: int) -> Tree:
        return {"personal": own.repeat(n_clients, 1), "alpha": own.new_full((n_clients,), settings.alpha)}

    return Method(
        name="apfl",
        program=Program(
            init=lambda: {"expert": random_starts(task, 1)},
            client_init=lambda ids: state(random_starts(task, 1), len(ids)),
            round=(experts_step(client, "updates of the model, weighted by its rows"),),
            kinds={"expert": "expert"},
        ),
        predictor=Predictor(
            predict=predict,
            reads=("expert",),
            infer_client=lambda server, rows: state(server["expert"], rows.n_clients),
            welcome=welcomed(client, task.training.epochs),
            expert=lambda server, x: task.expert.log_prob(server["expert"], x),
        ),
    )


def mixed(alpha: Tensor, own: Tensor, model: Tensor) -> Tensor:
    """v̄ = w + α (v − w), which is w to the bit where v is.

    Args:
        alpha: [C]
        own: v. [C, P]
        model: w. [C, P] or [1, P]

    Returns:
        [C, P]
    """
    return model + alpha[:, None] * (own - model)


def both(task: Task, alpha: Tensor, rows: Rows) -> training.Objective:
    """The loss of w_i plus that of v̄_i, on the same batch; w_i learns from the first term alone, v_i from the second.

    Args:
        task: Whose expert it is.
        alpha: Of each client. [C]
        rows: Of these clients.

    Returns:
        The objective of jobs with parameters [w_i, v_i]. [J, 2·P]
    """
    one = expert_objective(task)

    def mixtures(params: Tensor, batch: training.Batch) -> tuple[Tensor, Tensor, Tensor]:
        model, own = params.chunk(2, 1)
        share = alpha[rows.client_index[batch.row[:, 0]]]
        return model, mixed(share, own, model.detach()), share

    def loss(params: Tensor, batch: training.Batch) -> Tensor:
        model, mixture, _ = mixtures(params, batch)
        return one.loss(model, batch) + one.loss(mixture, batch)

    def gradient(params: Tensor, batch: training.Batch, out: Tensor) -> None:
        model, mixture, share = mixtures(params, batch)
        slopes = [torch.empty_like(mixture) for _ in range(2)]
        for at, slope in zip((model.contiguous(), mixture), slopes, strict=True):
            one.write_gradient(at, batch, slope)
        torch.cat([slopes[0], share[:, None] * slopes[1]], 1, out=out)

    return training.Objective(loss, gradient)


APFL = Entry(
    apfl,
    ApflSettings,
    "every client mixes a model of its own with the global one",
    has_components=False,
    tune={"alpha": (0.25, 0.5, 0.75)},
)
