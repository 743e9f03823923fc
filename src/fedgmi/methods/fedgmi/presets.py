"""The presets: where evidence and responsibilities come from, and the steps that the schedule asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.methods.contract import Task
from fedgmi.methods.fedgmi import rows_private, schedule
from fedgmi.methods.fedgmi.calibration import calibration_steps
from fedgmi.methods.fedgmi.em import e_step_alone, em_step
from fedgmi.methods.fedgmi.evidence import (
    Evidence,
    Rule,
    elbo,
    judged_labels,
    labelled_evidence,
    row_words,
    word_evidence,
)
from fedgmi.methods.fedgmi.gate import cells_step, gate_steps, switch_step, unlabelled_evidence
from fedgmi.methods.fedgmi.judges import judges_step
from fedgmi.methods.fedgmi.newcomers import contrast_step
from fedgmi.methods.fedgmi.schedule import EM, Schedule
from fedgmi.methods.fedgmi.settings import FedGMISettings
from fedgmi.methods.fedgmi.sketch import codebook_steps, topic_steps
from fedgmi.methods.fedgmi.state import Calibration, Components, Sketch
from fedgmi.mixture.posterior import Posterior, e_step, responsibilities
from fedgmi.protocol.step import Step
from fedgmi.tree import Tree


def own_proportions(states: Tree) -> Tensor:
    """The clients' proportions. [C, K]"""
    return states["proportions"]


@dataclass(frozen=True)
class Preset:
    """What distinguishes one preset from another.

    Attributes:
        schedule: Its exchanges.
        labelled: log p_k(row)/P(row) with the label seen.
        unlabelled: The same from x alone: the predictor's gate.
        posterior: What the method itself believes of labelled rows.
        training: Whose responsibilities the M-step and the gate's cells use.
        shared_rounds: The first rounds, in which the experts are one model.
        shared_trunk: Whether they have their lower layers in common for good, where `expert.shared` says so.
        reference_rounds: The rounds after which the reference models stay; None: they always follow.
        proportions: (states) → the proportions that the predictor uses. [C, K]
        more: Steps by name that no other preset has, or that it has in another way.
        first: () → leaves of the server's first state that no other preset has.
    """

    schedule: Schedule
    labelled: Evidence
    unlabelled: Evidence
    posterior: Rule
    training: Rule
    shared_rounds: int = 0
    shared_trunk: bool = False
    reference_rounds: int | None = None
    proportions: Callable[[Tree], Tensor] = own_proportions
    more: Mapping[str, Step] = field(default_factory=dict)
    first: Callable[[], Tree] = dict


def default(task: Task[FedGMISettings]) -> Preset:
    """Sketch first; then every round calibrates the evidence, infers proportions, and trains."""

    def labelled(server: Tree, states: Tree, rows: Rows) -> Tensor:
        return labelled_evidence(task, server, states, rows)

    def posterior(server: Tree, states: Tree, rows: Rows) -> Posterior:
        return e_step(labelled(server, states, rows), rows, states["proportions"], Calibration(server).share)

    return Preset(
        schedule=schedule.default(task.settings, task.schema.labelled),
        labelled=labelled,
        unlabelled=lambda server, states, rows: unlabelled_evidence(task, server, states, rows),
        posterior=posterior,
        training=posterior,
        shared_rounds=task.settings.warm_up,
        shared_trunk=True,
        reference_rounds=task.settings.reference_rounds,
    )


def plain(task: Task[FedGMISettings]) -> Preset:
    """Random start, the ELBO alone as evidence: the abstract's recipe."""

    def evidence(server: Tree, states: Tree, rows: Rows) -> Tensor:
        return elbo(task, Components(server).density, rows)

    def posterior(server: Tree, states: Tree, rows: Rows) -> Posterior:
        return e_step(evidence(server, states, rows), rows, states["proportions"])

    return Preset(schedule.plain(), evidence, evidence, posterior, posterior)


