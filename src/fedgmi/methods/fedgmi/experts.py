"""The experts' part of an EM round: one model in the warm-up, then K heads on one trunk, or K models apart."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fedgmi.data.rows import Rows
from fedgmi.methods.contract import Message, Task, mean_by_mass
from fedgmi.methods.local_training import all_rows, expert_loss, plan, train_components
from fedgmi.models import training
from fedgmi.tree import Tree

MU = 0.001  # of a proximal term μ/2·‖w − w_t‖²: sites differ, and heads and trunk drift apart less
MIN_MASS = 0.01  # rows; with less of a component a client sends nothing of its expert


def train_experts(task: Task, experts: Tensor, rows: Rows, resp: Tensor, round: int, *, shared_trunk: bool) -> Message:
    """Train experts [K, P], or the one model [1, P] of the warm-up, on rows weighted by resp [R, K] or [R, 1]."""
    if rows.y is None:
        return Message()
    if shared_trunk and task.expert.trunk and resp.shape[1] > 1:
        return train_heads(task, experts, rows, resp, round)
    trained = train_components(task, rows, resp, experts, expert_loss(task), (task.seed, round, "expert"))
    cost = trained.n_jobs * experts[0].nbytes
    return Message({"expert total": trained.total, "expert mass": trained.mass}, cost, cost)


def train_heads(task: Task, experts: Tensor, rows: Rows, resp: Tensor, round: int) -> Message:
    """One job a client: trunk and K heads at once, by Σ_x Σ_k r_ik(x)·CE_k(x, y) over all of its rows, and held near
    where the round began.

    The trunk's mean is by rows, so all that anybody holds shapes it; a head's is by its component's mass. experts
    [K, P] have one trunk, and only it and the heads of components that a client holds travel.
    """
    trunk, n_experts = task.expert.trunk, len(experts)
    start = torch.cat([experts[0, :trunk], experts[:, trunk:].flatten()]).expand(rows.n_clients, -1)  # [C, T + K·H]
    jobs = plan(task, rows, all_rows(rows))
    place = jobs.client.to(experts.device)
    weights = resp.to(experts.dtype)

    def loss(params: Tensor, batch: training.Batch) -> Tensor:
        assert batch.y is not None
        logits = task.expert.heads(params, batch.x)  # [J, B, K, L]
        labels = batch.y[:, :, None].expand(logits.shape[:3])
        losses = F.cross_entropy(logits.flatten(0, 2), labels.flatten(), reduction="none").view(labels.shape)
        return (weights[batch.row] * losses).sum(2)

    key, begin = (task.seed, round, "expert"), start[place]
    penalty = training.proximal(MU, begin)
    local = training.fit(loss, begin, jobs, rows, settings=task.training, lr=task.lr, key=key, penalty=penalty)
    mass = rows.sum_by_client(resp)[place]  # [J, K]
    heads = local[:, trunk:].reshape(len(local), n_experts, -1)  # [J, K, H]
    values = {
        "trunk total": (local[:, :trunk] * rows.counts[place, None]).sum(0, keepdim=True),
        "trunk mass": rows.counts.sum().double()[None],
        "head total": (heads * mass[:, :, None].to(local.dtype)).sum(0),
        "head mass": mass.sum(0),
    }
    sent = rows.n_clients * trunk + int((mass > MIN_MASS).sum()) * (task.expert.size - trunk)
    cost = sent * experts.element_size()
    return Message(values, cost, cost)


def expert_updates(task: Task, experts: Tensor) -> Tree:
    """The models that messages may hold sums of: the experts, or the one trunk [1, T] and the heads [K, P − T]."""
    trunk = task.expert.trunk
    return {"expert": experts, "trunk": experts[:1, :trunk], "head": experts[:, trunk:]}


def average_experts(task: Task, experts: Tensor, sums: Tree) -> Tensor:
    """The new experts [K, P] from the sums of `train_experts`; as they were where nobody sent any."""
    if "trunk total" in sums:
        parts = {name: part for name, part in expert_updates(task, experts).items() if name != "expert"}
        means = {name: mean_by_mass(old, sums[f"{name} total"], sums[f"{name} mass"]) for name, old in parts.items()}
        return torch.cat([means["trunk"].expand(len(experts), -1), means["head"]], 1)
    if "expert total" not in sums:
        return experts
    total, mass = sums["expert total"], sums["expert mass"]
    mean = mean_by_mass(experts[: len(mass)], total, mass)
    return mean.expand(task.n_components, -1).contiguous() if len(mass) < task.n_components else mean
