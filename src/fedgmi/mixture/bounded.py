"""Sums for the codebook to which no row adds much: what is summed lies in a ball of radius 1.

    u = z/√d · min(1, √d/‖z‖)        z ∈ R^d, ‖u‖ ≤ 1

z are points of the codebook (`mixture.codebook`). Features that are spread evenly over a known range have deviation 1,
and then ‖z‖² is d or less on average: few are cut. No cell is kept back, for whether one is told would hang on a single
row. u is cut to multiples of 2⁻¹⁶, so that sums of u, and of products, are exact: rounding would add to what a row
changes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fedgmi.errors import DataError
from fedgmi.mixture.codebook import MIN_CELL_ROWS, cells, first_centres
from fedgmi.tree import Tree

SPREAD_CHANGE = math.sqrt(4.5)
"""What a row in another's place changes in `spread_sums`, in L2. It is φ(u) − φ(v) with φ(u) = (u, uuᵀ), and
‖φ(u) − φ(v)‖² = ‖u‖² + ‖v‖² − 2c + ‖u‖⁴ + ‖v‖⁴ − 2c², c = uᵀv. The
lengths add 4 at most, and −2c − 2c² is ½ at most."""

CELL_CHANGE = 2.0
"""The same for `cell_sums`. Within a cell the sum changes by ‖u − v‖ ≤ 2, and no count. From one cell to another two
sums change, by ‖u‖² + ‖v‖² ≤ 2, and two counts by 1 each: 4 in all, squared."""

STEP = 2.0**-16
MOST_ROWS = 2**20
"""Of a client: float64 holds each multiple of 2⁻³² up to 2²¹, whatever the order in which they are added up."""


def in_ball(points: Tensor) -> Tensor:
    """u of each point; what is no number counts as 0.

    Args:
        points: z. [R, d]

    Returns:
        [R, d], float64, ‖u‖ ≤ 1

    Raises:
        DataError: For so many rows that their sums would not be exact.

    Examples:
        >>> in_ball(torch.tensor([[0.0, 1.0], [30.0, 40.0]])).round(decimals=3)
        tensor([[0.0000, 0.7070],
                [0.6000, 0.8000]], dtype=torch.float64)
    """
    if len(points) > MOST_ROWS:
        what = f"{len(points)} rows of a client, and beyond {MOST_ROWS} their sums are not exact any more"
        raise DataError(what, where="rows", fix="let the client take part with fewer rows")
    shrunk = points.double().nan_to_num(0.0, 0.0, 0.0) / math.sqrt(points.shape[1])
    inside: Tensor = shrunk / shrunk.norm(dim=1, keepdim=True).clamp(min=1.0)
    return (inside / STEP).trunc() * STEP


def spread_sums(points: Tensor) -> Tree:
    """What rows add to the mean and the covariance from which the first centres are drawn.

    Args:
        points: z. [R, d]

    Returns:
        `sum` Σ u [d], `outer` Σ u uᵀ [d, d], and `count`, which a row in another's place leaves as it is.
    """
    inside = in_ball(points)
    return {"sum": inside.sum(0), "outer": inside.T @ inside, "count": inside.new_tensor(float(len(inside)))}


def drawn_centres(sums: Tree, n_cells: int, seed: int) -> Tensor:
    """The first centres, from sums with noise.

    Args:
        sums: Those of `spread_sums` over all clients, with noise.
        n_cells: J.
        seed: The run's.

    Returns:
        Centres among the points z. [J, d], float32
    """
    outer = (sums["outer"] + sums["outer"].T) / 2
    sums = {"sum": sums["sum"], "outer": outer, "count": sums["count"].clamp(min=1.0)}
    return _among_points(first_centres(sums, n_cells, seed).double())


def cell_sums(points: Tensor, centres: Tensor) -> Tree:
    """What rows add to one step of k-means.

    Args:
        points: z. [R, d]
        centres: Among the points. [J, d]

    Returns:
        `sums` Σ u of each cell [J, d], and `counts` [J].
    """
    cell, inside = cells(points, centres, row_by_row=True), in_ball(points)
    sums = inside.new_zeros(centres.shape).index_add_(0, cell, inside)
    return {"sums": sums, "counts": torch.bincount(cell, minlength=len(centres)).double()}


def moved_centres(centres: Tensor, sums: Tree) -> Tensor:
    """One Lloyd step by sums with noise. A cell with fewer than five rows, as far as is known, stays where it is.

    Args:
        centres: Among the points z. [J, d]
        sums: Those of `cell_sums` over all clients, with noise.

    Returns:
        The new centres. A mean that noise has moved out of the ball is cut to it. [J, d]
    """
    counts = sums["counts"][:, None]
    mean = _among_points(sums["sums"] / counts.clamp(min=MIN_CELL_ROWS))
    return torch.where(counts >= MIN_CELL_ROWS, mean, centres)


def _among_points(inside: Tensor) -> Tensor:
    """The way back from the ball. [J, d], float32"""
    points: Tensor = inside / inside.norm(dim=1, keepdim=True).clamp(min=1.0) * math.sqrt(inside.shape[1])
    return points.float()