def sketch(task: Task[FedGMISettings]) -> Preset:
    """Proportions and word posteriors from the sketch, held fixed."""

    def labelled(server: Tree, states: Tree, rows: Rows) -> Tensor:
        return word_evidence(Sketch(server).topics, states.get("own_words"), row_words(task, server, rows), rows)

    def posterior(server: Tree, states: Tree, rows: Rows) -> Posterior:
        resp, likelihood = responsibilities(labelled(server, states, rows), states["proportions"], rows.client_index)
        return Posterior(states["proportions"], resp, likelihood)

    return replace(
        default(task),
        schedule=schedule.sketch(task.settings),
        labelled=labelled,
        posterior=posterior,
        training=posterior,
        reference_rounds=None,
    )


def private(task: Task[FedGMISettings]) -> Preset:
    """The sketch in messages that a single row changes little (`[privacy]` with rows as the unit)."""

    def labelled(server: Tree, states: Tree, rows: Rows) -> Tensor:
        return rows_private.labelled(task, server, rows)

    def posterior(server: Tree, states: Tree, rows: Rows) -> Posterior:
        resp, likelihood = responsibilities(labelled(server, states, rows), states["proportions"], rows.client_index)
        return Posterior(states["proportions"], resp, likelihood)

    return Preset(
        schedule=rows_private.layout(task.settings),
        labelled=labelled,
        unlabelled=lambda server, states, rows: rows_private.unlabelled(task, server, rows),
        posterior=posterior,
        training=posterior,
        shared_rounds=task.settings.warm_up,
        more=rows_private.private_steps(task, posterior),
        first=lambda: rows_private.first_scale(task),
    )


def one_component(task: Task[FedGMISettings]) -> Preset:
    """K = 1: nothing tells a component from others, so nothing is asked for but models."""

    def evidence(server: Tree, states: Tree, rows: Rows) -> Tensor:
        return torch.zeros(len(rows), 1, dtype=torch.float64, device=rows.x.device)

    def posterior(server: Tree, states: Tree, rows: Rows) -> Posterior:
        return e_step(evidence(server, states, rows), rows, states["proportions"])

    rounds = task.settings.reference_rounds
    return Preset(Schedule(round=(EM,)), evidence, evidence, posterior, posterior, reference_rounds=rounds)


PRESETS = {"default": default, "plain": plain, "sketch": sketch}


def by_rows(task: Task[FedGMISettings]) -> bool:
    """Whether a single row is what `[privacy]` hides, and there are components to find."""
    return task.clip_rows is not None and task.n_components > 1


def preset_of(task: Task[FedGMISettings]) -> Preset:
    """That of the settings."""
    if task.n_components == 1 and task.settings.preset == "default":
        return one_component(task)
    if by_rows(task):
        return private(task)
    return PRESETS[task.settings.preset](task)


def steps_of(task: Task[FedGMISettings], preset: Preset) -> dict[str, Step]:
    """All steps that a schedule may ask for, by name.

    Args:
        task: Its models and settings.
        preset: Whose evidence and rules they use.

    Returns:
        The steps. What they read, what they tell and when they apply is the schedule's to say; see `lay_out`.
    """
    em = em_step(
        task,
        preset.training,
        shared_rounds=preset.shared_rounds,
        shared_trunk=preset.shared_trunk,
        reference_rounds=preset.reference_rounds,
    )
    alone = (
        em,
        e_step_alone(preset.posterior),
        judges_step(task, preset.training, partial(judged_labels, task), partial(row_words, task)),
        cells_step(task, preset.training),
        contrast_step(preset.labelled, preset.unlabelled),
        switch_step(task, preset.unlabelled, preset.proportions),
    )
    return {
        **codebook_steps(task),
        **topic_steps(task),
        **calibration_steps(task, preset.posterior),
        **gate_steps(task, preset.proportions),
        **{step.name: step for step in alone},
        **preset.more,
    }
