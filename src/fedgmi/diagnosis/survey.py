"""What a diagnosis is made from: every client's counts over one codebook. Tens of kilobytes per client, asked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedgmi.data.rows import Client, Rows, Schema
from fedgmi.methods import Method, Predictor, Task
from fedgmi.methods.fedgmi.settings import FedGMISettings
from fedgmi.methods.fedgmi.sketch import cells_of, map_words, survey_steps
from fedgmi.methods.fedgmi.state import BYTES, Sketch
from fedgmi.methods.standardising import prepared
from fedgmi.mixture import target_bins
from fedgmi.mixture.identity import Cells
from fedgmi.mixture.rare_words import merge_words, share_lost
from fedgmi.privacy.geometric import Noise
from fedgmi.protocol.in_process import InProcess
from fedgmi.protocol.losses import Losses
from fedgmi.protocol.message import Message
from fedgmi.protocol.rounds import Progress, run_rounds
from fedgmi.protocol.step import Program
from fedgmi.tree import Tree


@dataclass(frozen=True)
class Survey:
    """The clients' counts, and what they cost.

    Attributes:
        histograms: Each client's rows per word, after rare words backed off. [C, W]
        noise: What clients added to them, with `method.epsilon`.
        counts: The same as clients sent them, for a method that begins with a survey. [C, W]
        server: The server's state after it.
        steps: The names of its exchanges, in order; the last one brought the counts.
        transport: Over which it was taken, with its ledger and what clients hold by now.
        seconds: Spent.
        lost: The share of rows in words so rare that neither cell nor label is left of them.
        cells: What else is known of rows; None where counts have noise.
    """

    histograms: Tensor
    noise: Noise | None
    counts: Tensor
    server: Tree
    steps: tuple[str, ...]
    transport: InProcess
    seconds: float
    lost: float = 0.0
    cells: Cells | None = None

    @property
    def bytes_down(self) -> int:
        """Bytes to all clients."""
        return self.transport.ledger.totals()[0]

    @property
    def bytes_up(self) -> int:
        """Bytes from all clients."""
        return self.transport.ledger.totals()[1]

    def open(self, program: Program, transport: InProcess, server: Tree) -> tuple[Program, Tree]:
        """Begin a run where the survey stands, so that nothing is asked twice.

        Args:
            program: A method's, for the same clients and seed.
            transport: Over which it will be run. It goes on from the survey's.
            server: The state that the program begins with.

        Returns:
            What is left of the program, and the server's state; both as they were, and the transport too, where the
            program does not begin with the survey's exchanges.
        """
        if not begins_with(program, self.steps):
            return program, server
        transport.follow(self.transport)
        n = len(self.steps)
        answers = Message(replies={"histogram": self.counts})
        server = program.prepare[n - 1].server(server | self.server, answers, 0)
        return replace(program, prepare=program.prepare[n:]), server


def take_survey(
    task: Task[FedGMISettings],
    clients: Sequence[Client],
    *,
    standardise: bool = False,
    device: torch.device | str = "cpu",
    losses: Losses | None = None,
) -> Survey:
    """The sketch's exchanges up to the histograms: all that is asked of the clients, and no model is trained.

    Args:
        task: Only the schema, the seed and the sketch's settings matter; how many components there are does not.
        clients: Their rows, in their own units.
        standardise: Whether rows are brought to one scale first.
        device: Where it is done.
        losses: Whose replies are lost; None: nobody's.

    Returns:
        The counts. [C, W] of those that replied
    """
    method = survey_method(task, standardise=standardise)
    transport = InProcess(clients, method.program, device=device, losses=losses)
    end = run_rounds(
        method.name,
        method.program,
        transport,
        Progress(method.program.init()),
        n_clients=len(clients),
        rounds=0,
        seed=task.seed,
    )
    counts = method.counts(end.server)
    assert counts is not None
    n_values = target_bins.n_values(task.schema)
    word_map, noise = map_words(counts.cpu(), task.settings.epsilon, n_values)
    return Survey(
        histograms=held(counts.cpu(), word_map, noise),
        noise=noise,
        counts=counts,
        server=end.server,
        steps=step_names(method.program),
        transport=transport,
        seconds=end.seconds,
        lost=share_lost(counts.cpu().sum(0), word_map, n_values),
        cells=cells_of(end.server, counts.cpu(), word_map) if noise is None else None,
    )


def begins_with(program: Program, steps: Sequence[str]) -> bool:
    """Whether a program's first exchanges have these names, hence are a survey's."""
    return step_names(program)[: len(steps)] == tuple(steps)


def step_names(program: Program) -> tuple[str, ...]:
    """The names of the exchanges before the first round."""
    return tuple(step.name for step in program.prepare)


def merged_counts(counts: Tensor, schema: Schema) -> Tensor:
    """Exact counts as a diagnosis takes them: rare words back off, and words that nobody holds are left out.

    Args:
        counts: As clients sent them. [C, W]
        schema: Of their rows.

    Returns:
        [C, W']
    """
    word_map, noise = map_words(counts, None, target_bins.n_values(schema))
    return held(counts, word_map, noise)


def held(counts: Tensor, word_map: Tensor, noise: Noise | None) -> Tensor:
    """Counts of merged words, without words that nobody holds where there is no noise to tell that. [C, W']"""
    merged = merge_words(counts, word_map)
    return merged if noise is not None else merged[:, merged.any(0)]


def survey_method(task: Task[FedGMISettings], *, standardise: bool = False) -> Method:
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
    method = Method("survey", program, Predictor(predict), counts=lambda server: Sketch(server).histograms)
    return prepared(method, task.schema, standardise=standardise)
