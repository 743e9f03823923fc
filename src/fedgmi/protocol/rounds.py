"""The round loop: prepare, rounds, finish, any program over any transport."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch

from fedgmi.errors import DivergedError
from fedgmi.protocol.allowance import Allowance
from fedgmi.protocol.message import Message, flatten
from fedgmi.protocol.phases import phase_of, require_finite
from fedgmi.protocol.step import Program, Step, changed, check_program
from fedgmi.protocol.transport import Judging, Transport
from fedgmi.protocol.wrapper import check_wrappers
from fedgmi.randomness import numpy_generator
from fedgmi.tree import Tree


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        server: The server's state.
        round: The last one that is complete (see `phase_of`); -1 before the preparation.
        bytes_down: Bytes to all clients so far, by the transport's ledger.
        bytes_up: Bytes from all clients so far.
        seconds: Spent so far.
    """

    server: Tree
    round: int = -1
    bytes_down: int = 0
    bytes_up: int = 0
    seconds: float = 0.0

    @classmethod
    def of(cls, server: Tree, record: Mapping[str, Any]) -> Progress:
        """Where a run stood when its last record was written.

        Args:
            server: The server's state of that time.
            record: With the attributes' names as keys, and others.
        """
        return cls(server, record["round"], record["bytes_down"], record["bytes_up"], record["seconds"])


def silent(part: str) -> None:
    """Nobody is told."""


def participants(n_clients: int, fraction: float, seed: int, round: int) -> list[int]:
    """⌈fraction·N⌉ clients drawn without replacement, by (seed, round).

    Examples:
        >>> participants(4, 1.0, 0, 1)
        [0, 1, 2, 3]
    """
    size = max(1, math.ceil(fraction * n_clients - 1e-9))  # 0.07 · 100 is a little more than 7
    chosen = numpy_generator(seed, round, "participants").choice(n_clients, size, replace=False)
    return sorted(int(i) for i in chosen)


class Choice(Protocol):
    """Which round's predictor a run ends with, and when it stops."""

    def after_round(self, progress: Progress) -> Progress:
        """See where the run stands after a round, and add what it took to judge it.

        Args:
            progress: After a round; not after the preparation.

        Returns:
            The same state of the server, with the bytes and seconds that judging took.
        """
        ...

    def end(self, progress: Progress) -> Progress | None:
        """The end, where it has come: the chosen round's state after the program's last steps.

        Args:
            progress: Where the run stands.

        Returns:
            The end, at round R + 1; None where the next round is to follow.
        """
        ...


def run_rounds(
    name: str,
    program: Program,
    transport: Transport | Judging,
    progress: Progress,
    *,
    n_clients: int,
    rounds: int,
    participation: float = 1.0,
    seed: int,
    after: Callable[[Progress], None] = lambda progress: None,
    choice: Choice | None = None,
    tell: Callable[[str], None] = silent,
    allowance: Allowance | None = None,
) -> Progress:
    """Run a program from where `progress` stands to its end.

    Args:
        name: The method's, for messages.
        program: What is exchanged.
        transport: Over which. Its ledger holds the bytes.
        progress: Where to begin.
        n_clients: N.
        rounds: R.
        participation: The fraction of clients in a round; preparation and end are with everyone.
        seed: By which they are drawn.
        after: It sees every completed round.
        choice: Of the round that the run ends with; None: the last.
        tell: It is told the parts of the end as they begin, see `Step.part`.
        allowance: What clients may still cost; None: any number of bytes. A round that nobody can take part in is none.

    Returns:
        Where the run stands in the end.

    Raises:
        ProgramError: Where a step reads what no earlier one writes; before anything is asked.
        CheckpointError: Where another fedgmi's checkpoint lacks what steps read.
        ConfigError: Where a wrapper cannot wrap a step; before anything is asked.
        DivergedError: At the first message or server state that is not finite.
    """
    check_program(name, program, progress.server, prepared=progress.round >= 0)
    check_wrappers(name, program, transport.wrappers)
    if progress.round < 0:
        progress = replace(progress, server=transport.settle({}, progress.server, 0, "start"))
    everyone = list(range(n_clients))
    try:
        while progress.round < rounds + 1:
            number = progress.round + 1
            phase = phase_of(number, rounds)
            ids = participants(n_clients, participation, seed, number) if phase == "round" else everyone
            if allowance is not None and phase == "round":
                ids = allowance.able(transport.ledger, ids, number)
            chosen = choice.end(progress) if choice else None
            told = tell if phase == "finish" else silent
            steps = [step for step in program.steps(phase) if ids and not (step.unforeseen and allowance is not None)]
            progress = chosen or advance(name, steps, transport, progress, ids, number, told, allowance)
            progress = choice.after_round(progress) if choice and not chosen and phase == "round" else progress
            after(progress)
    except DivergedError as error:
        if not program.rate:
            raise
        raise DivergedError(error.what, where=error.where, fix=f"lower {program.rate}") from error
    return progress


def _taken(name: str, step: Step, server: Tree, number: int, message: Message) -> Tree:
    """The server's state after its part of a step.

    Raises:
        DivergedError: Where the message, or what is made of it, is not finite.
    """
    require_finite(flatten(message), name, number)
    after = step.server(server, message, number)
    require_finite({leaf: after[leaf] for leaf in changed(server, after)}, name, number)
    return after


def advance(
    name: str,
    steps: Sequence[Step],
    transport: Transport | Judging,
    progress: Progress,
    ids: Sequence[int],
    number: int,
    tell: Callable[[str], None] = silent,
    allowance: Allowance | None = None,
) -> Progress:
    """Run the steps of one phase.

    Args:
        name: The method's, for messages.
        steps: In order; those whose condition does not hold are left out.
        transport: Over which.
        progress: Where the run stands.
        ids: The clients that take part.
        number: The round's.
        tell: It is told of each part, as `Step.part` has it, when its first step begins.
        allowance: What clients may still cost; None: any number of bytes. Who cannot pay an exchange takes part in none
            that follows in this phase, and where nobody can, the phase is over.

    Returns:
        Where the run stands after them, at that round.

    Raises:
        DivergedError: At the first message or server state that is not finite.
    """
    began = time.perf_counter()
    server, part = progress.server, ""
    with torch.no_grad():
        for step in steps:
            if step.when is not None and not step.when(server):
                continue
            if allowance is not None:
                able = allowance.admit(transport.ledger, transport.price(step, server, ids, number), number, step.spare)
                if not able and step.spare:
                    continue
                ids = able
                if not ids:
                    break
            if step.part != part:
                tell(part := step.part)
            take = partial(_taken, name, step, server, number)
            if isinstance(transport, Judging):
                after = transport.taken(step, server, ids, number, take)
                if after is None:  # as where nobody can pay
                    break
            else:
                after = take(transport.exchange(step, server, ids, number))
            before, server = server, transport.settle(server, after, number, step.name)
            require_finite({leaf: server[leaf] for leaf in changed(before, server)}, name, number)
    down, up = transport.ledger.totals()
    return replace(
        progress,
        server=server,
        round=number,
        bytes_down=down,
        bytes_up=up,
        seconds=progress.seconds + time.perf_counter() - began,
    )
