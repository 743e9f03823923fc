"""One scale for all columns of a table, from sums alone: no row leaves a client.

    client   feature_sums(x)            → Σ x, Σ x² and n, which add up over clients
    server   standardisation(sums, …)   → mean and std, which go back to every client
    client   Standardisation.apply(x)   → (x − mean) / std, on its training, validation and held-out rows alike

For D columns that is once 2·D + 1 float64 numbers up and 2·D down per client. Without secure sums the server sees every
client's own mean and variance. A client leaves values that are far from all its others out of them (`fedgmi.data.far`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fedgmi.tree import Tree

RESOLUTION = torch.finfo(torch.float32).eps
"""Rows are float32: a column that differs by less than this, relative to its mean, is constant."""

UNIFORM = 12**0.5
"""A range over the deviation of numbers that are spread evenly in it."""


class Standardisation(NamedTuple):
    """One scale for all rows: z = (x − mean) / std, column by column.

    Attributes:
        mean: In the rows' own units. [D], float64
        std: The deviation, above 0, in the same units. [D], float64

    Examples:
        >>> scale = Standardisation(torch.tensor([10.0]).double(), torch.tensor([2.0]).double())
        >>> scale.apply(torch.tensor([[14.0]])), scale.undo(torch.tensor([[2.0]]))
        (tensor([[2.]]), tensor([[14.]]))
    """

    mean: Tensor
    std: Tensor

    def apply(self, x: Tensor) -> Tensor:
        """Standardise rows.

        Args:
            x: Rows in their own units. [n, *shape]

        Returns:
            The standardised rows. [n, *shape], float32
        """
        return ((x.flatten(1).double() - self.mean.to(x.device)) / self.std.to(x.device)).float().view_as(x)

    def undo(self, x: Tensor) -> Tensor:
        """Bring standardised rows, such as those that a model samples, back to their own units.

        Args:
            x: Standardised rows. [n, *shape]

        Returns:
            The rows in their own units. [n, *shape], float32
        """
        return (x.flatten(1).double() * self.std.to(x.device) + self.mean.to(x.device)).float().view_as(x)

    @property
    def log_det(self) -> float:
        """Σ log std, in nats. A density of standardised rows becomes one of rows by log p(x) = log p(z) − log_det.

        Examples:
            >>> Standardisation(torch.zeros(2), torch.tensor([1.0, 10.0])).log_det
            2.302585...
        """
        return float(self.std.double().log().sum())

    def to_json(self) -> dict[str, list[float] | float]:
        """What it takes to read a summary in the rows' own units.

        Returns:
            `mean` and `std`, column by column [D], and `log_det`.
        """
        return {"mean": self.mean.tolist(), "std": self.std.tolist(), "log_det": self.log_det}


def feature_sums(x: Tensor, *, gaps: bool = False) -> Tree:
    """The client's part: sums over its rows. They add up over clients.

    Args:
        x: Rows. [n, *shape]
        gaps: Whether values may be missing, as NaN. Sums are then over those that are there.

    Returns:
        `sum` Σ x [D], `squares` Σ x² [D] and `count` n [], or [D] with gaps, all float64.

    Examples:
        >>> sums = feature_sums(torch.tensor([[1.0, float("nan")], [3.0, 5.0]]), gaps=True)
        >>> sums["sum"].tolist(), sums["count"].tolist()
        ([4.0, 5.0], [2.0, 1.0])
    """
    x = x.flatten(1).double()
    if gaps:
        there = ~x.isnan()
        x = x.where(there, 0.0)
        return {"sum": x.sum(0), "squares": (x * x).sum(0), "count": there.sum(0).double()}
    return {"sum": x.sum(0), "squares": (x * x).sum(0), "count": x.new_tensor(float(len(x)))}


def means(sums: Tree) -> Tensor:
    """The mean of each column over all clients' rows; 0 where no client has a value.

    Args:
        sums: `feature_sums` of all clients, added up.

    Returns:
        In the rows' own units. [D], float64
    """
    mean: Tensor = sums["sum"] / sums["count"].clamp(min=1.0)
    return mean


def filled(x: Tensor, values: Tensor) -> Tensor:
    """Rows with a value in the place of each that is missing.

    Args:
        x: Rows in which NaN stands for a missing value. [n, D]
        values: One a column. [D]

    Returns:
        The rows. [n, D]

    Examples:
        >>> filled(torch.tensor([[float("nan"), 2.0]]), torch.tensor([7.0, 8.0]))
        tensor([[7., 2.]])
    """
    return torch.where(x.isnan(), values.to(x), x)


def varies(sums: Tree) -> Tensor:
    """Which columns vary: those whose deviation is above what float32 resolves beside their mean.

    Args:
        sums: `feature_sums` of all clients, added up.

    Returns:
        [D], bool
    """
    mean = means(sums)
    return _variance(sums, mean).sqrt() > _resolved(mean)


def _variance(sums: Tree, mean: Tensor) -> Tensor:
    found: Tensor = sums["squares"] / sums["count"].clamp(min=1.0) - mean * mean
    return found.clamp(min=0.0)


def _resolved(mean: Tensor) -> Tensor:
    return RESOLUTION * mean.abs() + torch.finfo(torch.float32).tiny


def standardisation(sums: Tree, features: Sequence[str] = (), *, common_scale: bool = False) -> Standardisation:
    """The server's part: mean = Σx / n and std = √(Σx²/n − mean²) of all clients' rows together.

    One-hot columns stay as they are, with mean 0 and std 1. Such a column holds 0 and 1 alone and is named
    `column=value`. A column is constant where its deviation is below what float32 resolves beside its mean. It gets
    std 1, or that resolution where it is coarser.

    Args:
        sums: `feature_sums` of all clients, added up.
        features: The names of the columns, where they have some. [D]
        common_scale: Whether all features share one deviation. Pixels do, since they have one unit. Otherwise a border
            pixel that is lit in one row of a thousand would outweigh the centre. A table's columns each get their own.

    Returns:
        The scale.

    Examples:
        >>> standardisation(feature_sums(torch.tensor([[1.0, 0.0], [5.0, 1.0]])), ["age", "sex=f"])
        Standardisation(mean=tensor([3., 0.], dtype=torch.float64), std=tensor([2., 1.], dtype=torch.float64))
    """
    mean = means(sums)
    variance, resolved = _variance(sums, mean), _resolved(mean)
    std = variance.mean().sqrt().expand_as(variance) if common_scale else variance.sqrt()
    std = torch.where(std > resolved, std, resolved.clamp(min=1.0))
    if features:
        named = torch.tensor(["=" in name for name in features], device=mean.device)
        one_hot = named & (sums["sum"] == sums["squares"])  # x² = x in every row: a number may have "=" in its name
        mean, std = mean.masked_fill(one_hot, 0.0), std.masked_fill(one_hot, 1.0)
    return Standardisation(mean, std)
