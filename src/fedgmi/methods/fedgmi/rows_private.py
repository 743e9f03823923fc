"""Components under `[privacy]` with rows as the unit: each message changes by a known length at most if one row were
another.

    spread, k-means   sums in a ball (`mixture.bounded`), by √4.5 and by 2
    histograms        two counts by 1 each: geometric noise of ε on every count, and so ε twice
    em                n_i·(θ_i − θ) of trunk and heads together, by 2·lr·clip (below)

All else is made of these, so it costs nothing: topics, each client's proportions, the predictor's cells. Nothing is
asked at the end. The scale is not made of rows: a picture's numbers have middle ½ and deviation 1/√12, and a table's
are on the scale that all have agreed on.

The bound of an EM round. A client takes one plain step on all of its rows, with the gradient

    g_x = min(1, clip/‖∇_x‖) · ∇_x        ∇_x = gradient of Σ_k r_k(x)·CE_k(x, y) in the trunk and all K heads

n_i·(θ_i − θ) is then −lr·Σ_x g_x. r(x) is made of π_i, of topics and of the row's own word: no other row's g has a part
in it, once π_i, topics and models are given. A row in another's place so changes the sum by lr·‖g_x − g_x'‖ at most.
Masses of components would tell of rows. In their place stand n_i·π_i, π_i of released counts.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.data.standardise import UNIFORM
from fedgmi.errors import ConfigError
from fedgmi.methods.contract import Task
from fedgmi.methods.fedgmi import schedule
from fedgmi.methods.fedgmi.conditions import warming_up
from fedgmi.methods.fedgmi.evidence import Rule, row_words, word_evidence
from fedgmi.methods.fedgmi.experts import average_experts, expert_models, train_experts
from fedgmi.methods.fedgmi.newcomers import FEWEST_CLIENTS
from fedgmi.methods.fedgmi.points import projected, row_cells
from fedgmi.methods.fedgmi.schedule import Row, Schedule
from fedgmi.methods.fedgmi.settings import FedGMISettings
from fedgmi.methods.fedgmi.sketch import topic_steps
from fedgmi.methods.fedgmi.state import CONTRAST, Components, Gate, Sketch, uncalibrated
from fedgmi.methods.local_training import all_rows
from fedgmi.methods.shared_trunk import need_trunk, train_heads
from fedgmi.methods.summing import over_clients
from fedgmi.mixture import bounded
from fedgmi.mixture.information import contrasts
from fedgmi.mixture.topics import word_log_probs
from fedgmi.protocol.message import Message, Models
from fedgmi.protocol.step import Step
from fedgmi.tree import Tree

SPREAD = replace(schedule.SPREAD, up="sums of its projected features and their products, each row's within a ball")
K_MEANS = replace(schedule.K_MEANS, up="sums and counts of its rows in each codebook cell, each row's within a ball")
EM = Row("em", "rows_private", Components.names("expert", "version"), "one step of the shared experts on all its rows")


def check(task: Task[FedGMISettings]) -> None:
    """Refuse a task of which not all that is told has a bound.

    Args:
        task: With `clip_rows`.

    Raises:
        ConfigError: It names the setting.
    """
    own = task.settings
    if own.preset != "sketch" or own.epsilon is None:
        what = "judges and densities" if own.preset != "sketch" else "counts of words without noise"
        raise ConfigError(
            f"a single row has no bound in {what}",
            where="method.preset" if own.preset != "sketch" else "method.epsilon",
            fix='set method.preset = "sketch", and method.epsilon to a fifth of privacy.epsilon',
        )
    if task.schema.n_classes == 0:
        what = "with rows as the unit and several components labels have to be classes"
        raise ConfigError(what, where="privacy.unit", fix="set method.n_components = 1, or leave [privacy] out")
    need_trunk(task, "with rows as the unit a row's gradient goes through all experts at once")


def layout(own: FedGMISettings) -> Schedule:
    """The exchanges: as the sketch's, without sums of features, densities, and the end.

    Args:
        own: The settings.

    Returns:
        The schedule.
    """
    return Schedule(
        prepare=(SPREAD, *(K_MEANS,) * own.kmeans_rounds, schedule.HISTOGRAMS, schedule.FOLD_IN),
        round=(replace(EM, e_step=True),),
        evidence=schedule.WORDS,
        gate=(*schedule.CODEBOOK, *Gate.names("cells", "share")),
    )


def first_scale(task: Task[FedGMISettings]) -> Tree:
    """The codebook's scale, of which all know beforehand. [D] each"""
    ones = torch.ones(task.schema.n_features)
    if task.schema.kind == "image":
        return Sketch.leaves(mean=ones / 2, std=ones / UNIFORM)
    return Sketch.leaves(mean=0 * ones, std=ones)


def labelled(task: Task[FedGMISettings], server: Tree, rows: Rows) -> Tensor:
    """log p(word | k) of each row, by all that was released. [R, K], nats"""
    return word_evidence(Sketch(server).topics, None, row_words(task, server, rows), rows)


