"""How much each kind of evidence is worth, learnt from co-occurrence across clients.

Evidence f for component k on row x is v_fk(x) (centred over k, in units of its pooled deviation). With

    s_k(x) = Σ_f λ_f·v_fk(x) + b_k        g_k(x) = softmax_k s_k(x)        q_k = mean of g_k over all clients' rows
    P_i(x)/P(x) = Σ_k π_ik·g_k(x)/q_k     a proper density ratio: it averages to one

the clients maximise Σ_i Σ_x log Σ_k π_ik^(−x)·g_k(x)/q_k over λ ≥ 0 and b (b_1 = 0): a handful of numbers, by a few
clipped Fisher steps. The gradient is Σ_x Σ_k (r_ik(x) − g_k(x))·∂s_k. A density that is overconfident gets a small λ,
one that knows nothing about components gets none: the E-step has no room to drift to clusters of style.

q_k is asked for anew after every step, by an exchange of K numbers. Taking the mean proportions of the last exchange in
its place has the same fixed point, but proportions answer to an error in q_k by overshooting it: the two then swing
against each other and never settle.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.mixture.posterior import PROPORTION_FLOOR
from fedgmi.tree import Tree

RIDGE = 1e-3  # per row, on the Fisher matrix
CLIP = 0.3


def centre(evidence: Tensor) -> Tensor:
    """Evidence less its mean over components: only ratios between components count. [R, K]"""
    return evidence - evidence.mean(-1, keepdim=True)


def scores(evidence: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    """s_k(x) = Σ_f λ_f·v_fk(x) + b_k. evidence [R, F, K] · weights [F] · bias [K] → [R, K], float64."""
    return torch.einsum("rfk,f->rk", evidence.double(), weights.double()) + bias.double()


def log_evidence(evidence: Tensor, weights: Tensor, bias: Tensor, share: Tensor) -> Tensor:
    """log g_k(x) − log q_k: the calibrated log density ratio log p_k(x)/P(x). [R, K], nats."""
    return scores(evidence, weights, bias).log_softmax(1) - share.double().clamp(min=PROPORTION_FLOOR).log()


def share_sums(evidence: Tensor, weights: Tensor, bias: Tensor) -> Tree:
    """Additive: Σ_x g_k(x) [K] and the number of rows, whence q_k."""
    gate = scores(evidence, weights, bias).softmax(1)
    return {"share": gate.sum(0), "count": gate.new_tensor(float(len(gate)))}


def calibration_sums(
    evidence: Tensor, weights: Tensor, bias: Tensor, share: Tensor, proportions: Tensor, rows: Rows
) -> Tree:
    """Additive: gradient [F+K−1], empirical Fisher matrix, log likelihood and number of rows.

    Each row is scored with its client's proportions without that row, π_i^(−x) = (n_i π_i − r_i(x) + q)/n_i: else few
    rows, or clients all alike, push λ to infinity.
    """
    gate = scores(evidence, weights, bias).softmax(1)
    share = share.double()
    ratio = gate / share.clamp(min=PROPORTION_FLOOR)
    own = proportions.double()[rows.owner]
    resp = own * ratio
    resp = resp / resp.sum(1, keepdim=True)
    counts = rows.counts.double()[rows.owner][:, None]
    without = ((counts * own - resp + share) / counts).clamp(min=PROPORTION_FLOOR)
    joint = without * ratio
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
    """One clipped step uphill, with 0 ≤ λ_f ≤ limit_f; evidence whose limit is 0 stays out.

    The limit is what evidence is worth at face value (one nat a nat): models that have seen a client's rows judge those
    rows too well, and with few rows that would be taken for co-occurrence.
    """
    active = limit > 0
    free = torch.cat([active, torch.ones(len(bias) - 1, dtype=torch.bool, device=active.device)])
    index = free.nonzero().flatten()
    fisher = sums["fisher"][index][:, index]
    ridge = RIDGE * sums["count"] * torch.eye(len(index), dtype=fisher.dtype, device=fisher.device)
    step = torch.zeros(len(free), dtype=fisher.dtype, device=fisher.device)
    step[index] = torch.linalg.solve(fisher + ridge, sums["gradient"][index]).clamp(-CLIP, CLIP)
    n_kinds = len(weights)
    moved_bias = bias.double().clone()
    moved_bias[1:] += step[n_kinds:]
    return (weights.double() + step[:n_kinds]).clamp(min=0.0).minimum(limit.double()), moved_bias
