"""A scale for targets that are no classes, so that every method sees numbers of a known size.

    regression   client  Σ y, Σ y² and n of its rows       server  mean and deviation, the leaf `target/scale`
                 methods see z = (y − mean)/deviation; predictions come back in the target's own units
    survival     client  Σ t, n and the number of events   server  mean time and rate, the leaf `target/scale`
                 client  events and time at risk in cells  server  hazards h, the leaf `target/hazard`
                 methods see u = H(t) = ∫₀ᵗ h, on which events come at rate 1, and whether there was one

The cells of time are 32 of equal width in 1 − exp(−t/mean). h is what all clients' rows have together, features aside:
the piecewise-exponential form of Breslow's baseline (1974). To each cell one event at the overall rate is added, so
that H rises everywhere and times keep their order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedgmi.data.rows import Rows, Schema
from fedgmi.data.standardise import feature_sums, means, standardisation, varies
from fedgmi.data.validate import nothing_to_learn
from fedgmi.models.heads import parts
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import Step
from fedgmi.tree import Tree

TARGET = "target"
SCALE, HAZARD = f"{TARGET}/scale", f"{TARGET}/hazard"
TARGET_LEAVES = (SCALE, HAZARD)
CELLS = 32
TELLS = {
    "regression": "sums of its targets, Σy and Σy², of which the federation's mean and deviation are made",
    "survival": "the sum of its times, and how many events it has",
}
TELLS_HAZARD = "how many of its events, and how much of its time at risk, are in each of 32 cells of time"


def target_sums(schema: Schema, y: Tensor) -> Tree:
    """What one client's rows add to the scale.

    Args:
        schema: Which task it is.
        y: Of its rows, in its own units. [n], or [n, 2]

    Returns:
        Sums by name, which may be added up over clients.
    """
    return {f"target {name}": leaf for name, leaf in feature_sums(y.view(len(y), -1)).items()}


def target_leaves(schema: Schema, sums: Tree) -> Tree:
    """The scale from all clients' sums: mean and deviation, or mean time and rate of events.

    A simulation looks at the rows before; a deployment learns here what all sites' rows have together.

    Args:
        schema: Which task it is.
        sums: What `target_sums` returns, added up.

    Returns:
        The server's leaf. [2], float64

    Raises:
        DataError: For a target that is the same in all rows, and for rows without any event.
    """
    own = {name.removeprefix("target "): leaf for name, leaf in sums.items() if name.startswith("target ")}
    if schema.task == "survival":
        time, events = own["sum"].unbind()
        if not bool(events > 0):
            raise nothing_to_learn(schema.task, int(own["count"].max()))
        mean = (time / own["count"].clamp(min=1.0)).clamp(min=torch.finfo(torch.float32).tiny)
        return {SCALE: torch.stack([mean, events / time.clamp(min=torch.finfo(torch.float32).tiny)])}
    if not bool(varies(own).all()):
        raise nothing_to_learn(schema.task, int(own["count"].max()), float(means(own)))
    found = standardisation(own)
    return {SCALE: torch.cat([found.mean, found.std])}


def hazard_step() -> Step:
    """Events and time at risk in cells of time, and from them the hazards. [32], events a unit of time, float64"""

    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        assert rows.y is not None
        time, event = rows.y.double().unbind(1)
        edges = cell_edges(server).to(time.device)
        spent = (torch.minimum(time[:, None], edges[1:]) - edges[:-1]).clamp(min=0)  # [R, 32]
        events = torch.bincount(_cell(edges, time), weights=event, minlength=CELLS)
        return states, Message(sums={"events": events, "at risk": spent.sum(0)})

    def take(server: Tree, message: Message, round: int) -> Tree:
        rate = server[SCALE][1]
        return server | {HAZARD: (message.sums["events"] + 1) / (message.sums["at risk"] + 1 / rate)}

    return Step("hazards", client, take, reads=(SCALE,), writes=(HAZARD,), tells=TELLS_HAZARD)


def cell_edges(server: Tree) -> Tensor:
    """Where cells of time begin and end; the last one has no end. [33], in units of time, float64"""
    mean = server[SCALE][0]
    share = torch.arange(CELLS, dtype=torch.float64, device=mean.device) / CELLS
    return torch.cat([-mean * (1 - share).log(), mean.new_full((1,), torch.inf)])


def cumulative(server: Tree, time: Tensor) -> Tensor:
    """H(t), how many events are expected up to a time, of a row of the federation at large.

    Args:
        server: With the scale and the hazards.
        time: t, in its own units. [R]

    Returns:
        [R], float64
    """
    edges, hazard = cell_edges(server).to(time.device), server[HAZARD].to(time.device)
    before = torch.cat([hazard.new_zeros(1), (hazard[:-1] * edges[:-1].diff()).cumsum(0)])
    cell = _cell(edges, time.double())
    found: Tensor = before[cell] + hazard[cell] * (time.double() - edges[cell])
    return found


def to_scale(schema: Schema, server: Tree, y: Tensor) -> Tensor:
    """Targets as methods see them.

    Args:
        schema: Which task it is.
        server: With the scale.
        y: In its own units. [R], or [R, 2]

    Returns:
        [R], or [R, 2], float32
    """
    if schema.task == "survival":
        return torch.stack([cumulative(server, y[:, 0]).float(), y[:, 1]], 1)
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


def _cell(edges: Tensor, time: Tensor) -> Tensor:
    """The cell that holds each time; an edge belongs to the cell that begins there. [R]"""
    return (torch.searchsorted(edges, time.contiguous(), right=True) - 1).clamp(0, CELLS - 1)
