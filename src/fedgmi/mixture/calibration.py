"""How much each kind of evidence is worth, learnt from how components occur together across clients.

Evidence of kind f for component k on row x is v_fk(x). It is centred over k, in units of its pooled deviation. With

    s_k(x) = Σ_f λ_f·v_fk(x) + b_k        g_k(x) = softmax_k s_k(x)        q_k = mean of g_k over all clients' rows
    P_i(x)/P(x) = Σ_k π_ik·g_k(x)/q_k     a proper density ratio: it averages to one

the clients maximise Σ_i Σ_x log Σ_k π_ik^(−x)·g_k(x)/q_k over λ ≥ 0 and b (b_1 = 0). These are a handful of numbers,
found by a few clipped Fisher steps. The gradient is Σ_x Σ_k (r_ik(x) − g_k(x))·∂s_k. A density that is overconfident
gets a small λ. One that knows nothing about components gets none. So the E-step has no room to drift to clusters of
style.

q_k is asked for anew after every step, by an exchange of K numbers. The mean proportions of the last exchange would
have the same fixed point, but proportions overshoot an error in q_k: the two would swing against each other and never
settle.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.mixture.posterior import PROPORTION_FLOOR
from fedgmi.tree import Tree

RIDGE = 1e-3
"""Added to the diagonal of the Fisher matrix, per row."""
CLIP = 0.3
"""No weight and no bias moves further in one step: a convention, see docs/decisions.md."""


def centre(evidence: Tensor) -> Tensor:
    """Evidence less its mean over components, for only ratios between components count.

    Args:
        evidence: Of one kind. [R, K]

    Returns:
        The same, with mean zero in every row. [R, K]
    """
    return evidence - evidence.mean(-1, keepdim=True)


def scores(evidence: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    """s_k(x) = Σ_f λ_f·v_fk(x) + b_k.

    Args:
        evidence: v, all kinds. [R, F, K]
        weights: λ. [F]
        bias: b. [K]

    Returns:
        The scores. [R, K], float64
    """
    return torch.einsum("rfk,f->rk", evidence.double(), weights.double()) + bias.double()


def log_evidence(evidence: Tensor, weights: Tensor, bias: Tensor, share: Tensor) -> Tensor:
    """log g_k(x) − log q_k: the calibrated log density ratio log p_k(x)/P(x).

    Args:
        evidence: v, all kinds. [R, F, K]
        weights: λ. [F]
        bias: b. [K]
        share: q. [K]

    Returns:
        Log evidence for the E-step. [R, K], float64, nats
    """
    return scores(evidence, weights, bias).log_softmax(1) - share.double().clamp(min=PROPORTION_FLOOR).log()


def share_sums(evidence: Tensor, weights: Tensor, bias: Tensor) -> Tree:
    """What rows add to q_k.

    Args:
        evidence: v, all kinds. [R, F, K]
        weights: λ. [F]
        bias: b. [K]

    Returns:
        Sums that may be added up over clients: `share`, Σ_x g_k(x) [K], and `count`, the number of rows.
    """
    gate = scores(evidence, weights, bias).softmax(1)
    return {"share": gate.sum(0), "count": gate.new_tensor(float(len(gate)))}


def calibration_sums(
    evidence: Tensor,
    weights: Tensor,
    bias: Tensor,
    share: Tensor,
    proportions: Tensor,
    rows: Rows,
    *,
    unseen: bool = False,
) -> Tree:
    """What rows add to the objective's slope and curvature.

    Each row is scored with its client's proportions without that row, π_i^(−x) = (n_i π_i − r_i(x) + q)/n_i. Otherwise
    few rows, or clients that are all alike, push λ to infinity. Proportions that come from other rows stay as they are.

    Args:
        evidence: v, all kinds. [R, F, K]
        weights: λ. [F]
        bias: b. [K]
        share: q. [K]
        proportions: π. [C, K]
        rows: The rows that the evidence is about.
        unseen: Whether proportions come from other rows.

    Returns:
        Sums that may be added up over clients: `gradient` [F + K − 1], `fisher`, the empirical Fisher matrix
        [F + K − 1, F + K − 1], `log_likelihood` in nats, and `count`, the number of rows.
    """
    gate = scores(evidence, weights, bias).softmax(1)
    share = share.double()
    ratio = gate / share.clamp(min=PROPORTION_FLOOR)
    own = proportions.double()[rows.client_index]
    if not unseen:
        resp = own * ratio
        resp = resp / resp.sum(1, keepdim=True)
        counts = rows.counts.double()[rows.client_index][:, None]
        own = (counts * own - resp + share) / counts
    joint = own.clamp(min=PROPORTION_FLOOR) * ratio
    likelihood = joint.sum(1)
    slope = joint / likelihood[:, None] - gate
    gradient = torch.cat([torch.einsum("rk,rfk->rf", slope, evidence.double()), slope[:, 1:]], 1)
    return {
        "gradient": gradient.sum(0),
        "fisher": gradient.T @ gradient,
        "log_likelihood": likelihood.log().sum(),
        "count": gate.new_tensor(float(len(rows))),
    }


def fisher_step(weights: Tensor, bias: Tensor, sums: Tree, limit: Tensor) -> tuple[Tensor, Tensor]:
    """One clipped step uphill, with 0 ≤ λ_f ≤ limit_f.

    The limit is what evidence is worth at face value (one nat a nat). Models that have seen a client's rows judge those
    rows too well, and with few rows that would be taken for co-occurrence.

    Args:
        weights: λ. [F]
        bias: b. [K]
        sums: What `calibration_sums` returns, added up over clients.
        limit: The largest weight of each kind. Evidence whose limit is 0 stays out. [F]

    Returns:
        The new weights [F] and the new bias [K]. float64
    """
    active = limit > 0
    free = torch.cat([active, torch.ones(len(bias) - 1, dtype=torch.bool, device=active.device)])
    index = free.nonzero().flatten()
    fisher = sums["fisher"][index][:, index]
    ridge = RIDGE * sums["count"] * torch.eye(len(index), dtype=fisher.dtype, device=fisher.device)
    step = torch.zeros(len(free), dtype=fisher.dtype, device=fisher.device)
    step[index] = _solved(fisher + ridge, sums["gradient"][index]).clamp(-CLIP, CLIP)
    n_kinds = len(weights)
    moved_bias = bias.double().clone()
    moved_bias[1:] += step[n_kinds:]
    return (weights.double() + step[:n_kinds]).clamp(min=0.0).minimum(limit.double()), moved_bias


def _solved(matrix: Tensor, right: Tensor) -> Tensor:
    """The solution; where a ridge is lost beside far larger entries, the least one of those that come nearest."""
    found: Tensor
    found, failed = torch.linalg.solve_ex(matrix, right)
    if not bool(failed) and bool(found.isfinite().all()):
        return found
    nearest: Tensor = torch.linalg.lstsq(matrix.cpu(), right.cpu()[:, None], driver="gelsd").solution
    return nearest[:, 0].to(matrix.device)
