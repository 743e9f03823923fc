"""The federated codebook: rows become words, and only sums and counts leave a client.

Rows are standardised by federated sums, projected to a few dimensions by a seeded random matrix (both sides draw it,
nobody sends it), and quantised by federated k-means. A word is a (cell, label) pair; words that are too rare are
merged into one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.randomness import generator
from fedgmi.tree import Tree

MIN_CELL_ROWS = 5  # a client keeps silent about a cell in which it has fewer rows
MIN_WORD_ROWS = 20  # words with fewer pooled rows are merged


class Projector(NamedTuple):
    """x ↦ ((x − mean)/std) · matrix, with mean, std [D] and matrix [D, d]."""

    mean: Tensor
    std: Tensor
    matrix: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return ((x.flatten(1) - self.mean) / self.std) @ self.matrix


def projector(mean: Tensor, std: Tensor, dim: int, seed: int) -> Projector:
    """The seeded random projection to `dim` dimensions; no projection where the features are that few."""
    n_features = len(mean)
    if n_features <= dim:
        return Projector(mean, std, torch.eye(n_features, device=mean.device))
    matrix = torch.randn(n_features, dim, generator=generator(seed, "projection")) / dim**0.5
    return Projector(mean, std, matrix.to(mean.device))


def spread_sums(projected: Tensor) -> Tree:
    """Additive: Σ z [d] and Σ z zᵀ [d, d] of the projected rows, from which the first centres are drawn."""
    z = projected.double()
    return {"sum": z.sum(0), "outer": z.T @ z, "count": torch.tensor(float(len(z)), dtype=torch.float64)}


def first_centres(sums: Tree, n_cells: int, seed: int) -> Tensor:
    """Seeded draws from the Gaussian with the pooled mean and covariance: no client's row is ever a centre. [J, d]"""
    mean = sums["sum"] / sums["count"]
    covariance = sums["outer"] / sums["count"] - mean[:, None] * mean
    values, vectors = torch.linalg.eigh(covariance)
    draws = torch.randn(n_cells, len(mean), generator=generator(seed, "centres"), dtype=torch.float64)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T  # symmetric: no sign of an eigenvector enters
    centres: Tensor = mean + draws.to(mean.device) @ root
    return centres.float()


def cells(projected: Tensor, centres: Tensor) -> Tensor:
    """The nearest centre of each row [R]."""
    distance: Tensor = torch.cdist(projected, centres)
    return distance.argmin(1)


def cell_sums(projected: Tensor, centres: Tensor, rows: Rows) -> Tree:
    """Additive: sums [J, d] and counts [J] of the rows in each cell, cells of fewer than 5 rows kept back."""
    n_cells, owner_cell = len(centres), rows.owner * len(centres) + cells(projected, centres)
    counts = torch.bincount(owner_cell, minlength=rows.n_clients * n_cells)
    told = (counts >= MIN_CELL_ROWS)[owner_cell]
    kept = owner_cell[told] % n_cells
    sums = torch.zeros_like(centres, dtype=torch.float64).index_add_(0, kept, projected[told].double())
    return {"sums": sums, "counts": torch.bincount(kept, minlength=n_cells).double()}


def move_centres(centres: Tensor, totals: Tree, seed: int) -> Tensor:
    """One Lloyd step; an empty cell is moved beside the most populous one, so that no word is wasted.

    Where every cell was kept back, nothing is known and all centres stay.
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
    """[C, W] how often each client holds each word."""
    flat = torch.bincount(rows.owner * n_words + words, minlength=rows.n_clients * n_words)
    return flat.reshape(rows.n_clients, n_words)


def merge_rare(counts: Tensor, noise_deviation: float = 0.0) -> Tensor:
    """Where each word goes [W]: its new index; all words with fewer than 20 pooled rows share the last one.

    noise_deviation: of the pooled counts; a word is rare too where its count is within two deviations of none.

    >>> merge_rare(torch.tensor([30, 1, 40])).tolist()
    [0, 2, 1]
    >>> merge_rare(torch.tensor([30, 1, 40]), noise_deviation=18.0).tolist()
    [1, 1, 0]
    """
    frequent = counts >= max(MIN_WORD_ROWS, 2 * noise_deviation)
    return torch.where(frequent, frequent.cumsum(0) - 1, frequent.sum())
