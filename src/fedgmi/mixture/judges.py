"""Judges in closed form: Gaussians of (component, label), made of sums from which a client takes its own out.

Responsibilities need density *ratios* only. On points z(x) [d] every component k and label l has a Gaussian under a
normal-inverse-Wishart prior, and is scored by its predictive Student t:

    p_k(x, y = l) ∝ p_k(l) · t_ν(z; m_kl, S_kl)          p_k(x) = Σ_l p_k(x, l)

All that enters are Σ r_k, Σ r_k·z and Σ r_k·z zᵀ over the rows of a label. These add up over clients, so a client is
judged by the others exactly, by *total − own*. A judge that has seen a client's rows is too sure of them. Nothing is
trained.

The prior of (k, l): its mean is that of label l over all components, worth one row. Its covariance is the mean of two,
that within the components of label l and that within the labels of component k, and is worth 300 rows. So few rows of
a label differ from other components' by little, and components that differ in spread (noise, say) do so in all labels.

Murphy 2007, "Conjugate Bayesian analysis of the Gaussian distribution", for the predictive; Friedman 1989,
"Regularized discriminant analysis", for covariances drawn to pooled ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fedgmi.data.rows import Rows

PRIOR_ROWS = 300.0
"""What a prior covariance is worth, in rows: a convention, see docs/decisions.md."""
POOLED_ROWS = 50.0
"""What the covariance within all components and labels is worth in that of one label or component, in rows: a
convention, too."""
LABEL_ROWS = 0.5
"""What each label of a component is worth beforehand, in rows."""
RIDGE = 1e-4
"""Of the mean variance, added to every variance."""
CHUNK = 2**22
"""Numbers of working memory when scoring."""


def n_sums(dim: int) -> int:
    """S, the sums of one component and label: 1 + d + d(d + 1)/2.

    Examples:
        >>> n_sums(2)
        6
    """
    return 1 + dim + dim * (dim + 1) // 2


def moment_sums(points: Tensor, resp: Tensor, labels: Tensor | None, n_labels: int, rows: Rows) -> Tensor:
    """What each client's rows add: Σ r_k, Σ r_k·z and the upper triangle of Σ r_k·z zᵀ, by component and label.

    Args:
        points: z. [R, d]
        resp: r. [R, K]
        labels: Of each row, from 0 to L − 1; None: all rows have label 0. [R]
        n_labels: L.
        rows: Whose they are.

    Returns:
        Sums that may be added up over clients. [C, K, L, S], float64
    """
    z, resp = points.double(), resp.double()
    value = torch.zeros(len(z), dtype=torch.long, device=z.device) if labels is None else labels
    upper = torch.triu_indices(z.shape[1], z.shape[1], device=z.device)
    sums = z.new_zeros((rows.n_clients, resp.shape[1], n_labels, n_sums(z.shape[1])))
    for client, place in enumerate(places(rows)):
        own, hot = z[place], torch.nn.functional.one_hot(value[place], n_labels).double()
        terms = torch.cat([own.new_ones((len(own), 1)), own, own[:, upper[0]] * own[:, upper[1]]], 1)  # [n, S]
        joint = resp[place, :, None] * hot[:, None]  # [n, K, L]
        sums[client] = (joint.flatten(1).T @ terms).reshape(sums.shape[1:])
    return sums


def places(rows: Rows) -> list[slice]:
    """Where each client's rows are. [C]"""
    ends = rows.counts.cumsum(0).tolist()
    return [slice(begin, end) for begin, end in zip([0, *ends[:-1]], ends, strict=True)]


