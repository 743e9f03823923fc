"""What rows say about proportions: whether components can be told apart at all, and how sure an estimate is.

With r_k(x) the responsibilities under the pooled proportions q, the matrix

    M = D^−½ · E[r(x) r(x)ᵀ] · D^−½        D = diag E[r(x)]

has the eigenvalue 1 (belonging to √q) and K − 1 others in [0, 1]: squared canonical correlations between the component
of a row and the row. 1 means that rows tell the component beyond doubt, 0 that two components (or mixes of them) look
exactly alike, so that no number of rows can tell their proportions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.mixture.posterior import PROPORTION_FLOOR, responsibilities
from fedgmi.tree import Tree

MIN_CONTRAST = 0.05
"""Below this contrast components count as alike: 200 rows would leave a standard error of about 0.15, and models that
remember their rows reach 0.02 where components do not differ at all."""


def contrast_sums(log_evidence: Tensor, share: Tensor, rows: Rows) -> Tree:
    """Additive: Σ_x r(x) r(x)ᵀ [K, K] under the pooled proportions, whence `contrasts`. log_evidence [R, K]."""
    owner = torch.zeros_like(rows.owner)
    resp, _ = responsibilities(log_evidence, share[None], owner)
    return {"joint": resp.T @ resp}


def contrasts(joint: Tensor) -> Tensor:
    """The eigenvalues of M but for the one that is always 1 [K − 1], ascending: how well (mixes of) components can be
    told apart. The first is that of the two likest, the last that of the two least alike; [1] for K = 1.

    >>> contrasts(torch.eye(3, dtype=torch.float64)), contrasts(torch.ones(2, 2, dtype=torch.float64)).round(decimals=6)
    (tensor([1., 1.], dtype=torch.float64), tensor([0.], dtype=torch.float64))
    """
    if len(joint) == 1:
        return joint.new_ones(1)
    scale = joint.sum(1).clamp(min=PROPORTION_FLOOR).rsqrt()
    values: Tensor = torch.linalg.eigvalsh(scale[:, None] * joint * scale)
    return values.clamp(0, 1)[:-1]


def standard_errors(log_evidence: Tensor, proportions: Tensor, prior: Tensor, rows: Rows) -> Tensor:
    """Standard errors [C, K] of each client's proportions, from the curvature of its log likelihood.

    Information J = Σ_x ρ(x) ρ(x)ᵀ, ρ_k = r_k(x)/π_k, plus the prior's pseudo-rows diag(prior/π²), within Σ_k π_k = 1.
    The components are taken as known, so an uncertainty that all clients share is not in it.
    """
    resp, _ = responsibilities(log_evidence, proportions, rows.owner)
    floor = proportions.double().clamp(min=1e-3)
    ratio = resp / floor[rows.owner]
    information = rows.sum_by_client(ratio[:, :, None] * ratio[:, None, :])
    information += torch.diag_embed(prior.double().to(floor.device) / floor.square())
    n_components = proportions.shape[1]
    basis = torch.linalg.svd(floor.new_ones(1, n_components))[2][1:].T  # directions in which shares still sum to one
    inner = basis.T @ information @ basis
    covariance: Tensor = basis @ torch.linalg.inv(inner) @ basis.T
    return covariance.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()
