"""The round loop: prepare, rounds, finish, with a record and a checkpoint after each. Any method, any transport."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from fedgmi.errors import DivergedError
from fedgmi.methods.contract import Method, Step
from fedgmi.protocol.transport import Transport
from fedgmi.randomness import numpy_generator
from fedgmi.tree import Tree, not_finite


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
    size = max(1, math.ceil(fraction * n_clients - 1e-9))  # 0.07 · 100 is a little more than 7
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
    """Run a method from where `progress` stands to its end; `after` sees every completed round.

    Raises DivergedError at the first message or server state that is not finite.
    """
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
        progress = _advance(method.name, steps, transport, progress, ids, number)
        after(progress)
    return progress


def require_finite(tree: Tree, name: str, round: int) -> None:
    """Stop a run of that name whose numbers have run away, before they reach a record or a checkpoint."""
    leaf = not_finite(tree)
    if leaf is not None:
        raise DivergedError(
            f"{leaf!r} is NaN or infinite: training has diverged",
            where=f"{name}, round {round}",
            fix="lower training.lr",
        )


def _advance(
    name: str, steps: Sequence[Step], transport: Transport, progress: Progress, ids: Sequence[int], number: int
) -> Progress:
    began = time.perf_counter()
    server, down, up = progress.server, 0, 0
    with torch.no_grad():
        for step in steps:
            if step.when is not None and not step.when(server):
                continue
            message = transport.exchange(step, server, ids, number)
            require_finite(message.values, name, number)
            before, server = server, step.server(server, message.values, number)
            changed = {key: leaf for key, leaf in server.items() if leaf is not before.get(key)}
            require_finite(changed, name, number)
            down, up = down + message.down, up + message.up
    return replace(
        progress,
        server=server,
        round=number,
        bytes_down=progress.bytes_down + down,
        bytes_up=progress.bytes_up + up,
        seconds=progress.seconds + time.perf_counter() - began,
    )
