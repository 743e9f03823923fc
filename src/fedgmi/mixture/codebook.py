"""The federated codebook: rows become words, and only sums and counts leave a client.

Rows are standardised by federated sums, projected to a few dimensions by a seeded random matrix, and quantised by
federated k-means. Both sides draw the matrix, and nobody sends it. A word is a cell and a label; `rare_words` says what
becomes of those with few rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.randomness import generator
from fedgmi.tree import Tree

LARGEST = 2**20  # numbers at once, where rows are taken one by one
MIN_CELL_ROWS = 5
"""A client keeps silent about a cell in which it has fewer rows."""


class Projector(NamedTuple):
    """x ↦ ((x − mean)/std) · matrix.

    Attributes:
        mean: Of every feature. [D]
        std: Of every feature. [D]
        matrix: The projection. [D, d]
    """

    mean: Tensor
    std: Tensor
    matrix: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return ((x.flatten(1) - self.mean) / self.std) @ self.matrix

    def row_by_row(self, x: Tensor) -> Tensor:
        """The same, where a row's point is its own to the last bit: a product of matrices rounds by what is beside."""
        scaled = ((x.flatten(1) - self.mean) / self.std).double()
        across = self.matrix.T.double()
        return torch.cat([(some[:, None] * across).sum(-1) for some in _few_at_once(scaled, across)]).to(x.dtype)


def projector(mean: Tensor, std: Tensor, dim: int, seed: int) -> Projector:
    """The seeded random projection to a few dimensions. Where the features are that few, nothing is projected.

    Args:
        mean: Of every feature, over all clients. [D]
        std: Of every feature, over all clients. [D]
        dim: d, how many dimensions to keep.
        seed: The run's seed. Both sides draw the same matrix from it.

    Returns:
        What turns rows into points. [R, *shape] → [R, d]
    """
    n_features = len(mean)
    if n_features <= dim:
        return Projector(mean, std, torch.eye(n_features, device=mean.device))
    matrix = torch.randn(n_features, dim, generator=generator(seed, "projection")) / dim**0.5
    return Projector(mean, std, matrix.to(mean.device))


def spread_sums(projected: Tensor) -> Tree:
    """What rows add to the pooled mean and covariance, from which the first centres are drawn.

    Args:
        projected: Points z. [R, d]

    Returns:
        Sums that may be added up over clients: `sum`, Σ z [d], `outer`, Σ z zᵀ [d, d], and `count`, the number of rows.
    """
    z = projected.double()
    return {"sum": z.sum(0), "outer": z.T @ z, "count": torch.tensor(float(len(z)), dtype=torch.float64)}


def pooled_covariance(sums: Tree) -> Tensor:
    """Of all rows' points. [d, d]

    Args:
        sums: What `spread_sums` returns, added up over clients.
    """
    mean = sums["sum"] / sums["count"]
    covariance: Tensor = sums["outer"] / sums["count"] - mean[:, None] * mean
    return covariance


def first_centres(sums: Tree, n_cells: int, seed: int) -> Tensor:
    """Seeded draws from the Gaussian with the pooled mean and covariance. No client's row is ever a centre.

    Args:
        sums: What `spread_sums` returns, added up over clients.
        n_cells: J.
        seed: The run's seed.

    Returns:
        The centres. [J, d], float32
    """
    mean = sums["sum"] / sums["count"]
    values, vectors = torch.linalg.eigh(pooled_covariance(sums))
    draws = torch.randn(n_cells, len(mean), generator=generator(seed, "centres"), dtype=torch.float64)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T  # symmetric: no sign of an eigenvector enters
    centres: Tensor = mean + draws.to(mean.device) @ root
    return centres.float()


def cells(projected: Tensor, centres: Tensor, *, row_by_row: bool = False) -> Tensor:
    """The nearest centre of each row.

    Args:
        projected: Points. [R, d]
        centres: [J, d]
        row_by_row: Whether a row's cell is its own, whatever rows are beside it. Distances to far centres that lie next
            to each other are equal but for rounding, and `cdist` rounds by what is beside.

    Returns:
        Numbers from 0 to J − 1. [R]
    """
    if not row_by_row:
        distance: Tensor = torch.cdist(projected, centres)
        return distance.argmin(1)
    points, around = projected.double(), centres.double()
    found = [(some[:, None] - around).square().sum(-1).argmin(1) for some in _few_at_once(points, around)]
    return torch.cat(found)


def _few_at_once(rows: Tensor, beside: Tensor) -> Sequence[Tensor]:
    """Rows [R, d] in parts that take some megabytes together with each of these [J, d]."""
    return torch.split(rows, max(1, LARGEST // max(1, beside.numel())))


def cell_sums(projected: Tensor, centres: Tensor, rows: Rows) -> Tree:
    """What rows add to one step of k-means. A client keeps silent about cells in which it has fewer than 5 rows.

    Args:
        projected: Points of all rows. [R, d]
        centres: [J, d]
        rows: The rows, whose clients decide what is kept back.

    Returns:
        Sums that may be added up over clients: `sums` of the points in each cell [J, d], and `counts` of them [J].
    """
    n_cells, client_cell = len(centres), rows.client_index * len(centres) + cells(projected, centres)
    counts = torch.bincount(client_cell, minlength=rows.n_clients * n_cells)
    disclosed = (counts >= MIN_CELL_ROWS)[client_cell]
    kept = client_cell[disclosed] % n_cells
    sums = torch.zeros_like(centres, dtype=torch.float64).index_add_(0, kept, projected[disclosed].double())
    return {"sums": sums, "counts": torch.bincount(kept, minlength=n_cells).double()}


def move_centres(centres: Tensor, totals: Tree, seed: int) -> Tensor:
    """One Lloyd step.

    An empty cell is moved beside the most populous one, so that no word is wasted. Where every cell was kept back,
    nothing is known and all centres stay.

    Args:
        centres: [J, d]
        totals: What `cell_sums` returns, added up over clients.
        seed: Of the small offsets that empty cells get.

    Returns:
        The new centres. [J, d]
    """
    counts = totals["counts"]
    moved = torch.where((counts > 0)[:, None], (totals["sums"] / counts.clamp(min=1)[:, None]).float(), centres)
    empty = (counts == 0).nonzero().flatten().tolist()
    busiest = counts.argsort(descending=True, stable=True)
    if not empty or len(empty) == len(counts):
        return moved
    jitter = torch.randn(len(empty), centres.shape[1], generator=generator(seed, "empty cells")).to(centres.device)
    scale = 0.1 * moved.std(0)
    for rank, cell in enumerate(empty):
        moved[cell] = moved[busiest[rank % (len(counts) - len(empty))]] + jitter[rank] * scale
    return moved


def histogram(words: Tensor, rows: Rows, n_words: int) -> Tensor:
    """How often each client holds each word.

    Args:
        words: The word of each row, from 0 to W − 1. [R]
        rows: The rows.
        n_words: W.

    Returns:
        Counts. [C, W], int64
    """
    flat = torch.bincount(rows.client_index * n_words + words, minlength=rows.n_clients * n_words)
    return flat.reshape(rows.n_clients, n_words)
