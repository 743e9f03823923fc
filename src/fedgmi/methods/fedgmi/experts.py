"""The experts' part of an EM round: one model in the warm-up, then K heads on one trunk, or K models apart."""

from __future__ import annotations

import torch
from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.methods.contract import Task
from fedgmi.methods.fedgmi.settings import FedGMISettings
from fedgmi.methods.local_training import all_rows, expert_objective, held_by_all, plan, train_chunks, train_components
from fedgmi.models import training
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
        return train_heads(task, experts, rows, resp, round)
    return {"expert": train_components(task, rows, resp, experts, expert_objective(task), (task.seed, round, "expert"))}


def train_heads(task: Task[FedGMISettings], experts: Tensor, rows: Rows, resp: Tensor, round: int) -> Experts:
    """One job a client: trunk and K heads at once, by Σ_x Σ_k r_ik(x)·CE_k(x, y) over all of its rows, and held near
    where the round began.

    The trunk's mean is by rows, so all that anybody holds shapes it; a head's is by its component's mass. The experts
    [K, P] have one trunk.
    """
    trunk, n_experts = task.expert.trunk, len(experts)
    start = torch.cat([experts[0, :trunk], experts[:, trunk:].flatten()])[None]  # [1, T + K·H]
    jobs = plan(task, rows, all_rows(rows))
    place = jobs.client.to(experts.device)
    weights, expert = resp.to(experts.dtype), task.expert

    def loss(params: Tensor, batch: training.Batch) -> Tensor:
        assert batch.y is not None
        outputs = expert.heads(params, batch.x)  # [J, B, K, L]
        shares = weights[batch.row].transpose(1, 2)  # [J, K, B]
        losses = expert.head.loss(outputs.transpose(1, 2), of_each_head(batch.y, outputs.shape[2]), shares)
        return (shares * losses).sum(1)

    def gradient(params: Tensor, batch: training.Batch, out: Tensor) -> None:
        assert batch.y is not None
        assert expert.gradient is not None
        expert.gradient(params, batch.x, batch.y, weights[batch.row], out)

    name = f"expert {expert.name}"
    objective = training.Objective(loss, gradient if expert.gradient else None, expert.by_job, name)
    key, at = (task.seed, round, "expert"), torch.zeros_like(place)
    chunks = train_chunks(task, objective, start, jobs, rows, key, at, pull=training.Pull(MU, start, at))
    mass = rows.sum_by_client(resp)  # [C, K], and every client has a job
    trunk_total, head_total = torch.zeros_like(experts[:1, :trunk]), torch.zeros_like(experts[:, trunk:])
    for done, local in chunks:
        heads = local[:, trunk:].reshape(len(local), n_experts, -1)  # [J', K, H]
        own = mass[place[done]].to(local.dtype)
        trunk_total += rows.counts[place[done]].to(local.dtype) @ local[:, :trunk]
        head_total += torch.einsum("jk,jkh->kh", own, heads)
    return {
        "trunk": held_by_all(rows, trunk_total, rows.counts.sum().double()[None]),
        "head": Models(head_total, mass.sum(0), (mass != 0).cpu()),
    }


def of_each_head(y: Tensor, n_heads: int) -> Tensor:
    """The labels once for each head. [J, B, …] → [J, K, B, …]"""
    return y[:, None].expand(-1, n_heads, *y.shape[1:])


def expert_models(task: Task[FedGMISettings], experts: Tensor) -> Tree:
    """The models that messages may hold sums of: the experts, or the one trunk [1, T] and the heads [K, P − T]."""
    trunk = task.expert.trunk
    return {"expert": experts, "trunk": experts[:1, :trunk], "head": experts[:, trunk:]}


def average_experts(task: Task[FedGMISettings], experts: Tensor, message: Message) -> Tensor:
    """The new experts [K, P] from what `train_experts` sent; as they were where nobody sent any."""
    models = message.models
    if "trunk" in models:
        old = expert_models(task, experts)
        trunk, head = (models[name].mean(old[name]) for name in ("trunk", "head"))
        return torch.cat([trunk.expand(len(experts), -1), head], 1)
    if "expert" not in models:
        return experts
    n_models = len(models["expert"].mass)
    mean = models["expert"].mean(experts[:n_models])
    return mean.expand(task.n_components, -1).contiguous() if n_models < task.n_components else mean
