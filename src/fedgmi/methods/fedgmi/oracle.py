"""The oracle: no method but a bound, trained on the true components. All that knows the truth is here."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from fedgmi.data.rows import Rows
from fedgmi.methods.contract import Task
from fedgmi.methods.fedgmi import schedule
from fedgmi.methods.fedgmi.conditions import InTurn, counts_decide
from fedgmi.methods.fedgmi.evidence import judged_labels, raw_words
from fedgmi.methods.fedgmi.judges import judges_step, word_counts
from fedgmi.methods.fedgmi.presets import Preset, default
from fedgmi.methods.fedgmi.schedule import (
    BINS,
    CELLS,
    CODEBOOK,
    EM,
    FEATURE_SCALE,
    FOLD_IN,
    HISTOGRAMS,
    JUDGE_SUMS,
    Row,
    Schedule,
)
from fedgmi.methods.fedgmi.settings import FedGMISettings
from fedgmi.methods.fedgmi.sketch import count_words
from fedgmi.methods.fedgmi.state import Calibration, Judging, Sketch, uncalibrated
from fedgmi.mixture.posterior import Posterior
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import Step
from fedgmi.tree import Tree

TRUE_TOPICS = Row(
    "true topics", "oracle", (*CODEBOOK, *BINS), "how many of its rows of each true component have each word"
)


def oracle_schedule(own: FedGMISettings, labelled: bool = True) -> Schedule:
    """As the default's, with the truth where the default estimates, and no calibration within rounds."""
    by_truth = {row: replace(row, e_step=False) for row in (EM, CELLS, JUDGE_SUMS)}  # the truth needs no evidence
    if labelled:  # then judges need no cell, and the truth needs none at all
        by_truth[JUDGE_SUMS] = replace(by_truth[JUDGE_SUMS], down=(*FEATURE_SCALE, *BINS, *Judging.names("turn")))
    usual = schedule.default(own)

    def taught(row: Row) -> Row:
        asked = row.when is counts_decide or isinstance(row.when, InTurn)
        always = replace(row, when=None) if asked else row  # the truth decides
        return (by_truth | {HISTOGRAMS: TRUE_TOPICS}).get(replace(always, spare=False), always)

    return replace(
        usual,
        prepare=tuple(taught(row) for row in usual.prepare if row != FOLD_IN),
        round=(by_truth[EM],),
        finish=tuple(taught(row) for row in usual.finish if not row.unforeseen),
    )


def oracle_preset(task: Task[FedGMISettings]) -> Preset:
    """Trained on true components, its evidence calibrated like the default's.

    Its rows carry `component`, its proportions are estimated, and it predicts with the realised ones. There is nothing
    of its own for it to confirm, so the reference models always follow.
    """

    def truth(server: Tree, states: Tree, rows: Rows) -> Posterior:
        resp = true_components(rows, task.n_components)
        return Posterior(states["proportions"], resp, resp.new_zeros(len(rows)))

    return replace(
        default(task),
        schedule=oracle_schedule(task.settings, task.schema.labelled),
        training=truth,
        reference_rounds=None,
        proportions=realised_proportions,
        more={
            "true topics": true_topics_step(task),
            "judges": judges_step(task, truth, partial(judged_labels, task)),  # its topics are true from the start
        },
    )


def realised_proportions(states: Tree) -> torch.Tensor:
    """The true shares of components among the clients' rows. Of newcomers, and of clients that missed the preparation,
    they are not known (absent, or zeros): theirs are as estimated. [C, K]"""
    estimated = states["proportions"]
    true = states.get("realised", torch.zeros_like(estimated))
    return torch.where(true.sum(1, keepdim=True) > 0, true, estimated)


def true_topics_step(task: Task[FedGMISettings]) -> Step:
    """The oracle's sketch: topic counts from the true components, and the realised proportions."""
    n_words = count_words(task)

    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        truth = true_components(rows, task.n_components)
        own = word_counts(raw_words(task, server, rows), truth, n_words, rows)
        realised = rows.sum_by_client(truth) / rows.counts[:, None]
        return states | {"own_words": own, "realised": realised}, Message(sums={"topics": own.sum(0)})

    def take(server: Tree, message: Message, round: int) -> Tree:
        topics = message.sums["topics"]
        share = topics.sum(0) / topics.sum()
        words = torch.arange(n_words, device=share.device)
        return server | Sketch.leaves(topics=topics, word_map=words) | uncalibrated(Calibration, share)

    made = (*Sketch.names("topics", "word_map"), *Calibration.names("share", "bias"))
    return Step("true topics", client, take, writes=made, kind="sketch")


def true_components(rows: Rows, n_components: int) -> torch.Tensor:
    """The oracle's responsibilities: 1 for the component that a row came from. [R, K]

    Raises:
        ValueError: For rows that do not carry their component.
    """
    if rows.component is None:
        raise ValueError("the oracle needs rows that carry their true component")
    return torch.nn.functional.one_hot(rows.component, n_components).double()
