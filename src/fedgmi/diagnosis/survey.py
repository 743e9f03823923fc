"""What a diagnosis is made from: every client's counts over one codebook. Tens of kilobytes per client, asked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedgmi.data.rows import Client, Rows
from fedgmi.methods import Method, Predictor, Task
from fedgmi.methods.fedgmi.settings import FedGMISettings
from fedgmi.methods.fedgmi.sketch import map_words, merge_words, survey_steps
from fedgmi.methods.fedgmi.state import BYTES, Sketch
from fedgmi.methods.standardising import standardised
from fedgmi.privacy.geometric import Noise
from fedgmi.protocol.in_process import InProcess
from fedgmi.protocol.rounds import Progress, run_rounds
from fedgmi.protocol.step import Program
from fedgmi.tree import Tree


@dataclass(frozen=True)
class Survey:
    """The clients' counts, and what they cost.

    Attributes:
        histograms: Each client's rows per word, rare words merged. [C, W]
        noise: What clients added to them, with `method.epsilon`.
        bytes_down: To all clients.
        bytes_up: From all clients.
        seconds: Spent.
    """

    histograms: Tensor
    noise: Noise | None
    bytes_down: int
    bytes_up: int
    seconds: float


def take_survey(
    task: Task[FedGMISettings],
    clients: Sequence[Client],
    *,
    standardise: bool = False,
    device: torch.device | str = "cpu",
) -> Survey:
    """The sketch's exchanges up to the histograms: all that is asked of the clients, and no model is trained.

    Args:
        task: Only the schema, the seed and the sketch's settings matter; how many components there are does not.
        clients: Their rows, in their own units.
        standardise: Whether rows are brought to one scale first.
        device: Where it is done.

    Returns:
        The counts.
    """
    method = _histograms(task)
    method = standardised(method, task.schema) if standardise else method
    end = run_rounds(
        method.name,
        method.program,
        InProcess(clients, method.program, device=device),
        Progress(method.program.init()),
        n_clients=len(clients),
        rounds=0,
        seed=task.seed,
    )
    counts = method.counts(end.server)
    assert counts is not None
    held, noise = merged_counts(counts.cpu(), task.settings.epsilon)
    return Survey(held, noise, end.bytes_down, end.bytes_up, end.seconds)


def merged_counts(counts: Tensor, epsilon: float | None) -> tuple[Tensor, Noise | None]:
    """Clients' counts as a diagnosis takes them: rare words merged, words that nobody holds left out.

    Args:
        counts: As clients sent them. [C, W]
        epsilon: Of the noise in them; None: there is none.

    Returns:
        The counts [C, W'], and the noise in them.
    """
    word_map, noise = map_words(counts, epsilon)
    merged = merge_words(counts, word_map)
    return (merged if noise is not None else merged[:, merged.any(0)]), noise


def _histograms(task: Task[FedGMISettings]) -> Method:
    """A method that is over once the server holds the histograms."""

    def predict(server: Tree, states: Tree, rows: Rows) -> Tensor:
        raise NotImplementedError("histograms predict nothing")

    program = Program(
        init=dict,
        client_init=lambda ids: {},
        prepare=survey_steps(task),
        round=(),
        kinds=BYTES,
    )
    return Method("survey", program, Predictor(predict), counts=lambda server: Sketch(server).histograms)
