"""A diagnosis as Python's users meet it: the numbers by name, and in words where it is printed."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from typing import Any

import torch

from fedgmi.data.federation import Federation
from fedgmi.diagnosis.diagnose import Diagnosis, diagnose
from fedgmi.diagnosis.survey import take_survey
from fedgmi.mixture.matching import match_components
from fedgmi.runs.records import DiagnosisRecord
from fedgmi.runs.setup import Setup, choose_device
from fedgmi.runs.whose import Array

LEVEL = 0.9
"""Of the intervals."""
WIDTH = 100
"""Of the words."""


class Diagnosed(dict[str, Any]):
    """What `diagnosis.json` holds, by the same names; `fedgmi.runs.records.DiagnosisRecord` says what each means.

    Printed, it says in words how many components there are, whether the federation is a mixture of them, and who does
    not fit.
    """

    def __repr__(self) -> str:
        from fedgmi.report.console import OwnConsole
        from fedgmi.report.diagnosis_tables import print_words

        text = io.StringIO()
        print_words(self, OwnConsole(file=text, width=WIDTH))
        return text.getvalue().rstrip()


def diagnosed(
    setup: Setup, federation: Federation, n_components: int | None, like: Array | None, *, estimated: bool
) -> Diagnosed:
    """Ask a federation's clients for counts, and say what these tell.

    Args:
        setup: How clients are asked.
        federation: Whose training rows count.
        n_components: K; None: as many as the counts show.
        like: Proportions of the same clients, as which components are to be numbered; None: there are none. [C, K]
        estimated: Whether nobody said how many components there are.

    Returns:
        The diagnosis.
    """
    config, began = setup.config, time.perf_counter()
    survey = take_survey(
        setup.task("fedgmi"), federation.clients, standardise=setup.standardise, device=choose_device(config.device)
    )
    found = diagnose(survey.histograms, n_components=n_components, seed=config.seed, level=LEVEL, cells=survey.cells)
    if like is not None and like.shape == tuple(found.topics.proportions.shape):
        found = in_order(found, match_components(found.topics.proportions, torch.from_numpy(like)))
    record = found.to_json() | {
        "scenario": "federation",
        "seed": config.seed,
        "clients": list(federation.names),
        "rows_per_client": [len(client) for client in federation.clients],
        "bytes_down": survey.bytes_down,
        "bytes_up": survey.bytes_up,
        "n_components_estimated": estimated,
        "interval_level": LEVEL,
        "true_n_components": None,
        "proportion_tv": None,
        "seconds": time.perf_counter() - began,
    }
    return Diagnosed(DiagnosisRecord.checked(record))


def in_order(found: Diagnosis, order: torch.Tensor) -> Diagnosis:
    """The same diagnosis with its components numbered in another order.

    Args:
        found: Of K components.
        order: Which component comes first, second, …. [K]

    Returns:
        The diagnosis.
    """
    topics = replace(found.topics, proportions=found.topics.proportions[:, order], counts=found.topics.counts[:, order])
    return replace(
        found,
        topics=topics,
        intervals=found.intervals[:, order],
        purest=found.purest[order],
        anchor_mass=found.anchor_mass[order],
    )
