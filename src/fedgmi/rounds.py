"""The round loop: prepare, rounds, finish, with a record and a checkpoint after each. Any method, any transport."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from fedgmi.methods.base import Method, Step
from fedgmi.randomness import numpy_generator
from fedgmi.transports.base import Transport
from fedgmi.tree import Tree


@dataclass(frozen=True)
class Progress:
    """Where a run stands: `round` 0 is the preparation, 1..R the rounds, R + 1 the end; bytes of all clients."""

    server: Tree
    round: int = -1
    bytes_down: int = 0
    bytes_up: int = 0
    seconds: float = 0.0


def participants(n_clients: int, fraction: float, seed: int, round: int) -> list[int]:
    """⌈fraction·N⌉ clients drawn without replacement, by (seed, round).

    >>> participants(4, 1.0, 0, 1)
    [0, 1, 2, 3]
    """
    size = math.ceil(fraction * n_clients)
    chosen = numpy_generator(seed, round, "participants").choice(n_clients, size, replace=False)
    return sorted(int(i) for i in chosen)


def drive(
    method: Method,
    transport: Transport,
    progress: Progress,
    *,
    n_clients: int,
    rounds: int,
    participation: float,
    seed: int,
    after: Callable[[Progress], None],
) -> Progress:
    """Run a method from where `progress` stands to its end; `after` sees every completed round."""
    everyone = list(range(n_clients))
    while progress.round < rounds + 1:
        number = progress.round + 1
        steps, ids = method.round, everyone
        if number == 0:
            steps = method.prepare
        elif number == rounds + 1:
            steps = method.finish
        else:
            ids = participants(n_clients, participation, seed, number)
        progress = _advance(steps, transport, progress, ids, number)
        after(progress)
    return progress


def _advance(
    steps: Sequence[Step], transport: Transport, progress: Progress, ids: Sequence[int], number: int
) -> Progress:
    began = time.perf_counter()
    server, down, up = progress.server, 0, 0
    with torch.no_grad():
        for step in steps:
            message = transport.exchange(step, server, ids, number)
            server = step.server(server, message.values, number)
            down, up = down + message.down, up + message.up
    return replace(
        progress,
        server=server,
        round=number,
        bytes_down=progress.bytes_down + down,
        bytes_up=progress.bytes_up + up,
        seconds=progress.seconds + time.perf_counter() - began,
    )
