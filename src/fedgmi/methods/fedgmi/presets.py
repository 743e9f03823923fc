"""The presets: where evidence and responsibilities come from, and in which phases."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.errors import ConfigError
from fedgmi.methods.contract import Step, Task
from fedgmi.methods.fedgmi import calibration as calibrate
from fedgmi.methods.fedgmi.em import JudgedBy, Rule, refresh_step
from fedgmi.methods.fedgmi.evidence import Evidence, elbo, row_words, word_evidence
from fedgmi.methods.fedgmi.sketch import codebook_steps, topic_steps, true_components, true_topics_step
from fedgmi.mixture.posterior import Posterior, e_step, responsibilities
from fedgmi.tree import Tree


@dataclass(frozen=True)
class Preset:
    """labelled, unlabelled: log p_k(row)/P(row) with the label seen, and from x alone (the predictor's gate)
    · posterior: what the method itself believes of labelled rows · training: whose responsibilities the M-step uses
    · judged_by: what of the server's models the E-step in a round needs · the phases around the EM step."""

    labelled: Evidence
    unlabelled: Evidence
    posterior: Rule
    training: Rule
    shared_rounds: int = 0  # the first rounds, in which the experts are one model
    shared_trunk: bool = False  # whether they have their lower layers in common for good, where `expert.shared` says so
    judged_by: JudgedBy = "words"
    judge_rounds: int | None = None  # the last round after which the judges follow the components
    prepare: tuple[Step, ...] = ()
    before_em: tuple[Step, ...] = ()
    finish: tuple[Step, ...] = ()


def default(task: Task) -> Preset:
    """Sketch first; then every round calibrates the evidence, infers proportions, and trains."""

    def labelled(server: Tree, states: Tree, rows: Rows) -> Tensor:
        return calibrate.labelled_evidence(task, server, states, rows)

    def posterior(server: Tree, states: Tree, rows: Rows) -> Posterior:
        return e_step(labelled(server, states, rows), rows, states["proportions"], server["share"])

    calibration = calibrate.calibration_steps(task, posterior)
    return Preset(
        labelled=labelled,
        unlabelled=lambda server, states, rows: calibrate.unlabelled_evidence(task, server, states, rows),
        posterior=posterior,
        training=posterior,
        shared_rounds=task.settings.warm_up_rounds,
        shared_trunk=True,
        judged_by="judges",
        judge_rounds=task.settings.judge_rounds,
        prepare=(*codebook_steps(task), *topic_steps(task)),
        before_em=calibrate.until_settled(calibration, task.settings.judge_rounds),
        finish=(*calibration, refresh_step(posterior), *calibrate.gate_steps(task, posterior)),
    )


def plain(task: Task) -> Preset:
    """Random start, the ELBO alone as evidence: the abstract's recipe."""
    if task.settings.epsilon is not None:
        raise ConfigError(
            "the preset plain sends no histogram that noise could be added to",
            where="method.epsilon",
            fix="unset it, or take the preset default or sketch",
        )

    def evidence(server: Tree, states: Tree, rows: Rows) -> Tensor:
        return elbo(task, server["density"], rows)

    def posterior(server: Tree, states: Tree, rows: Rows) -> Posterior:
        return e_step(evidence(server, states, rows), rows, states["proportions"])

    return Preset(evidence, evidence, posterior, posterior, judged_by="densities", finish=(refresh_step(posterior),))


def sketch(task: Task) -> Preset:
    """Proportions and word posteriors from the sketch, held fixed."""

    def labelled(server: Tree, states: Tree, rows: Rows) -> Tensor:
        return word_evidence(server["topics"], states.get("own_words"), row_words(task, server, rows), rows)

    def posterior(server: Tree, states: Tree, rows: Rows) -> Posterior:
        resp, likelihood = responsibilities(labelled(server, states, rows), states["proportions"], rows.owner)
        return Posterior(states["proportions"], resp, likelihood)

    return replace(
        default(task),
        labelled=labelled,
        posterior=posterior,
        training=posterior,
        judged_by="words",
        judge_rounds=None,
        before_em=(),
        finish=(calibrate.cell_topics_step(task, posterior),),
    )


def oracle(task: Task) -> Preset:
    """No method but a bound: trained on true components, its evidence calibrated like the default's.

    Its rows carry `component`, its proportions are estimated, and it predicts with the realised ones.
    """

    def truth(server: Tree, states: Tree, rows: Rows) -> Posterior:
        resp = true_components(rows, task.n_components)
        return Posterior(states["proportions"], resp, resp.new_zeros(len(rows)))

    calibrated = default(task)
    calibration = calibrate.calibration_steps(task, calibrated.posterior)
    return replace(
        calibrated,
        training=truth,
        judged_by="words",
        judge_rounds=None,  # it learns from the truth, so there is nothing of its own to confirm
        prepare=(*codebook_steps(task), true_topics_step(task)),
        before_em=(),
        finish=(*calibration, refresh_step(calibrated.posterior), *calibrate.gate_steps(task, truth)),
    )


PRESETS = {"default": default, "plain": plain, "sketch": sketch, "oracle": oracle}
