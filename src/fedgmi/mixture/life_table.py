"""Cells of time that follow the events, and a life table over them, from counts alone.

    refined      the edges ← where exp(−H) has fallen by 1/64 of its fall more, as far as the cells so far show it
    expected     H at the edges: in a cell with n rows at risk and d events it rises by

        Σ_{j = n − d + 1}^n 1/j  ≈  log((n + ½)/(n − d + ½))

That is Nelson and Aalen's estimate with events that come one after another (Fleming and Harrington 1984), and exp(−H)
is Kaplan and Meier's. Rows whose time ends in a cell without an event are at risk for half of it.

Edges are whole numbers, the bits of float32: of numbers from 0 on they have the numbers' order. A first grid over them
spans all sizes at once, and a cell is split in proportion to the fall in it. What is still together after the last
refinement is one time that many rows share, such as a month: there H steps, and elsewhere it is linear.
"""

from __future__ import annotations

import torch
from torch import Tensor

CELLS = 64
"""The curve exp(−H) is exact to a cell, 1/64 of its fall."""
EXCHANGES = 5
"""Of counts. Each narrows a cell up to 64 times, and all numbers of 31 bits lie in 64⁵ cells."""
TIED = 1.5
"""A cell with so many times its share of the fall is one time."""
LAST = 0x7F7FFFFF
"""The bits of the greatest float32."""


def first_edges() -> Tensor:
    """Edges of cells over all times that there may be. [65], int32"""
    return torch.linspace(0, LAST, CELLS + 1, dtype=torch.float64).round().int()


def bits(time: Tensor) -> Tensor:
    """Times as whole numbers of the same order.

    Args:
        time: 0 or more. Any shape

    Returns:
        int32

    Examples:
        >>> bits(torch.tensor([0.0, 1e-30, 1000.0, 1000.1])).diff() > 0
        tensor([True, True, True])
    """
    return (time.float() + 0.0).contiguous().view(torch.int32)  # −0 + 0 is 0


def counts(edges: Tensor, y: Tensor) -> Tensor:
    """How many rows, and how many of their events, are before the cells, in each cell, and after them.

    Args:
        edges: A cell has the times from its edge on, up to the next. [65], int32
        y: Times and events. [R, 2]

    Returns:
        Rows and events; they may be added up over clients. [2, 66], float64
    """
    cell = torch.searchsorted(edges, bits(y[:, 0]), right=True)
    both = torch.stack([torch.ones_like(y[:, 1]), y[:, 1]]).double()
    return both.new_zeros(2, CELLS + 2).index_add_(1, cell, both)


def refined(edges: Tensor, found: Tensor) -> Tensor:
    """Cells in each of which the curve falls as much, as far as the present ones show it; flat ends are left out.

    Args:
        edges: The present ones. [65], int32
        found: What `counts` returns, added up over clients. [2, 66]

    Returns:
        Ascending; some may be equal. [65], int32
    """
    fall = _fall(found)
    total = torch.cat([fall.new_zeros(1), fall.cumsum(0)])
    if not bool(total[-1] > 0):
        return edges
    wanted = total[-1] * torch.arange(CELLS, dtype=total.dtype, device=total.device) / CELLS
    cell = (torch.searchsorted(total, wanted, right=True) - 1).clamp(max=CELLS - 1)
    inside = (wanted - total[cell]) / fall[cell].clamp(min=1e-12)
    begins = cell.diff(prepend=cell.new_full((1,), -1)) > 0
    inside[begins & (cell.bincount(minlength=CELLS)[cell] > 1)] = 0.0  # who is split keeps where it began
    low, width = edges[cell].double(), edges.double().diff()[cell]
    top = edges[torch.searchsorted(total, total[-1:])]  # where the last event's cell ends
    return torch.cat([(low + inside.clamp(0, 1) * width).int(), top])


def expected(found: Tensor) -> Tensor:
    """H at each edge: as it is just before, from there on, and for an event in a cell that is one time.

    Events of one time have H's mean over its step. Then Σ H over all rows is the number of events, as in theory.

    Args:
        found: What `counts` returns, added up over clients. [2, 66]

    Returns:
        The three; they differ where many rows share one time. [3, 65], float32
    """
    fall = _fall(found)
    tied = fall > TIED * fall.sum() / CELLS
    events, survive, rise = _rises(found, torch.where(tied, 0.0, 0.5))
    mean = (1 - survive * rise / events.clamp(min=1)).clamp(min=0)
    before, none = torch.cat([rise.new_zeros(1), rise.cumsum(0)]), rise.new_zeros(1)
    at, event = (before + torch.cat([torch.where(tied, step, 0.0), none]) for step in (rise, mean))
    return torch.stack([before, at, event]).float()


def _rises(found: Tensor, left: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each cell the events, the rows at risk without them, and by how much H rises. [64] each

    Args:
        found: What `counts` returns, added up. [2, 66]
        left: For which part of a cell those whose time ends there without an event are not at risk. [64]
    """
    rows, events = found.clamp(min=0)
    at_risk = rows.flip(0).cumsum(0).flip(0)[1:-1] - left * (rows - events)[1:-1]
    events = events[1:-1]
    survive = (at_risk - events).clamp(min=0)
    return events, survive, ((at_risk + 0.5) / (survive + 0.5)).log()


def _fall(found: Tensor) -> Tensor:
    """By how much exp(−H) falls in each cell. [64]"""
    _, _, rise = _rises(found, found.new_full((CELLS,), 0.5))
    before = torch.cat([rise.new_zeros(1), rise.cumsum(0)])
    return -(-before).exp().diff()


def read(edges: Tensor, expected: Tensor, time: Tensor, event: Tensor | None = None) -> Tensor:
    """H(t). It is 0 before the first edge, and stays as it is after the last.

    Args:
        edges: Of the cells. [65], int32
        expected: H at them. [3, 65]
        time: t. [R]
        event: Whether it ended in an event, 1 or 0; None: no matter. [R]

    Returns:
        [R], float64
    """
    before, at, of_event = expected.double()
    place = torch.searchsorted(edges, bits(time), right=True) - 1  # −1: before the first
    cell = place.clamp(0, CELLS - 1)
    ends = edges.view(torch.float32).double()
    share = ((time.double() - ends[cell]) / ends.diff()[cell].clamp(min=torch.finfo(torch.float64).tiny)).clamp(0, 1)
    low = at[cell] if event is None else torch.where(event > 0, of_event[cell], at[cell])
    tied = at[cell] > before[cell]
    inside = torch.where(tied, low, low + share * (before[cell + 1] - low))
    return torch.where(place < 0, 0.0, torch.where(place >= CELLS, at[-1], inside))
