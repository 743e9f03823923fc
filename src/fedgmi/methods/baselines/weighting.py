"""How a model learns from rows that are its own in part: FedEM and FedGMM have both rules.

    "weight"    all rows are passed over, and a step lowers Σ_b q_ik(b)·CE_b / B, as the papers and their code do
    "draw"      rows are drawn with probability ∝ q_ik, for ⌈epochs·Σ_x q_ik / batch⌉ steps, and count alike

For SGD the two agree in expectation. Adam takes steps of one length whatever the gradient's, so that under "weight" a
model moves as far on rows that are hardly its own as on rows that are all its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.methods.contract import Task
from fedgmi.methods.local_training import all_rows, expert_objective, plan, train_chunks, train_components
from fedgmi.methods.shared_trunk import TrunkSettings
from fedgmi.methods.summing import Totals, over_clients
from fedgmi.models import training
from fedgmi.protocol.message import Models
from fedgmi.settings.effects import refuse_without_effect

Key = tuple[int | str, ...]
WEIGHTINGS = {"weighting": ("weight", "draw")}
"""Between which `fedgmi compare --tune` chooses."""


class WeightingSettings(TrunkSettings):
    """What methods that train K models on parts of rows have in common.

    Attributes:
        weighting: Whether all rows count by a model's share of them in its loss ("weight", the papers' rule), or are
            drawn in proportion to it ("draw"). With `shared_trunk` a client trains its models at once, on all rows.
    """

    weighting: Literal["draw", "weight"] = "weight"


def check_weighting(settings: WeightingSettings, rounds: int) -> None:
    """Refuse to draw rows for heads that share a trunk.

    Raises:
        ConfigError: It names the setting.
    """
    if settings.shared_trunk:
        why = "method.shared_trunk has all models of a client trained at once, on all rows"
        refuse_without_effect(settings, "method", ["weighting"], why, fix="set method.shared_trunk = false")


def trained_parts(
    task: Task[WeightingSettings], rows: Rows, resp: Tensor, start: Tensor, key: Key
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Train every model on every client's rows, by the rule that the settings name.

    Args:
        task: Its expert, its training settings, and its learning rate.
        rows: Of C clients.
        resp: How much of each row is each model's. [R, K]
        start: Where the models begin. [K, P]
        key: Of the draws: (seed, round, purpose).

    Yields:
        Clients [J'], models [J'], and these models of these clients [J', P], which are the caller's until the next.
        Under "draw" a pair without mass is left out.
    """
    if task.settings.weighting == "draw":
        jobs = plan(task, rows, resp)
        client, model = jobs.client.to(start.device), jobs.component.to(start.device)
        for place, local in train_chunks(task, expert_objective(task), start, jobs, rows, key, model):
            yield client[place], model[place], local
        return
    share = resp.to(start.dtype)
    for k in range(len(start)):
        jobs = _all_of_one(task, rows, resp, k)
        at = torch.full((len(jobs),), k, device=start.device)
        for client, local in train_chunks(task, expert_objective(task, share[:, k]), start, jobs, rows, key, at):
            yield client, at[client], local


def _all_of_one(task: Task, rows: Rows, resp: Tensor, k: int) -> training.Jobs:
    """A job for each client, in order, on all of its rows; its draws are those of model k."""
    takes = torch.zeros_like(resp)
    takes[:, k : k + 1] = all_rows(rows)
    return plan(task, rows, takes)


def mean_parts(task: Task[WeightingSettings], rows: Rows, resp: Tensor, start: Tensor, key: Key) -> Models:
    """The sum of clients' models by mass.

    Args:
        task: As for `trained_parts`, as are the others.
        rows: Of C clients.
        resp: [R, K]
        start: [K, P]
        key: (seed, round, purpose).

    Returns:
        Σ_i N_ik θ_ik and Σ_i N_ik, N_ik = Σ_x q_ik(x) over client i's rows, and who holds what.
    """
    if task.settings.weighting == "draw":
        return train_components(task, rows, resp, start, expert_objective(task), key)
    mass, total = rows.sum_by_client(resp), Totals(rows, start)  # [C, K]
    for client, model, local in trained_parts(task, rows, resp, start, key):
        total.add(client, model, local.mul_(mass[client, model, None].to(local.dtype)))
    return Models(total.total, over_clients(rows, mass), (mass != 0).cpu())
