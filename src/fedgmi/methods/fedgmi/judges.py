"""Judges in closed form as steps: sums go up, and each client is judged by what the others' sums say.

Before the first round the E-step and the judges take turns. A turn asks for the sums under the responsibilities as they
are, then calibrates, as in `calibration`. Nothing is trained meanwhile, and afterwards no judge changes any more.

Where rows have no labels the codebook's cells take their place: one Gaussian a component is too plain for pictures.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fedgmi.data.rows import Rows, Schema
from fedgmi.methods.contract import Task
from fedgmi.methods.fedgmi.settings import FedGMISettings
from fedgmi.methods.fedgmi.state import Judging, Sketch
from fedgmi.mixture import target_bins
from fedgmi.mixture.codebook import projector
from fedgmi.mixture.judges import Judges, by_others, moment_sums, n_sums
from fedgmi.mixture.posterior import Posterior
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import Step
from fedgmi.tree import Tree

MOST_SUMS = 40_000
"""Numbers that a client sends in a turn, at most: many components and labels are judged in fewer dimensions."""


def n_labels(task: Task[FedGMISettings]) -> int:
    """L: labels, or bins of what is no class, or cells of the codebook."""
    return target_bins.n_values(task.schema) if task.schema.labelled else task.settings.codewords


def dimension(task: Task[FedGMISettings]) -> int:
    """d, in how many projected dimensions rows are judged."""
    cells = task.n_components * n_labels(task)
    dim = min(task.settings.projection, task.schema.n_features)
    while dim > 1 and cells * n_sums(dim) > MOST_SUMS:
        dim -= 1
    return dim


def no_sums(task: Task[FedGMISettings]) -> Tree:
    """The leaves before anybody was asked. Of such sums all components are alike."""
    shape = (task.n_components, n_labels(task), n_sums(dimension(task)))
    return Judging.leaves(sums=torch.zeros(shape, dtype=torch.float64), turn=torch.tensor(0))


def label_values(schema: Schema, server: Tree, rows: Rows) -> Tensor | None:
    """Each row's label, or the bin of what is no class; None without labels. [R]"""
    if rows.y is None or not target_bins.binned(schema):
        return rows.y
    return target_bins.values(schema, rows.y, Sketch(server).edges)


def judge_points(task: Task[FedGMISettings], server: Tree, rows: Rows) -> Tensor:
    """Where rows are judged: the codebook's projection, or one to fewer dimensions. [R, d]"""
    if "judge points" not in rows.cache:
        sketch = Sketch(server)
        rows.cache["judge points"] = projector(sketch.mean, sketch.std, dimension(task), task.seed)(rows.x)
    return rows.cache["judge points"]


def own_sums(server: Tree, states: Tree) -> Tensor | None:
    """What the clients put into the sums; nothing where one was not among those that answered in the last turn."""
    if "own_judges" not in states:
        return None
    there = states["judged_in"] == Judging(server).turn
    return states["own_judges"] * there[:, None, None, None]


def by_label(
    task: Task[FedGMISettings], server: Tree, states: Tree, rows: Rows, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """log p_k(z | y) and log p_k(y) of each row's label [R], from the rows of all other clients. [R, K]"""
    points = judge_points(task, server, rows)

    def ask(judges: Judges, at: slice) -> Tensor:
        return torch.stack([judges.log_prob_given(points[at], labels[at]), judges.log_label[:, labels[at]].T], 1)

    found = by_others(Judging(server).sums, own_sums(server, states), rows, ask)
    return found[:, 0], found[:, 1]


def by_features(task: Task[FedGMISettings], server: Tree, states: Tree, rows: Rows) -> Tensor:
    """log p_k(z), whatever the label, from the rows of all other clients. [R, K]"""
    points = judge_points(task, server, rows)
    own = own_sums(server, states)
    return by_others(Judging(server).sums, own, rows, lambda judges, at: judges.log_prob(points[at]))


def judges_step(
    task: Task[FedGMISettings],
    rule: Callable[[Tree, Tree, Rows], Posterior],
    labels: Callable[[Tree, Rows], Tensor],
) -> Step:
    """Sums of every component and label under the responsibilities as they are.

    Args:
        task: Its settings.
        rule: Whose responsibilities.
        labels: (server, rows) → the label of each row, or what takes its place. [R]

    Returns:
        The step.
    """

    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        resp, turn = rule(server, states, rows).responsibilities, Judging(server).turn + 1
        own = moment_sums(judge_points(task, server, rows), resp, labels(server, rows), n_labels(task), rows)
        kept = {"own_judges": own, "judged_in": turn.expand(rows.n_clients).clone()}
        return states | kept, Message(sums={"judges": own.sum(0)})

    def take(server: Tree, message: Message, round: int) -> Tree:
        return server | Judging.leaves(sums=message.sums["judges"], turn=Judging(server).turn + 1)

    return Step("judges", client, take, writes=Judging.names())
