"""FedEM: K models for all, each client's own mixture of them (Marfoq et al. 2021, arXiv 2108.10252).

    E-step    q_ik(x, y) ∝ π_ik · p_k(y | x)            π_i ← mean of q_i over client i's rows
    M-step    θ_ik from θ_k, on client i's rows weighted by q_ik
    server    θ_k ← Σ_i n_i θ_ik / Σ_i n_i              by rows, not by mass: all K models of every participant enter
    predict   p(y | x) = Σ_k π_ik · p_k(y | x)

π stays with the client. A new client takes the K models and iterates the E-step on its labelled rows until π
converges. Without labels nothing is known of it, and π is uniform. Per round and client: K models down, and K updates
up, in float64.

`method.shared_trunk` gives the K models all layers but the last in common, as those of fedgmi have. Each client then
trains the trunk and K heads at once, each head's loss weighted by q_ik, and sends the trunk once.

Deviations from the paper:
- π_ik is taken for at least 1e-12 wherever it is used, so that a model's share can grow again.
- Adam, fresh each round, in place of SGD whose rate falls. It undoes a weight that all rows of a client have in common.
  `method.weighting = "draw"` draws rows ∝ q_ik instead: see `weighting`. A model that holds more than 1 % of no row
  then stays as it was received, and still enters the mean.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.methods.baselines.weighting import WEIGHTINGS, WeightingSettings, check_weighting, trained_parts
from fedgmi.methods.contract import Entry, Method, Predictor, Task
from fedgmi.methods.local_training import (
    held_by_all,
    identified,
    identified_of,
    need_labels,
    row_losses,
)
from fedgmi.methods.shared_trunk import parts_step, starts, train_heads
from fedgmi.methods.summing import Totals, over_clients
from fedgmi.mixture.posterior import PROPORTION_FLOOR, e_step, responsibilities, uniform
from fedgmi.models.expert import mixture_log_prob
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import Kind, Program, Step
from fedgmi.tree import Tree

KIND: Kind = "expert"
MOVED = "moved"  # the model in messages: Σ_i n_i (θ_ik − θ_k)


class FedEMSettings(WeightingSettings):
    """FedEM has none of its own but `weighting`."""

    name: Literal["fedem"] = "fedem"


def fedem(task: Task[FedEMSettings]) -> Method:
    """Build the method for a task.

    Args:
        task: Its expert is the form of the K models, which have a random start each.

    Returns:
        The method.

    Raises:
        ConfigError: For rows without labels.
    """
    need_labels(task, "fedem")
    k, shared = task.n_components, task.settings.shared_trunk
    first = starts(task, k, shared, "fedem")

    def posterior(server: Tree, states: Tree, rows: Rows) -> Tensor:
        return responsibilities(-row_losses(task, server["expert"], rows), states["proportions"], rows.client_index)[0]

    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        resp = posterior(server, states, rows)
        states = {"proportions": rows.sum_by_client(resp) / rows.counts[:, None]}
        key, n_rows = (task.seed, round, "expert"), rows.counts.double()
        if shared:
            mass = n_rows[:, None].expand(-1, k)
            return states, Message(train_heads(task, server["expert"], rows, resp, key, mass=mass))
        moved = m_step(task, rows, resp, server["expert"], key)
        return states, Message({MOVED: held_by_all(rows, moved, over_clients(rows, n_rows[:, None].expand(-1, k)))})

    def average(server: Tree, message: Message, round: int) -> Tree:
        moved = message.models[MOVED]
        return {"expert": server["expert"] + (moved.total / moved.mass[:, None]).to(server["expert"].dtype)}

    def predict(server: Tree, states: Tree, rows: Rows) -> Tensor:
        gate = states["proportions"].clamp(min=PROPORTION_FLOOR).log()[rows.client_index]  # [R, K]
        return mixture_log_prob(task.expert, server["expert"], rows.x, gate)

    def client_init(ids: tuple[int, ...]) -> Tree:
        return {"proportions": uniform(len(ids), k)}

    def infer_client(server: Tree, rows: Rows) -> Tree:
        states = {name: leaf.to(rows.x.device) for name, leaf in client_init(rows.ids).items()}
        if rows.y is not None:
            logs = -row_losses(task, server["expert"], rows)
            states = {"proportions": e_step(logs, rows, states["proportions"]).proportions}
        return states | identified(rows, rows.y is not None)

    tells = "updates of all models, weighted by its rows"
    apart = Step("em", client, average, reads=("expert",), writes=("expert",), models=still, apart=True, tells=tells)
    return Method(
        name="fedem",
        program=Program(
            init=lambda: {"expert": first},
            client_init=client_init,
            round=(parts_step(task, client, tells) if shared else apart,),
            kinds=dict.fromkeys(("expert", MOVED, "trunk", "head"), KIND),
        ),
        predictor=Predictor(
            predict=predict,
            reads=("expert",),
            proportions=lambda states: states["proportions"],
            responsibilities=posterior,
            infer_client=infer_client,
            identified=identified_of,
            client_state=lambda proportions: {"proportions": proportions},
            expert=lambda server, x: task.expert.log_prob(server["expert"], x),
        ),
    )


def still(server: Tree) -> Tree:
    """Where the models in messages stand: at zero, for messages hold sums of updates.

    Args:
        server: The server's state.

    Returns:
        Zeros of the experts' form. [K, P], float64
    """
    return {MOVED: torch.zeros_like(server["expert"], dtype=torch.float64)}


def m_step(task: Task[FedEMSettings], rows: Rows, resp: Tensor, start: Tensor, key: tuple[int | str, ...]) -> Tensor:
    """Train every model on every client's rows, and add up what that made of it.

    Args:
        task: Its training settings, and its learning rate.
        rows: Of C clients.
        resp: How much of each row is each model's. [R, K]
        start: Where the models begin. [K, P]
        key: Of the draws: (seed, round, purpose).

    Returns:
        Σ_i n_i (θ_ik − θ_k). [K, P], or [C, K, P] where messages are wanted apart, float64
    """
    total = Totals(rows, start.double())
    for client, model, local in trained_parts(task, rows, resp, start, key):
        moved = local.sub_(start[model])
        total.add(client, model, moved.double() * rows.counts[client, None].double())
    return total.total


FEDEM = Entry(
    fedem, FedEMSettings, "K models for all, each client's own mixture of them", check=check_weighting, tune=WEIGHTINGS
)