def unpacked(sums: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The sums apart: Σ r [K, L], Σ r·z [K, L, d], Σ r·z zᵀ [K, L, d, d], from [K, L, S]."""
    dim = (math.isqrt(8 * sums.shape[-1] + 1) - 3) // 2
    upper = torch.triu_indices(dim, dim, device=sums.device)
    second = sums.new_zeros((*sums.shape[:-1], dim, dim))
    second[..., upper[0], upper[1]] = sums[..., 1 + dim :]
    second[..., upper[1], upper[0]] = sums[..., 1 + dim :]
    return sums[..., 0], sums[..., 1 : 1 + dim], second


@dataclass(frozen=True)
class Judges:
    """The predictive densities of every component and label.

    Attributes:
        mean: m. [K, L, d]
        root: The inverse of the Cholesky factor of S, so that |root·(z − m)|² = (z − m)ᵀ S⁻¹ (z − m). [K, L, d, d]
        dof: ν. [K, L]
        log_label: log p_k(l). [K, L]
    """

    mean: Tensor
    root: Tensor
    dof: Tensor
    log_label: Tensor

    @classmethod
    def of(cls, sums: Tensor) -> Judges:
        """The judges that sums make.

        Args:
            sums: Of all clients, or of all but one. [K, L, S]

        Returns:
            The judges, float64.
        """
        mass, first, second = unpacked(sums.double())
        mass = mass.clamp(min=0.0)  # a difference of sums may be a little less than nothing
        mean = first / mass.clamp(min=1e-6)[..., None]
        scatter = second - mass[..., None, None] * outer(mean)
        target, ridge = prior_covariance(mass, scatter)
        everything = first.sum((0, 1)) / mass.sum().clamp(min=1e-6)
        centre = (first.sum(0) + everything) / (mass.sum(0) + 1.0)[:, None]  # [L, d]
        spread = PRIOR_ROWS * target + scatter + (mass / (1 + mass))[..., None, None] * outer(mean - centre)
        dof = 3 + PRIOR_ROWS + mass  # ν₀ = d + 2 + PRIOR_ROWS rows, and dof = ν₀ + n − d + 1
        scale = spread * ((mass + 2) / ((mass + 1) * dof))[..., None, None] + ridge
        identity = torch.eye(first.shape[-1], dtype=torch.float64, device=sums.device).expand_as(scale)
        root = torch.linalg.solve_triangular(cholesky(scale, ridge), identity, upper=False)
        label = mass + LABEL_ROWS
        return cls((centre + first) / (1 + mass)[..., None], root, dof, (label / label.sum(1, keepdim=True)).log())

    def log_prob(self, points: Tensor, labels: Tensor | None = None) -> Tensor:
        """log p_k(z, y), or log p_k(z) = log Σ_l p_k(z, l) where no label is seen.

        Args:
            points: z. [R, d]
            labels: From 0 to L − 1. [R]

        Returns:
            [R, K], float64, nats
        """
        if labels is not None:
            return self.log_prob_given(points, labels) + self.log_label[:, labels].T
        n_components, n_labels, dim = self.mean.shape
        chunks = torch.split(points.double(), max(1, CHUNK // (n_components * n_labels * dim)))
        found = [(self.log_label + self._student(z, slice(None))).logsumexp(2) for z in chunks]
        return torch.cat(found)

    def log_prob_given(self, points: Tensor, labels: Tensor) -> Tensor:
        """log p_k(z | y).

        Args:
            points: z. [R, d]
            labels: From 0 to L − 1. [R]

        Returns:
            [R, K], float64, nats
        """
        found = points.new_empty((len(points), len(self.mean)), dtype=torch.float64)
        for label in torch.unique(labels).tolist():  # of many labels most clients have few
            at = (labels == label).nonzero().flatten()
            found[at] = self._student(points[at].double(), slice(label, label + 1))[:, :, 0]
        return found

    def _student(self, z: Tensor, which: slice) -> Tensor:
        """log t_ν(z; m_kl, S_kl) of some labels. [R, K, L]"""
        mean, root, dof = self.mean[:, which], self.root[:, which], self.dof[:, which]
        dim = z.shape[1]
        log_det = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)  # of S^−½
        constant = torch.lgamma((dof + dim) / 2) - torch.lgamma(dof / 2) - 0.5 * dim * (dof * math.pi).log() + log_det
        moved = torch.einsum("klij,rj->rkli", root, z) - torch.einsum("klij,klj->kli", root, mean)
        return constant - 0.5 * (dof + dim) * (moved.square().sum(-1) / dof).log1p()


def prior_covariance(mass: Tensor, scatter: Tensor) -> tuple[Tensor, Tensor]:
    """The prior covariance of every component and label, and the ridge that keeps any covariance from being singular.

    Args:
        mass: Rows. [K, L]
        scatter: Σ r·(z − mean)(z − mean)ᵀ, each about its own mean. [K, L, d, d]

    Returns:
        [K, L, d, d] and [d, d]
    """
    dim = scatter.shape[-1]
    pooled = scatter.sum((0, 1)) / mass.sum().clamp(min=1.0)
    variance = pooled.diagonal().mean().clamp(min=RIDGE)
    ridge = RIDGE * variance * torch.eye(dim, dtype=scatter.dtype, device=scatter.device)
    within = [
        (scatter.sum(axis, keepdim=True) + POOLED_ROWS * (pooled + ridge))
        / (mass.sum(axis, keepdim=True) + POOLED_ROWS)[..., None, None]
        for axis in (0, 1)
    ]
    return (within[0] + within[1]) / 2, ridge


def cholesky(scale: Tensor, ridge: Tensor) -> Tensor:
    """The Cholesky factor of covariances. What no covariance is gets eigenvalues of the ridge or more.

    A difference of sums is none where what is taken out was never put in: a site that answers twice, or a trial.

    Args:
        scale: [K, L, d, d]
        ridge: [d, d]

    Returns:
        [K, L, d, d]

    >>> broken = torch.tensor([[1.0, 2.0], [2.0, 1.0]]).double()
    >>> factor = cholesky(broken[None, None], 0.1 * torch.eye(2).double())[0, 0]
    >>> torch.linalg.eigvalsh(factor @ factor.T)
    tensor([0.1000, 3.0000], dtype=torch.float64)
    """
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(scale)
    if not bool(failed.any()):
        return factor
    values, vectors = torch.linalg.eigh(scale)
    kept = (vectors * values.clamp(min=float(ridge[0, 0]))[..., None, :]) @ vectors.mT
    mended: Tensor = torch.linalg.cholesky(torch.where((failed > 0)[..., None, None], kept, scale))
    return mended


def moved(before: Tensor, after: Tensor) -> Tensor:
    """How far the shares of components and labels went from one turn to the next, in units of their sampling error.

    The shares p_kl are the mass of component k and label l in that of all n rows. They went ½·Σ|p − p'|. Drawing n
    other rows moves each by √(2p(1 − p)/(πn)) on average, and all of them by half the sum.

    Args:
        before: Sums of the turn before; zeros where there was none. [K, L, S]
        after: Sums of this turn. [K, L, S]

    Returns:
        0 where nothing moved, 1 where they went as far as chance would take them. [], float64

    Examples:
        >>> sums = torch.tensor([[[50.0], [0.0]], [[0.0], [50.0]]])
        >>> moved(sums, sums.roll(1, 0)) > 10, moved(sums, sums)
        (tensor(True), tensor(0., dtype=torch.float64))
    """
    old, new = (sums[..., 0].double().clamp(min=0.0) for sums in (before, after))
    n = new.sum().clamp(min=1.0)
    share = new / n
    went = (share - old / old.sum().clamp(min=1.0)).abs().sum() / 2
    chance = (share * (1 - share) * 2 / (math.pi * n)).clamp(min=0.0).sqrt().sum() / 2
    return went / chance.clamp(min=1e-6)


def outer(v: Tensor) -> Tensor:
    """v vᵀ. [..., d] → [..., d, d]"""
    return v[..., :, None] * v[..., None, :]


def by_others(total: Tensor, own: Tensor | None, rows: Rows, ask: Callable[[Judges, slice], Tensor]) -> Tensor:
    """What judges say of each client's rows, made of the rows of all other clients where `own` is given.

    Args:
        total: Sums of all clients. [K, L, S]
        own: The clients' own share of these. [C, K, L, S]
        rows: Of C clients.
        ask: (judges, the place of some rows) → what is asked of these.

    Returns:
        Its answers, row by row.
    """
    if own is None:
        return ask(Judges.of(total), slice(None))
    return torch.cat([ask(Judges.of(total - mine), place) for mine, place in zip(own, places(rows), strict=True)])
