"""The experts' part of an EM round: one model in the warm-up, then K heads on one trunk, or K models apart."""

from __future__ import annotations

from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.methods.contract import Task
from fedgmi.methods.fedgmi.settings import FedGMISettings
from fedgmi.methods.local_training import expert_objective, train_components
from fedgmi.methods.shared_trunk import parts_of, train_heads, whole
from fedgmi.protocol.message import Message, Models
from fedgmi.tree import Tree

Experts = dict[str, Models]

MU = 0.001  # of a proximal term μ/2·‖w − w_t‖²: sites differ, and heads and trunk drift apart less


def train_experts(
    task: Task[FedGMISettings], experts: Tensor, rows: Rows, resp: Tensor, round: int, *, shared_trunk: bool
) -> Experts:
    """Train experts on rows weighted by responsibilities.

    Args:
        task: Its expert and its training settings.
        experts: Where they begin: [K, P], or the one model [1, P] of the warm-up.
        rows: Of C clients.
        resp: [R, K], or [R, 1] in the warm-up.
        round: Of the draws.
        shared_trunk: Whether the experts have their lower layers in common.

    Returns:
        The models of a message: "expert", or "trunk" and "head".
    """
    if shared_trunk and task.expert.trunk and resp.shape[1] > 1:
        # one job a client, held near where the round began; the heads' means are by their components' mass
        key, mass = (task.seed, round, "expert"), rows.sum_by_client(resp)
        return train_heads(task, experts, rows, resp, key, mass=mass, mu=MU)
    return {"expert": train_components(task, rows, resp, experts, expert_objective(task), (task.seed, round, "expert"))}


def expert_models(task: Task[FedGMISettings], experts: Tensor) -> Tree:
    """The models that messages may hold sums of: the experts, or the one trunk [1, T] and the heads [K, P − T]."""
    return {"expert": experts} | parts_of(task, experts)


def average_experts(task: Task[FedGMISettings], experts: Tensor, message: Message) -> Tensor:
    """The new experts [K, P] from what `train_experts` sent; as they were where nobody sent any."""
    models = message.models
    if "trunk" in models:
        return whole(task, experts, message)
    if "expert" not in models:
        return experts
    n_models = len(models["expert"].mass)
    mean = models["expert"].mean(experts[:n_models])
    return mean.expand(task.n_components, -1).contiguous() if n_models < task.n_components else mean
