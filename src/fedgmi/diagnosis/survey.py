"""What a diagnosis is made from: every client's counts over one codebook. Tens of kilobytes per client, asked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedgmi.data.rows import Client, Rows
from fedgmi.methods import Method, Task
from fedgmi.methods.fedgmi.sketch import codebook_steps, histogram_step, map_words, merge_words
from fedgmi.privacy.geometric import Noise
from fedgmi.protocol.in_process import InProcess
from fedgmi.protocol.rounds import Progress, drive
from fedgmi.tree import Tree


@dataclass(frozen=True)
class Survey:
    """histograms [C, W]: each client's rows per word, rare words merged · noise: what clients added to them, with
    `method.epsilon` · bytes of all clients · seconds."""

    histograms: Tensor
    noise: Noise | None
    bytes_down: int
    bytes_up: int
    seconds: float


def take_survey(task: Task, clients: Sequence[Client], *, device: torch.device | str = "cpu") -> Survey:
    """The sketch's exchanges up to the histograms: all that is asked of the clients, and no model is trained.

    Of the task, only the schema, the seed and the sketch's settings matter; how many components there are does not.
    """
    method = _histograms(task)
    end = drive(
        method,
        InProcess(clients, method, device=device),
        Progress(method.init()),
        n_clients=len(clients),
        rounds=0,
        participation=1.0,
        seed=task.seed,
        after=lambda progress: None,
    )
    counts = end.server["histograms"].cpu()
    word_map, noise = map_words(counts, task.settings.epsilon)
    merged = merge_words(counts, word_map)
    held = merged if noise is not None else merged[:, merged.any(0)]
    return Survey(held, noise, end.bytes_down, end.bytes_up, end.seconds)


def _histograms(task: Task) -> Method:
    """A method that is over once the server holds the histograms."""

    def predict(server: Tree, states: Tree, rows: Rows) -> Tensor:
        raise NotImplementedError("histograms predict nothing")

    keep = histogram_step(task, lambda server, replies, round: server | {"histograms": replies["histogram"]})
    return Method(
        name="survey",
        init=dict,
        client_init=lambda ids: {},
        prepare=(*codebook_steps(task), keep),
        round=(),
        predict=predict,
    )
