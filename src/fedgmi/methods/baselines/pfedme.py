"""pFedMe: personal models by Moreau envelopes of the clients' losses (T Dinh et al. 2020, arXiv 2006.08848).

In every local round, from w_i = w as received, and θ_i = w:

    θ_i ← K steps on F_i(θ) + λ/2·‖θ − w_i‖², from where θ_i stood
    w_i ← w_i − ηλ (w_i − θ_i)
    w   ← Σ_i n_i w_i / Σ_i n_i                   over the participants, after their last local round

F_i is the mean cross-entropy of client i's rows. θ_i stays with the client and is what predicts. A client has as many
local rounds as K-step stretches fit into its passes over its rows, the last one shorter, so that it takes as many steps
as in the other methods. Per round and client: one model down, one up.

A client that was never drawn predicts with θ_i's random start. One that was never there gets the global model, near
which its own would be held: `infer_client` trains nothing. With labels it makes one in a round, as all do: θ_i begins
at the global model in each (`welcome`).

Deviations from the paper:
- Every step of the K has a batch of its own. The paper's K steps have one in common.
- Adam, fresh in every local round, in place of SGD.
- λ = 0.1 and ηλ = 1 by default, where the paper has λ = 15 and ηλ = 0.075 for hundreds of rounds of SGD. With these,
  Adam learns next to nothing in 20 rounds: see docs/decisions.md.
- ηλ is one setting. Clients weigh by their rows, and the server's β is 1: it takes the mean.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.methods.baselines.averaging import experts_step
from fedgmi.methods.contract import Entry, Method, Predictor, Task
from fedgmi.methods.local_training import (
    all_rows,
    by_rows,
    expert_objective,
    need_labels,
    own_log_prob,
    plan,
    random_starts,
)
from fedgmi.methods.own_models import welcomed
from fedgmi.models import training
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import Program
from fedgmi.settings.base import Fraction, MethodSettings, Passes, PositiveFloat
from fedgmi.tree import Tree


class PFedMeSettings(MethodSettings):
    """pFedMe's own settings.

    Attributes:
        strength: λ, how strongly the personal model is held to the client's copy of the global one.
        inner_steps: K, the steps on the personal model in a local round.
        outer_step: ηλ, which part of the way to the personal model the copy goes.
    """

    name: Literal["pfedme"] = "pfedme"
    strength: PositiveFloat = 0.1
    inner_steps: Passes = 5
    outer_step: Fraction = 1.0


def pfedme(task: Task[PFedMeSettings]) -> Method:
    """Build the method for a task.

    Args:
        task: Its expert is the form of the personal models and of the global one.

    Returns:
        The method.

    Raises:
        ConfigError: For rows without labels.
    """
    need_labels(task, "pfedme")

    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        copies, personal = local_rounds(task, server["expert"].repeat(rows.n_clients, 1), rows, round)
        return {"personal": personal}, Message({"expert": by_rows(rows, copies)})

    return Method(
        name="pfedme",
        program=Program(
            init=lambda: {"expert": random_starts(task, 1)},
            client_init=lambda ids: {"personal": random_starts(task, 1).repeat(len(ids), 1)},
            round=(experts_step(client, "updates of the model, weighted by its rows"),),
            kinds={"expert": "expert"},
        ),
        predictor=Predictor(
            predict=lambda server, states, rows: own_log_prob(task, states["personal"], rows),
            reads=("expert",),
            infer_client=lambda server, rows: {"personal": server["expert"].repeat(rows.n_clients, 1)},
            welcome=welcomed(client, task.training.epochs, passes=1),
            expert=lambda server, x: task.expert.log_prob(server["expert"], x),
        ),
    )


def local_rounds(task: Task[PFedMeSettings], start: Tensor, rows: Rows, round: int) -> tuple[Tensor, Tensor]:
    """All local rounds of clients.

    Args:
        task: Its training settings, its learning rate, and λ, K and ηλ.
        start: The global model, once for each client. [C, P]
        rows: Of C clients.
        round: Of which it is.

    Returns:
        w_i and θ_i. [C, P] each
    """
    settings, copies, personal = task.settings, start, start
    jobs, key = plan(task, rows, all_rows(rows)), (task.seed, round, "expert")
    jobs = training.shortened(jobs, rows, task.training.stragglers, key, task.part)
    left = jobs.steps  # job i is client i: all have rows
    whole, number = task.training.model_copy(update={"stragglers": 0.0}), 0
    while bool((left > 0).any()):
        steps = left.clamp(max=settings.inner_steps)
        jobs = plan(task, rows, (steps > 0).double().to(rows.x.device)[rows.client_index][:, None])
        jobs, at = replace(jobs, steps=steps[jobs.client]), jobs.client.to(start.device)
        found = training.fit(
            expert_objective(task),
            personal,
            jobs,
            rows,
            settings=whole,
            lr=task.lr,
            key=(task.seed, round, f"expert, local round {number}"),
            at=at,
            pull=training.Pull(settings.strength, copies, at),
        )
        personal = personal.index_copy(0, at, found)
        copies = copies.index_copy(0, at, torch.lerp(copies[at], found, settings.outer_step))
        left, number = left - steps, number + 1
    return copies, personal


PFEDME = Entry(
    pfedme,
    PFedMeSettings,
    "personal models by Moreau envelopes of clients' losses",
    has_components=False,
    tune={"strength": (0.1, 1.0, 15.0)},
)
