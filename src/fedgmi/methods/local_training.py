"""What methods share: random starts, training what a client holds, FedAvg's round, losses and predictions by row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedgmi import tree
from fedgmi.data.rows import Rows
from fedgmi.data.standardise import feature_sums, standardisation
from fedgmi.errors import ConfigError
from fedgmi.methods.contract import Message, Step, Task, mean_by_mass
from fedgmi.models import training
from fedgmi.randomness import generator
from fedgmi.tree import Tree


@dataclass(frozen=True)
class Trained:
    """total [K, P] = Σ_i N_ik θ_ik · mass [K] = Σ_i N_ik · n_jobs: models that travelled, each way."""

    total: Tensor
    mass: Tensor
    n_jobs: int


def train_components(
    task: Task,
    rows: Rows,
    weights: Tensor,
    start: Tensor,
    loss: training.Loss,
    key: tuple[int | str, ...],
    noise_size: int = 0,
    mu: float = 0.0,
) -> Trained:
    """Train component k of client i from start [K, P] on its rows ∝ weights [R, K]; only pairs with mass.

    mu: of a proximal term μ/2·‖θ_ik − start_k‖².
    """
    jobs = plan(task, rows, weights)
    component = jobs.component.to(start.device)
    mass_of = jobs.mass.to(start.device)
    begin = start[component]
    local = training.fit(
        loss,
        begin,
        jobs,
        rows,
        settings=task.training,
        lr=task.lr,
        key=key,
        noise_size=noise_size,
        penalty=training.proximal(mu, begin) if mu else None,
    )
    total = torch.zeros_like(start).index_add_(0, component, local * mass_of[:, None].to(local.dtype))
    mass = torch.zeros(len(start), dtype=torch.float64, device=start.device).index_add_(0, component, mass_of)
    return Trained(total, mass, len(jobs))


def average_step(task: Task, mu: float = 0.0) -> Step:
    """FedAvg's round on the one model in the server's leaf "expert" [1, P]; mu: of FedProx's term."""

    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        key = (task.seed, round, "expert")
        trained = train_components(task, rows, all_rows(rows), server["expert"], expert_loss(task), key, mu=mu)
        cost = rows.n_clients * server["expert"].nbytes
        return states, Message({"expert total": trained.total, "expert mass": trained.mass}, cost, cost)

    def average(server: Tree, sums: Tree, round: int) -> Tree:
        return server | {"expert": mean_by_mass(server["expert"], sums["expert total"], sums["expert mass"])}

    return Step("train", client, average, updates=lambda server: {"expert": server["expert"]})


def train_own(
    task: Task,
    rows: Rows,
    models: Tensor,
    key: tuple[int | str, ...],
    anchor: Tensor | None = None,
    strength: Tensor | None = None,
) -> Tensor:
    """Each client's own model, models [C, P], trained on all of its rows.

    anchor [C, P] and strength [C]: of a proximal term strength_i/2 · ‖w_i − anchor_i‖².
    """
    jobs = plan(task, rows, all_rows(rows))
    place = jobs.client.to(models.device)
    penalty = None if anchor is None or strength is None else training.proximal(strength[place], anchor[place])
    trained = training.fit(
        expert_loss(task), models[place], jobs, rows, settings=task.training, lr=task.lr, key=key, penalty=penalty
    )
    return models.index_copy(0, place, trained)


def scale_step(task: Task) -> Step:
    """Federated sums of the features, into the server's leaves "mean" and "std" [D]; pictures have one deviation."""

    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        sums = feature_sums(rows.x)
        return states, Message(sums, up=rows.n_clients * tree.n_bytes(sums))

    def take(server: Tree, sums: Tree, round: int) -> Tree:
        mean, std = standardisation(sums, common_scale=task.schema.kind == "image")
        return server | {"mean": mean.float(), "std": std.float()}

    return Step("features", client, take)


def plan(task: Task, rows: Rows, weights: Tensor) -> training.Jobs:
    """The jobs of one round under the task's training settings."""
    settings = task.training
    return training.plan_jobs(
        weights, rows.owner, epochs=settings.epochs, batch_size=settings.batch_size, max_steps=settings.max_steps
    )


def need_labels(task: Task, method: str) -> None:
    """Refuse a task without labels, for a method that has nothing but an expert."""
    if not task.schema.n_classes:
        raise ConfigError(
            f"{method} trains a classifier, and these rows have no labels",
            where="method.name",
            fix='name the labels with data.label_column, or use method.name = "fedgmi"',
        )


def expert_loss(task: Task) -> training.Loss:
    """Cross-entropy of the expert, in nats."""

    def loss(params: Tensor, batch: training.Batch) -> Tensor:
        assert batch.y is not None
        return task.expert.loss(params, batch.x, batch.y)

    return loss


def all_rows(rows: Rows) -> Tensor:
    """Weight 1 for every row and the one component of a method without any. [R, 1]"""
    return torch.ones(len(rows), 1, dtype=torch.float64, device=rows.x.device)


def random_starts(task: Task, n_models: int, first: int = 0) -> Tensor:
    """Experts at different random starts [n_models, P]: the task's draws from number `first` on."""
    return torch.stack([task.expert.init(generator(task.seed, "expert", first + k)) for k in range(n_models)])


def row_losses(task: Task, models: Tensor, rows: Rows) -> Tensor:
    """Cross-entropy −log p_k(y | x) of every labelled row under models [K, P], in nats. [R, K]"""
    assert rows.y is not None
    labels = rows.y[:, None, None].expand(-1, len(models), 1)
    return -task.expert.log_prob(models, rows.x).gather(2, labels).squeeze(2)


def own_log_prob(task: Task, models: Tensor, rows: Rows) -> Tensor:
    """log p(y | x) [R, L] of every row by the model of the client that holds it, models [C, P]."""
    by_client = torch.split(rows.x, rows.counts.tolist())
    parts = [task.expert.log_prob(model[None], x)[:, 0] for model, x in zip(models, by_client, strict=True)]
    return torch.cat(parts)