def unlabelled(task: Task[FedGMISettings], server: Tree, rows: Rows) -> Tensor:
    """log p(cell | k) of each row. [R, K], nats"""
    return word_evidence(Gate(server).cells, None, row_cells(task, server, rows), rows).double()


def private_steps(task: Task[FedGMISettings], rule: Rule) -> dict[str, Step]:
    """The exchanges that are made in another way, by name.

    Args:
        task: Its models and settings.
        rule: Whose responsibilities.

    Returns:
        The steps.
    """

    def send_spread(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        return states, Message(sums=bounded.spread_sums(projected(task, server, rows)))

    def take_spread(server: Tree, message: Message, round: int) -> Tree:
        centres = bounded.drawn_centres(message.sums, task.settings.codewords, task.seed)
        return server | Sketch.leaves(centres=centres)

    def send_cells(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        return states, Message(sums=bounded.cell_sums(projected(task, server, rows), Sketch(server).centres))

    def take_cells(server: Tree, message: Message, round: int) -> Tree:
        return server | Sketch.leaves(centres=bounded.moved_centres(Sketch(server).centres, message.sums))

    def take_histograms(server: Tree, message: Message, round: int) -> Tree:
        server = counted.server(server, message, round)
        return server | _gate(server, task.schema.n_classes)

    counted, [centres] = topic_steps(task)["histograms"], Sketch.names("centres")
    made = (*counted.writes, *Gate.names("cells", "share", "bias", "contrast"), CONTRAST)
    steps = (
        Step("spread", send_spread, take_spread, writes=(centres,), kind="sketch", row_change=bounded.SPREAD_CHANGE),
        Step("k-means", send_cells, take_cells, writes=(centres,), kind="sketch", row_change=bounded.CELL_CHANGE),
        replace(counted, server=take_histograms, writes=made, row_change=0.0),
        em_step(task, rule),
    )
    return {step.name: step for step in steps}


def em_step(task: Task[FedGMISettings], rule: Rule) -> Step:
    """One plain step of the experts on all rows, each row's gradient through all of them cut to a length.

    Args:
        task: Its models and settings; `clip_rows` is the length.
        rule: Whose responsibilities. They must not hang on other rows than through what was released.

    Returns:
        The step.
    """

    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        now = Components(server)
        if warming_up(task.settings.warm_up, server):
            return states, Message(train_experts(task, now.expert[:1], rows, all_rows(rows), round, shared_trunk=True))
        resp, n = rule(server, states, rows).responsibilities, rows.counts.double()[:, None]
        key, n_each = (task.seed, round, "expert"), n.expand(-1, task.n_components)
        found = train_heads(task, now.expert, rows, resp, key, mass=n_each)
        return states, Message(found | {"head": _by_proportions(task, now.expert, found["head"], rows, states)})

    def take(server: Tree, message: Message, round: int) -> Tree:
        now = Components(server)
        expert = average_experts(task, now.expert, message)
        return server | Components.leaves(expert=expert, version=now.version + 1)

    def models(server: Tree) -> Tree:
        return expert_models(task, Components(server).expert)

    return Step("em", client, take, writes=Components.names("expert", "version"), models=models, apart=True)


def _by_proportions(task: Task[FedGMISettings], experts: Tensor, heads: Models, rows: Rows, states: Tree) -> Models:
    """Heads with n_i·π_i for masses, and n_i·(θ_i − θ) as it was: n_i·θ_i + (n_i·π_i − n_i)·θ."""
    n = rows.counts.double()[:, None]
    mass = n * states["proportions"].double()
    start = experts[:, task.expert.trunk :]
    shift = over_clients(rows, mass - n)[..., None].to(start.dtype) * start
    return Models(heads.total + shift, over_clients(rows, mass), heads.holders)


def _gate(server: Tree, n_values: int) -> Tree:
    """What the predictor knows of cells, of released counts alone: each word's rows by their responsibilities."""
    sketch = Sketch(server)
    released = sketch.histograms.double().sum(0).clamp(min=0.0)
    share = sketch.topics.sum(0) / sketch.topics.sum()
    resp = (word_log_probs(sketch.topics) + share.clamp(min=1e-6).log()).softmax(1)[sketch.word_map]
    by_word = released[:, None] * resp
    by_cell = by_word.reshape(-1, n_values, len(share)).sum(1)
    of_cell = by_cell / by_cell.sum(1, keepdim=True).clamp(min=1e-12)
    labelled, bare = contrasts(resp.T @ by_word), contrasts(of_cell.T @ by_cell)
    least = torch.stack([labelled[0], bare[0]]) * (len(sketch.histograms) >= FEWEST_CLIENTS)
    gate = Gate.leaves(cells=by_cell, contrast=bare[-1])
    return gate | uncalibrated(Gate, by_cell.sum(0) / by_cell.sum().clamp(min=1e-12)) | {CONTRAST: least}
