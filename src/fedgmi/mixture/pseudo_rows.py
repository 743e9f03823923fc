"""Clusters of rows, as far as a codebook's cells show them: a mixture fitted to points drawn from each cell.

The server has each cell's centre, every client's count in it, and the covariance of all rows. What the centres do not
vary by, rows vary by within cells. So each cell is taken for a Gaussian around its centre, points drawn from it stand
for its rows, and the mixture P_i(z) = Σ_k π_ik·f_k(z) is fitted to them by EM, with each client's own proportions.
Nobody sends anything more for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fedgmi.randomness import generator

DIMENSIONS = 10
"""Principal directions of the rows in which clusters are sought, at most."""
POINTS = 32
"""Of a cell."""
FLOOR = 1e-3
"""The least variance of a cluster in any direction, and within a cell, as a share of that of all rows. Columns of a few
values have no variance of their own, and the likelihood of a Gaussian without variance has no bound."""
SHRINKAGE = 2.0
"""Rows a direction of all rows' covariance that each cluster's own covariance has for nothing."""
STEPS = 100
"""Of EM, at most."""
SETTLED = 1e-6
"""EM stops where a step gains less, in nats a row."""


@dataclass(frozen=True)
class Family:
    """What a cluster looks like.

    Attributes:
        freedom: Degrees of freedom of a multivariate t; None: a Gaussian.
        common: Whether all clusters have one covariance.
    """

    freedom: float | None
    common: bool


@dataclass(frozen=True)
class Clusters:
    """A fitted mixture.

    Attributes:
        proportions: π. [C, K]
        responsibilities: r_ik(j), the mean over the points of a cell. [C, J, K]
    """

    proportions: Tensor
    responsibilities: Tensor


def draw_points(centres: Tensor, counts: Tensor, covariance: Tensor, seed: int) -> Tensor:
    """Points that stand for the rows of each cell: N(m_j, V), V = all rows' covariance less that of the centres.

    They come in pairs, z and 2m_j − z, and each cell's have exactly the mean m_j and the covariance V. Directions
    without variance are left out.

    Args:
        centres: m. [J, d]
        counts: Rows in each cell. [J]
        covariance: Of all rows. [d, d]
        seed: Of the draws, which are the same for all cells.

    Returns:
        In units of the rows' deviation along each principal direction. [J, POINTS, d'], d' at most DIMENSIONS
    """
    variances, directions = torch.linalg.eigh(covariance)
    kept = torch.arange(len(variances), device=variances.device) >= len(variances) - DIMENSIONS
    kept &= variances > 1e-9 * variances[-1]
    scaled = directions[:, kept] / variances[kept].sqrt()
    weight = counts / counts.sum()
    middles = centres @ scaled
    middles = middles - weight @ middles
    between = middles.T @ (weight[:, None] * middles)
    values, vectors = torch.linalg.eigh(torch.eye(len(between), dtype=between.dtype, device=between.device) - between)
    root = (vectors * values.clamp(min=FLOOR).sqrt()) @ vectors.T  # symmetric: no sign of an eigenvector enters
    half = torch.randn(POINTS // 2, len(root), generator=generator(seed, "pseudo-rows"), dtype=torch.float64)
    draws = torch.cat([half, -half]).to(root.device)
    values, vectors = torch.linalg.eigh(draws.T @ draws / POINTS)
    draws = draws @ ((vectors / values.sqrt()) @ vectors.T)
    points: Tensor = middles[:, None, :] + draws @ root
    return points


def fit_clusters(points: Tensor, counts: Tensor, start: Tensor, proportions: Tensor, family: Family) -> Clusters:
    """EM for P_i(z) = Σ_k π_ik·f_k(z), where a client's rows in a cell are spread evenly over its points.

    Args:
        points: As `draw_points` has them. [J, S, d]
        counts: Rows of each client in each cell. [C, J]
        start: Responsibilities for cells. [J, K]
        proportions: π to start from. [C, K]
        family: Of f.

    Returns:
        The mixture.
    """
    (n_cells, n_points, _), n_clusters = points.shape, start.shape[1]
    flat, shares = points.flatten(0, 1), counts / n_points
    mass = (start * shares.sum(0)[:, None]).repeat_interleave(n_points, 0)  # rows of cluster k at a point. [J·S, K]
    weight, last = torch.ones_like(mass), -math.inf
    n_rows = counts.sum(1, keepdim=True)
    for _ in range(STEPS):
        log_density, weight = log_densities(flat, mass, weight, family)
        top = log_density.max(1, keepdim=True).values
        density = (log_density - top).exp().reshape(n_cells, n_points, n_clusters)
        joint = density[None] * proportions[:, None, None, :]
        likelihood = joint.sum(3, keepdim=True).clamp(min=1e-300)
        resp = joint / likelihood
        bound = float((likelihood.log()[..., 0] * shares[:, :, None]).sum() + (top[:, 0] * mass.sum(1)).sum())
        mass = (resp * shares[:, :, None, None]).sum(0).flatten(0, 1)
        mean = resp.mean(2)
        pooled = mass.sum(0) / mass.sum()
        proportions = ((mean * counts[:, :, None]).sum(1) + pooled) / (n_rows + 1)
        if abs(bound - last) < SETTLED * float(counts.sum()):
            break
        last = bound
    return Clusters(proportions, mean)


def log_densities(points: Tensor, mass: Tensor, weight: Tensor, family: Family) -> tuple[Tensor, Tensor]:
    """The M-step, then log f_k of each point, up to a constant; points are weighted by mass.

    A t's M-step weighs points by u = (ν + d)/(ν + δ), δ the squared Mahalanobis distance (Peel & McLachlan 2000).

    Args:
        points: [P, d]
        mass: Rows of each cluster at each point. [P, K]
        weight: u of the last step. [P, K]
        family: Of f.

    Returns:
        log f [P, K] in nats, and u. [P, K]
    """
    dim, used = points.shape[1], mass * weight
    rows = mass.sum(0).clamp(min=1e-9)
    means = used.T @ points / used.sum(0).clamp(min=1e-9)[:, None]
    apart = points - means[:, None]  # [K, P, d]
    scatter = (apart * used.T[:, :, None]).mT @ apart
    unit = torch.eye(dim, dtype=points.dtype, device=points.device)
    if family.common:
        covariance = (scatter.sum(0) / rows.sum()).expand_as(scatter)
    else:
        free = SHRINKAGE * dim
        covariance = (scatter + free * unit) / (rows + free)[:, None, None]
    root = torch.linalg.cholesky(covariance + FLOOR * unit)
    distance = torch.linalg.solve_triangular(root, apart.mT, upper=False).square().sum(1).T
    volume = root.diagonal(dim1=1, dim2=2).log().sum(1)
    if family.freedom is None:
        return -0.5 * distance - volume, torch.ones_like(distance)
    nu = family.freedom
    return -0.5 * (nu + dim) * torch.log1p(distance / nu) - volume, (nu + dim) / (nu + distance)
