"""What methods share on the client: train the components that a client holds, and sum them by mass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedgmi import training
from fedgmi.data.federation import Rows
from fedgmi.errors import ConfigError
from fedgmi.methods.base import Task


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
) -> Trained:
    """Train component k of client i from start [K, P] on its rows ∝ weights [R, K]; only pairs with mass."""
    jobs = plan(task, rows, weights)
    component = jobs.component.to(start.device)
    mass_of = jobs.mass.to(start.device)
    local = training.fit(
        loss, start[component], jobs, rows, settings=task.training, lr=task.lr, key=key, noise_size=noise_size
    )
    total = torch.zeros_like(start).index_add_(0, component, local * mass_of[:, None].to(local.dtype))
    mass = torch.zeros(len(start), dtype=torch.float64, device=start.device).index_add_(0, component, mass_of)
    return Trained(total, mass, len(jobs))


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
