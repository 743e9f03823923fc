"""A scale for targets that are no classes, so that every method sees numbers of a known size.

    regression   client  Σ y, Σ y² and n of its rows       server  mean and deviation, the leaf `target/scale`
                 methods see z = (y − mean)/deviation; predictions come back in the target's own units
    survival     client  how many rows and events it has
                 client  rows and events in cells of time  server  cells that follow the events, `target/edges`; 4 times
                 client  the same, once more               server  events to be expected, `target/expected`
                 methods see u = H(t), the time on which events come at rate 1, and whether there was one

H is what all clients' rows have together, features aside: Nelson and Aalen's estimate over 64 cells of about equally
many events, wherever times lie and however far they are apart; see `fedgmi.mixture.life_table`. exp(−H) is close to
Kaplan and Meier's curve. H does not rise before the first event and after the last: rows there keep their places in all
risk sets.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fedgmi.data.rows import Rows, Schema
from fedgmi.data.standardise import feature_sums, means, standardisation, varies
from fedgmi.data.validate import nothing_to_learn
from fedgmi.mixture.life_table import CELLS, EXCHANGES, counts, expected, first_edges, read, refined
from fedgmi.models.heads import parts
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import Step
from fedgmi.tree import Tree

SCALE, EDGES, EXPECTED = "target/scale", "target/edges", "target/expected"
TARGET_LEAVES: dict[str, tuple[str, ...]] = {
    "classification": (),
    "regression": (SCALE,),
    "survival": (EDGES, EXPECTED),
}
"""By task, the leaf of `target_leaves` first."""
TELLS = {
    "regression": "sums of its targets, Σy and Σy², of which the federation's mean and deviation are made",
    "survival": "how many rows and events it has",
}
TELLS_CELLS = (
    f"how many of its rows, and of its events, are in each of {CELLS} cells of time; in the end a cell holds about one "
    f"event in {CELLS} of all sites', so that where these are few it tells their times"
)


def target_sums(schema: Schema, y: Tensor) -> Tree:
    """What one client's rows add to the scale.

    Args:
        schema: Which task it is.
        y: Of its rows, in its own units. [n], or [n, 2]

    Returns:
        Sums by name, which may be added up over clients.
    """
    if schema.task == "survival":
        return {"target events": y[:, 1].double().sum(), "target count": y.new_tensor(float(len(y))).double()}
    return {f"target {name}": leaf for name, leaf in feature_sums(y[:, None]).items()}


def target_leaves(schema: Schema, sums: Tree) -> Tree:
    """The scale from all clients' sums: mean and deviation, or the first cells of time.

    A simulation looks at the rows before; a deployment learns here what all sites' rows have together.

    Args:
        schema: Which task it is.
        sums: What `target_sums` returns, added up.

    Returns:
        The server's leaf: [2], float64, or [65], int32.

    Raises:
        DataError: For a target that is the same in all rows, and for rows without any event.
    """
    own = {name.removeprefix("target "): leaf for name, leaf in sums.items() if name.startswith("target ")}
    if schema.task == "survival":
        if not bool(own["events"] > 0):
            raise nothing_to_learn(schema.task, int(own["count"]))
        return {EDGES: first_edges().to(own["events"].device)}
    if not bool(varies(own).all()):
        raise nothing_to_learn(schema.task, int(own["count"].max()), float(means(own)), nearly=True)
    found = standardisation(own)
    return {SCALE: torch.cat([found.mean, found.std])}


def time_steps() -> tuple[Step, ...]:
    """Rows and events in cells of time, which follow the events more closely each time; at last what is expected."""

    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        assert rows.y is not None
        return states, Message(sums={"in cells": counts(server[EDGES], rows.y)})

    def refine(server: Tree, message: Message, round: int) -> Tree:
        return server | {EDGES: refined(server[EDGES], message.sums["in cells"])}

    def take(server: Tree, message: Message, round: int) -> Tree:
        return server | {EXPECTED: expected(message.sums["in cells"])}

    times = Step("times", client, refine, reads=(EDGES,), writes=(EDGES,), tells=TELLS_CELLS)
    return *(times,) * (EXCHANGES - 1), replace(times, name="events", server=take, writes=(EXPECTED,))


def cumulative(server: Tree, time: Tensor, event: Tensor | None = None) -> Tensor:
    """H(t), how many events are expected up to a time, of a row of the federation at large.

    Args:
        server: With the cells and what is expected.
        time: t, in its own units. [R]
        event: Whether it ended in an event; None: no matter. Events of one time have the mean of H's step. [R]

    Returns:
        [R], float64
    """
    return read(server[EDGES].to(time.device), server[EXPECTED].to(time.device), time, event)


def to_scale(schema: Schema, server: Tree, y: Tensor) -> Tensor:
    """Targets as methods see them.

    Args:
        schema: Which task it is.
        server: With the target's leaves.
        y: In its own units. [R], or [R, 2]

    Returns:
        [R], or [R, 2], float32
    """
    if schema.task == "survival":
        return torch.stack([cumulative(server, *y.unbind(1)).float(), y[:, 1]], 1)
    mean, deviation = server[SCALE].to(y.device).unbind()
    scaled: Tensor = (y.double() - mean) / deviation
    return scaled.float()


def to_units(schema: Schema, server: Tree, numbers: Tensor) -> Tensor:
    """Predictions in the target's own units. Risks have none: they are relative to the federation at large.

    Args:
        schema: Which task it is.
        server: With the scale.
        numbers: As the head has them: (log weight, m, log s) for each part. […, 3·K]

    Returns:
        […, 3·K], float64
    """
    if schema.task == "survival":
        return numbers
    mean, deviation = server[SCALE].to(numbers.device).unbind()
    log_weight, m, log_scale = parts(numbers.double()).unbind(-1)
    return torch.stack([log_weight, m * deviation + mean, log_scale + deviation.log()], -1).flatten(-2)
