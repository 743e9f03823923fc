"""What takes the label's place in words where labels are no classes: bins that hold equally many rows of all clients.

    regression   u = Φ(y), y the standardised target                                  3 bins of u
    survival     u = 1 − exp(−y), y the time on which events come at rate 1           3 bins of u, event or not

u is in [0, 1] and about uniform. Each client counts its rows in a grid of 64 cells of u, the counts are added up, and
the bins' edges are quantiles of that sum. An edge is exact to a cell, within which rows are taken as evenly spread.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fedgmi.data.rows import Schema

BINS = 3
"""Of the target. docs/decisions.md has what other numbers do."""
GRID = 64
"""Cells in which clients count."""


def binned(schema: Schema) -> bool:
    """Whether labels are no classes, so that bins take their place."""
    return schema.task != "classification"


def n_values(schema: Schema) -> int:
    """How many values the label's part of a word has: classes, bins, or 1 without labels."""
    return {"classification": max(schema.n_classes, 1), "regression": BINS, "survival": 2 * BINS}[schema.task]


def level(schema: Schema, y: Tensor) -> Tensor:
    """u of each row.

    Args:
        schema: Which task it is.
        y: On the scale of `fedgmi.methods.target_scale`. [R], or [R, 2]

    Returns:
        [R], from 0 to 1, float64
    """
    if schema.task == "survival":
        return 1 - (-y[:, 0].double()).exp()
    return 0.5 * (1 + torch.erf(y.double() / math.sqrt(2)))


def grid_counts(levels: Tensor) -> Tensor:
    """How many rows are in each cell of the grid.

    Args:
        levels: u. [R]

    Returns:
        Counts, which may be added up over clients. [64], float64
    """
    cell = (levels * GRID).long().clamp(0, GRID - 1)
    return torch.bincount(cell, minlength=GRID).double()


def edges(counts: Tensor, n_bins: int = BINS) -> Tensor:
    """Where bins end.

    Args:
        counts: What `grid_counts` returns, added up over clients. [64]
        n_bins: Q.

    Returns:
        The Q − 1 inner edges, ascending. Float64

    Examples:
        >>> edges(torch.ones(GRID), 4).tolist()
        [0.25, 0.5, 0.75]
    """
    total = counts.cumsum(0)
    wanted = total[-1] * torch.arange(1, n_bins, dtype=counts.dtype, device=counts.device) / n_bins
    cell = torch.searchsorted(total, wanted).clamp(max=GRID - 1)
    before = total[cell] - counts[cell]
    inside = (wanted - before) / counts[cell].clamp(min=1e-12)
    return (cell + inside.clamp(0, 1)) / GRID


def values(schema: Schema, y: Tensor, inner: Tensor) -> Tensor:
    """The label's part of each row's word.

    Args:
        schema: Which task it is; not classification.
        y: On the scale of `fedgmi.methods.target_scale`. [R], or [R, 2]
        inner: What `edges` returns.

    Returns:
        From 0 to `n_values` − 1. [R], int64
    """
    found = torch.bucketize(level(schema, y), inner)
    return found + BINS * (y[:, 1] > 0).long() if schema.task == "survival" else found
