"""The presets: where evidence and responsibilities come from, and the steps laid out by the schedule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.methods.contract import Task
from fedgmi.methods.fedgmi import schedule
from fedgmi.methods.fedgmi.calibration import calibration_steps
from fedgmi.methods.fedgmi.em import e_step_alone, em_step
from fedgmi.methods.fedgmi.evidence import LABELLED, Evidence, Rule, elbo, labelled_evidence, row_words, word_evidence
from fedgmi.methods.fedgmi.gate import UNLABELLED, cells_step, gate_steps, unlabelled_evidence
from fedgmi.methods.fedgmi.newcomers import contrast_step
from fedgmi.methods.fedgmi.schedule import Row, lay_out
from fedgmi.methods.fedgmi.settings import FedGMISettings
from fedgmi.methods.fedgmi.sketch import codebook_steps, topic_steps
from fedgmi.methods.fedgmi.state import WORDS, Calibration, Components, Sketch
from fedgmi.mixture.posterior import Posterior, e_step, responsibilities
from fedgmi.protocol.step import Phase, Step
from fedgmi.tree import Tree

PHASES: tuple[Phase, ...] = ("prepare", "round", "finish")


@dataclass(frozen=True)
class Preset:
    """What distinguishes one preset from another.

    Attributes:
        labelled: log p_k(row)/P(row) with the label seen.
        unlabelled: The same from x alone: the predictor's gate.
        posterior: What the method itself believes of labelled rows.
        labelled_reads: What `labelled` and `posterior` need of the server's state.
        unlabelled_reads: What `unlabelled` needs.
        shared_rounds: The first rounds, in which the experts are one model.
        shared_trunk: Whether they have their lower layers in common for good, where `expert.shared` says so.
        reference_rounds: The rounds after which the reference models stay; None: they always follow.
        steps: By phase, in their order.
    """

    labelled: Evidence
    unlabelled: Evidence
    posterior: Rule
    labelled_reads: tuple[str, ...]
    unlabelled_reads: tuple[str, ...]
    shared_rounds: int = 0
    shared_trunk: bool = False
    reference_rounds: int | None = None
    steps: Mapping[Phase, tuple[Step, ...]] = field(default_factory=dict)


def default(task: Task[FedGMISettings]) -> Preset:
    """Sketch first; then every round calibrates the evidence, infers proportions, and trains."""

    def labelled(server: Tree, states: Tree, rows: Rows) -> Tensor:
        return labelled_evidence(task, server, states, rows)

    def posterior(server: Tree, states: Tree, rows: Rows) -> Posterior:
        return e_step(labelled(server, states, rows), rows, states["proportions"], Calibration(server).share)

    preset = Preset(
        labelled=labelled,
        unlabelled=lambda server, states, rows: unlabelled_evidence(task, server, states, rows),
        posterior=posterior,
        labelled_reads=LABELLED,
        unlabelled_reads=UNLABELLED,
        shared_rounds=task.settings.warm_up_rounds,
        shared_trunk=True,
        reference_rounds=task.settings.reference_rounds,
    )
    return laid_out(task, schedule.DEFAULT, preset)


def plain(task: Task[FedGMISettings]) -> Preset:
    """Random start, the ELBO alone as evidence: the abstract's recipe."""

    def evidence(server: Tree, states: Tree, rows: Rows) -> Tensor:
        return elbo(task, Components(server).density, rows)

    def posterior(server: Tree, states: Tree, rows: Rows) -> Posterior:
        return e_step(evidence(server, states, rows), rows, states["proportions"])

    density = Components.names("density")
    return laid_out(task, schedule.PLAIN, Preset(evidence, evidence, posterior, density, density))


def sketch(task: Task[FedGMISettings]) -> Preset:
    """Proportions and word posteriors from the sketch, held fixed."""

    def labelled(server: Tree, states: Tree, rows: Rows) -> Tensor:
        return word_evidence(Sketch(server).topics, states.get("own_words"), row_words(task, server, rows), rows)

    def posterior(server: Tree, states: Tree, rows: Rows) -> Posterior:
        resp, likelihood = responsibilities(labelled(server, states, rows), states["proportions"], rows.owner)
        return Posterior(states["proportions"], resp, likelihood)

    preset = replace(default(task), labelled=labelled, posterior=posterior, labelled_reads=WORDS, reference_rounds=None)
    return laid_out(task, schedule.SKETCH, preset)


def laid_out(
    task: Task[FedGMISettings],
    rows: tuple[Row, ...],
    preset: Preset,
    *,
    training: Rule | None = None,
    training_reads: tuple[str, ...] = (),
    more: Mapping[str, Step] | None = None,
) -> Preset:
    """The preset with the steps that its rows of the schedule name.

    Args:
        task: Its settings.
        rows: Of the schedule.
        preset: Whose evidence and posterior the steps use.
        training: Whose responsibilities the M-step and the gate's cells use; None: the preset's posterior.
        training_reads: What `training` needs of the server's state.
        more: Steps by name that are not everybody's.

    Returns:
        The preset, complete.
    """
    rule, reads = (preset.posterior, preset.labelled_reads) if training is None else (training, training_reads)
    both = (*preset.labelled_reads, *preset.unlabelled_reads)
    em = em_step(
        task,
        rule,
        reads,
        shared_rounds=preset.shared_rounds,
        shared_trunk=preset.shared_trunk,
        reference_rounds=preset.reference_rounds,
    )
    steps = codebook_steps(task) | topic_steps(task) | calibration_steps(task, preset.posterior) | gate_steps(task)
    steps |= {
        "em": em,
        "e-step": e_step_alone(preset.posterior, preset.labelled_reads),
        "cells": cells_step(task, rule, reads),
        "contrast": contrast_step(preset.labelled, preset.unlabelled, both),
        **(more or {}),
    }
    return replace(preset, steps={phase: lay_out(rows, phase, steps, task.settings) for phase in PHASES})


PRESETS = {"default": default, "plain": plain, "sketch": sketch}
