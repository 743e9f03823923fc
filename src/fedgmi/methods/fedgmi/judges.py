"""Judges in closed form as steps: sums go up, and each client is judged by what the others' sums say.

Before the first round the E-step and the judges take turns. A turn asks for the sums under the responsibilities as they
are, then calibrates, as in `calibration`. Nothing is trained meanwhile, and no judge changes in the rounds. At the end
there is one turn more where more rows are there than in the last: clients came late, and everybody is asked.

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
from fedgmi.methods.plausible import projected_range, range_of, wrong_counts, wrong_moments, wrong_scatter
from fedgmi.mixture import target_bins
from fedgmi.mixture.codebook import projector
from fedgmi.mixture.judges import Judges, by_others, moment_sums, moved, n_sums, unpacked
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
    still = torch.zeros((), dtype=torch.float64)
    return Judging.leaves(sums=torch.zeros(shape), turn=torch.tensor(0), moved=still, late=torch.tensor(False))


def label_values(schema: Schema, server: Tree, rows: Rows) -> Tensor | None:
    """Each row's label, or the bin of what is no class; None without labels. [R]"""
    if rows.y is None or not target_bins.binned(schema):
        return rows.y
    return target_bins.values(schema, rows.y, Sketch(server).edges)


def judge_points(task: Task[FedGMISettings], server: Tree, rows: Rows) -> Tensor:
    """Where rows are judged: the codebook's projection, or one to fewer dimensions. [R, d]"""
    sketch = Sketch(server)

    def make() -> Tensor:
        return projector(sketch.mean, sketch.std, dimension(task), task.seed)(rows.x)

    return rows.once("judge points", (sketch.mean, sketch.std), make)


def own_sums(server: Tree, states: Tree) -> Tensor | None:
    """What the clients put into the sums; nothing where one was not among those that answered in the last turn."""
    if "own_judges" not in states:
        return None
    there = states["judged_in"] == Judging(server).turn
    return states["own_judges"] * there[:, None, None, None]


def own_words(server: Tree, states: Tree) -> Tensor | None:
    """What the clients put into the topics; None for clients that had no part in them. [C, W, K]"""
    own = states.get("own_words")
    if own is None or "words_in" not in states:  # the latter: they are the sketch's topics still
        return own
    return own * (states["words_in"] == Judging(server).turn)[:, None, None]


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


def word_counts(words: Tensor, resp: Tensor, n_words: int, rows: Rows) -> Tensor:
    """How many rows of each component each client has in each word. [C, W, K], float64"""
    flat = rows.client_index * n_words + words
    counts = resp.new_zeros((rows.n_clients * n_words, resp.shape[1]), dtype=torch.float64)
    return counts.index_add_(0, flat, resp.double()).reshape(rows.n_clients, n_words, -1)


def judges_step(
    task: Task[FedGMISettings],
    rule: Callable[[Tree, Tree, Rows], Posterior],
    labels: Callable[[Tree, Rows], Tensor],
    words: Callable[[Tree, Rows], Tensor] | None = None,
) -> Step:
    """Sums of every component and label under the responsibilities as they are, and rows of every component and word.

    So words follow the judges. The sketch's topics know of words alone, and calibration would find them wrong, or
    right for the proportions that they have made. Where histograms have noise no exact counts are sent, and the
    sketch's topics stay.

    Args:
        task: Its settings.
        rule: Whose responsibilities.
        labels: (server, rows) → the label of each row, or what takes its place. [R]
        words: (server, rows) → the word of each row; None: topics stay. [R]

    Returns:
        The step.
    """

    if task.settings.epsilon is not None:
        words = None

    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        resp, turn = rule(server, states, rows).responsibilities, Judging(server).turn + 1
        exact = moment_sums(judge_points(task, server, rows), resp, labels(server, rows), n_labels(task), rows)
        own = exact.float()  # half the bytes: the prior's hundreds of rows make up for the last digits
        kept = {"own_judges": own, "judged_in": turn.expand(rows.n_clients).clone()}
        sums = {"judges": own.sum(0)}
        if words is not None:
            counts = word_counts(words(server, rows), resp, len(Sketch(server).topics), rows)
            kept |= {"own_words": counts, "words_in": kept["judged_in"]}
            sums |= {"topics": counts.sum(0)}
        return states | kept, Message(sums=sums)

    def take(server: Tree, message: Message, round: int) -> Tree:
        topics = Sketch.leaves(topics=message.sums["topics"]) if words is not None else {}
        before, sums = Judging(server), message.sums["judges"]
        far = moved(before.sums, sums)
        late = torch.tensor(round > 0, device=sums.device)
        return server | topics | Judging.leaves(sums=sums, turn=before.turn + 1, moved=far, late=late)

    def check(server: Tree, message: Message, client: int, rows: int) -> str | None:
        mass, first, second = unpacked(message.sums["judges"].double())
        why = wrong_counts("its rows by component and label", mass, rows, all_rows=True)
        if why is None and "topics" in message.sums:
            why = wrong_counts("its rows by component and word", message.sums["topics"], rows, all_rows=True)
        if why is None:
            what, sketch = "its projected features", Sketch(server)
            towards = projector(sketch.mean, sketch.std, dimension(task), task.seed)
            limits = projected_range(towards.matrix, towards.mean, towards.std, range_of(task.schema))
            squares = second.diagonal(dim1=-2, dim2=-1)
            why = wrong_moments(what, mass.clamp(min=0)[..., None], first, squares, limits)
            why = why or wrong_scatter(what, mass, first, second)
        return why

    made = (*Judging.names(), *(Sketch.names("topics") if words is not None else ()))
    return Step("judges", client, take, writes=made, check=check)
