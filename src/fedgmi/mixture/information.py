"""What rows say about proportions: whether components can be told apart at all, and how sure an estimate is.

With r_k(x) the responsibilities under the pooled proportions q, the matrix

    M = D^−½ · E[r(x) r(x)ᵀ] · D^−½        D = diag E[r(x)]

has the eigenvalue 1 (belonging to √q) and K − 1 others in [0, 1]. They are squared canonical correlations between the
component of a row and the row. 1 means that rows tell the component beyond doubt. 0 means that two components (or mixes
of them) look exactly alike, so that no number of rows can tell their proportions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.mixture.posterior import PROPORTION_FLOOR, responsibilities
from fedgmi.tree import Tree

MIN_CONTRAST = 0.05
"""Components with less contrast count as alike. At this contrast, 200 rows leave a standard error of about 0.15. Models
that remember their rows reach 0.02 where components do not differ at all."""
OPEN = 0.5
"""Rows decide a client's proportions where they leave less than this share of the variance that a flat prior has."""


def contrast_sums(log_evidence: Tensor, share: Tensor, rows: Rows) -> Tree:
    """What rows add to the matrix from which `contrasts` are computed.

    Args:
        log_evidence: [R, K], nats
        share: q, the pooled proportions. [K]
        rows: The rows that the evidence is about.

    Returns:
        A sum that may be added up over clients: `joint`, Σ_x r(x) r(x)ᵀ [K, K].
    """
    one_client = torch.zeros_like(rows.client_index)
    resp, _ = responsibilities(log_evidence, share[None], one_client)
    return {"joint": resp.T @ resp}


def contrasts(joint: Tensor) -> Tensor:
    """How well components, or mixes of them, can be told apart: the eigenvalues of M.

    The eigenvalue that is always 1 is left out. The first value is that of the two components, or mixes, that are most
    alike. The last is that of the least alike.

    Args:
        joint: What `contrast_sums` returns, added up over clients. [K, K]

    Returns:
        Values in [0, 1], ascending. [K − 1], or [1] for K = 1

    >>> contrasts(torch.eye(3, dtype=torch.float64)), contrasts(torch.ones(2, 2, dtype=torch.float64)).round(decimals=6)
    (tensor([1., 1.], dtype=torch.float64), tensor([0.], dtype=torch.float64))
    """
    if len(joint) == 1:
        return joint.new_ones(1)
    scale = joint.sum(1).clamp(min=PROPORTION_FLOOR).rsqrt()
    values: Tensor = torch.linalg.eigvalsh(scale[:, None] * joint * scale)
    return values.clamp(0, 1)[:-1]


def standard_errors(
    log_evidence: Tensor, proportions: Tensor, prior: Tensor, rows: Rows, dispersion: Tensor | None = None
) -> Tensor:
    """How sure each client's proportions are, from the curvature of its log likelihood.

    The information is J/φ with J = Σ_x u(x) u(x)ᵀ, u_k = r_k(x)/π_k, plus the prior's pseudo-rows diag(prior/π²),
    within Σ_k π_k = 1. φ is how many times as much a client's counts vary as those of rows drawn independently: the
    score of clients that scatter on their own has the variance φ·J (McCullagh & Nelder 1989). The components are taken
    as known, so an uncertainty that all clients share is not in it.

    Args:
        log_evidence: [R, K], nats
        proportions: π, as `e_step` found them. [C, K]
        prior: The pseudo-rows that `e_step` was given. [K]
        rows: The rows that the evidence is about.
        dispersion: φ of each client (`scatter.dispersion`). None: 1. [C]

    Returns:
        Standard errors of the proportions. [C, K]
    """
    resp, _ = responsibilities(log_evidence, proportions, rows.client_index)
    return errors_by(resp, proportions, prior, rows, dispersion)


def errors_by(resp: Tensor, proportions: Tensor, prior: Tensor, rows: Rows, dispersion: Tensor | None = None) -> Tensor:
    """`standard_errors` by the responsibilities of rows.

    Args:
        resp: r. [R, K]
        proportions: π. [C, K]
        prior: Pseudo-rows. [K]
        rows: Of C clients.
        dispersion: φ of each client. None: 1. [C]

    Returns:
        Standard errors of the proportions. [C, K]
    """
    floor = proportions.double().clamp(min=1e-3)
    ratio = resp / floor[rows.client_index]
    information = rows.sum_by_client(ratio[:, :, None] * ratio[:, None, :])
    if dispersion is not None:
        information = information / dispersion[:, None, None]
    information += torch.diag_embed(prior.double().to(floor.device) / floor.square())
    n_components = proportions.shape[1]
    basis = torch.linalg.svd(floor.new_ones(1, n_components))[2][1:].T  # directions in which shares still sum to one
    inner = basis.T @ information @ basis
    covariance: Tensor = basis @ torch.linalg.inv(inner) @ basis.T
    return covariance.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()


def decided(errors: Tensor) -> Tensor:
    """Whether rows leave less than half of what is open before any row: Σ_k se_k² < ½·(K − 1)/(K(K + 1)).

    The right side is half the summed variance of proportions that are flat on the simplex, Dirichlet(1, …, 1). With two
    components that takes three to five rows beyond doubt, and more where rows tell components apart less well.

    Args:
        errors: Standard errors of proportions. [C, K]

    Returns:
        [C], bool. True for K = 1, where nothing is open.

    >>> decided(torch.tensor([[0.1, 0.1], [0.3, 0.3]])).tolist()
    [True, False]
    """
    k = errors.shape[1]
    return errors.square().sum(1) <= OPEN * (k - 1) / (k * (k + 1))
