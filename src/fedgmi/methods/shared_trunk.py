"""Models that have all layers but the last in common: one trunk [1, T] for all, and K heads [K, P − T].

Models in a server's state are whole, [K, P], with one trunk. In messages the trunk goes once. Its mean is by rows, so
that all that anybody holds shapes it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.errors import ConfigError
from fedgmi.methods.contract import Task
from fedgmi.methods.local_training import all_rows, by_rows, exact, held_by_all, plan, random_starts, train_chunks
from fedgmi.methods.summing import Totals, by_mass, counted, over_clients
from fedgmi.models import training
from fedgmi.models.clipped import clipped
from fedgmi.protocol.message import Message, Models
from fedgmi.protocol.step import ClientStep, Step
from fedgmi.settings.base import MethodSettings
from fedgmi.tree import Tree


class TrunkSettings(MethodSettings):
    """What methods with several models of one form have in common.

    Attributes:
        shared_trunk: Whether the models have all layers but the last in common. Their mean is then over all clients.
    """

    shared_trunk: bool = False


def need_trunk(task: Task, what: str, where: str = "expert.shared") -> int:
    """The number of parameters of the trunk.

    Args:
        task: Its expert.
        what: What needs it, as a sentence's first half.
        where: The setting that asks for it.

    Returns:
        T.

    Raises:
        ConfigError: The expert has no trunk.
    """
    if not task.expert.trunk:
        raise ConfigError(
            f"{what}, and the expert {task.expert.name} has no such trunk",
            where=where,
            fix='set expert.shared to "trunk"; of modules of your own nn.Sequential has one',
        )
    return task.expert.trunk


def starts(task: Task, n_models: int, shared: bool, name: str) -> Tensor:
    """Random starts of K models, with one trunk where they are to share it.

    Args:
        task: Its expert is the form of the models.
        n_models: K.
        shared: Whether they share it.
        name: The method's.

    Returns:
        [K, P]

    Raises:
        ConfigError: They are to share a trunk, and the expert has none.
    """
    drawn = random_starts(task, n_models)
    if not shared:
        return drawn
    need_trunk(task, f"{name} is to share all layers but the last", "method.shared_trunk")
    return one_trunk(task, drawn)


def one_trunk(task: Task, models: Tensor) -> Tensor:
    """Models with the trunk of the first.

    Args:
        task: Its expert has a trunk.
        models: [K, P]

    Returns:
        [K, P]
    """
    trunk = task.expert.trunk
    return torch.cat([models[:1, :trunk].expand(len(models), -1), models[:, trunk:]], 1)


def parts_of(task: Task, models: Tensor, of: str = "") -> Tree:
    """Trunk and heads by the names under which messages have them.

    Args:
        task: Its expert has a trunk.
        models: With one trunk. [K, P]
        of: Before the names, where there are several such.

    Returns:
        `trunk` [1, T] and `head` [K, P − T].
    """
    trunk = task.expert.trunk
    return {f"{of}trunk": models[:1, :trunk], f"{of}head": models[:, trunk:]}


def whole(task: Task, models: Tensor, message: Message, of: str = "") -> Tensor:
    """The new models from the sums of trunks and heads in a message.

    Args:
        task: Its expert has a trunk.
        models: As they stood. [K, P]
        message: With the models `trunk` and `head`.
        of: Before these names.

    Returns:
        [K, P]
    """
    trunk, head = (message.models[name].mean(old) for name, old in parts_of(task, models, of).items())
    return torch.cat([trunk.expand(len(models), -1), head], 1)


def parts_step(task: Task, client: ClientStep, tells: str) -> Step:
    """A round in which clients send trunks and heads, and the server averages them.

    Args:
        task: Its expert has a trunk.
        client: Its client part. It reads the leaf `expert`, sends the models `trunk` and `head`, and heeds
            `Rows.apart`.
        tells: What a message tells of a client's rows.

    Returns:
        The step.
    """

    def average(server: Tree, message: Message, round: int) -> Tree:
        return server | {"expert": whole(task, server["expert"], message)}

    def models(server: Tree) -> Tree:
        return parts_of(task, server["expert"])

    return Step(
        "train",
        client,
        average,
        reads=("expert",),
        writes=("expert",),
        models=models,
        apart=True,
        tells=tells,
    )


def parts_of_own(
    task: Task, rows: Rows, models: Tensor, mass: Tensor, *, of: str = "", alike: bool = False
) -> dict[str, Models]:
    """Sums of clients' own models: trunks by rows, heads by how much of each component a client has.

    Args:
        task: Its expert has a trunk.
        rows: Of C clients.
        models: One for each. [C, P]
        mass: [C, K], float64
        of: Before the names.
        alike: Whether every client's trunk counts once, and not by its rows.

    Returns:
        The models `trunk` and `head` of a message.
    """
    own, top = models[:, : task.expert.trunk], models[:, task.expert.trunk :]
    if alike:
        trunk = held_by_all(rows, over_clients(rows, own[:, None]), over_clients(rows, mass.new_ones(len(mass), 1)))
    else:
        trunk = by_rows(rows, own)
    return {f"{of}trunk": trunk, f"{of}head": by_mass(rows, top, mass)}


def train_heads(
    task: Task,
    experts: Tensor,
    rows: Rows,
    weights: Tensor,
    key: tuple[int | str, ...],
    *,
    mass: Tensor,
    mu: float = 0.0,
) -> dict[str, Models]:
    """One job a client: trunk and K heads at once, by Σ_x Σ_k w_k(x)·CE_k(x, y) over all of its rows.

    Args:
        task: Its expert has a trunk.
        experts: Where they begin, with one trunk. [K, P]
        rows: Of C clients.
        weights: w, of each row for each head. [R, K]
        key: Of the draws: (seed, round, purpose).
        mass: By which heads are averaged. [C, K], float64
        mu: Of a proximal term μ/2·‖θ − θ_start‖² over trunk and heads.

    Returns:
        The models `trunk` and `head` of a message.
    """
    trunk, n_experts, experts = task.expert.trunk, len(experts), exact(task, experts)
    start = torch.cat([experts[0, :trunk], experts[:, trunk:].flatten()])[None]  # [1, T + K·H]
    jobs = plan(task, rows, all_rows(rows))
    place = jobs.client.to(experts.device)
    shares, expert = weights.to(rows.x.dtype), task.expert

    def loss(params: Tensor, batch: training.Batch) -> Tensor:
        assert batch.y is not None
        outputs = expert.heads(params, batch.x)  # [J, B, K, L]
        share = shares[batch.row].transpose(1, 2)  # [J, K, B]
        y = of_each_head(batch.y, outputs.shape[2])
        return expert.head.weighted_loss(outputs.transpose(1, 2), y, share).sum(1)

    def gradient(params: Tensor, batch: training.Batch, out: Tensor) -> None:
        assert batch.y is not None
        assert expert.gradient is not None
        expert.gradient(params, batch.x, batch.y, shares[batch.row], out)

    name = f"expert {expert.name}"
    objective = training.Objective(loss, gradient if expert.gradient else None, expert.by_job, name)
    objective = objective if task.clip_rows is None else clipped(objective, task.clip_rows)
    at = torch.zeros_like(place)
    pull = training.Pull(mu, start, at) if mu else None
    trunks, tops = Totals(rows, experts[:1, :trunk]), Totals(rows, experts[:, trunk:])
    for done, local in train_chunks(task, objective, start, jobs, rows, key, at, pull=pull):
        heads = local[:, trunk:].reshape(len(local), n_experts, -1)  # [J', K, H]
        client = place[done]
        trunks.add_all(client, rows.counts[client, None].to(local.dtype), local[:, None, :trunk])
        tops.add_all(client, mass[client].to(local.dtype), heads)
    return {
        "trunk": held_by_all(rows, trunks.total, counted(rows)),
        "head": Models(tops.total, over_clients(rows, mass), (mass != 0).cpu()),
    }


def of_each_head(y: Tensor, n_heads: int) -> Tensor:
    """The labels once for each head. [J, B, …] → [J, K, B, …]"""
    return y[:, None].expand(-1, n_heads, *y.shape[1:])
