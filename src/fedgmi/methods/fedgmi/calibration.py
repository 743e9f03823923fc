"""Calibration as steps: once with labels seen (for proportions and training), once without (for prediction)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedgmi import tree
from fedgmi.data.rows import Rows
from fedgmi.methods.contract import Message, Step, Task
from fedgmi.methods.fedgmi.em import Rule, judges_are_components
from fedgmi.methods.fedgmi.evidence import elbo, row_cells, stack_evidence, word_evidence
from fedgmi.methods.fedgmi.sketch import reply, uncalibrated
from fedgmi.mixture import calibration
from fedgmi.tree import Tree

MOST = (1.0, 1.0, 2.0)  # nats a nat, by KINDS
SETTLED = 0.01  # of a weight, or of 1 where that is more: where less changes, the next round goes without
MIN_CLIENTS = 5  # with fewer participants the last calibration stands


def labelled_evidence(task: Task, server: Tree, states: Tree, rows: Rows) -> Tensor:
    """log p_k(x, y)/P(x, y) as calibrated, labels seen. [R, K], nats"""
    evidence = stack_evidence(task, server, states, rows)
    return calibration.log_evidence(evidence, server["weights"], server["bias"], server["share"])


def unlabelled_evidence(task: Task, server: Tree, states: Tree, rows: Rows) -> Tensor:
    """log p_k(x)/P(x) as calibrated without labels, for prediction. [R, K], nats"""
    evidence = gate_evidence(task, server, rows, states.get("own_cells"))
    return calibration.log_evidence(evidence, server["gate_weights"], server["gate_bias"], server["gate_share"])


def calibration_steps(task: Task, rule: Rule) -> tuple[Step, ...]:
    """Scale the evidence, then a few Fisher steps; densities and words stand still meanwhile."""

    def send_scale(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        evidence = stack_evidence(task, server, states, rows) * server["scale"][:, None]
        sums = {"squares": evidence.square().mean(2).sum(0), "count": rows.counts.sum().double()} | client_count(rows)
        return states, reply(sums, rows, down=judges_size(task, server))

    def take_scale(server: Tree, sums: Tree, round: int) -> Tree:
        if too_few(sums):
            return server
        scale = (sums["squares"] / sums["count"]).sqrt().clamp(min=1e-6)
        begun = {"calibrated": server["version"], "weights_before": server["weights"]}
        return server | begun | {"scale": torch.where(in_deviations(server), scale, 1.0)}

    scale = Step("scale evidence", send_scale, take_scale)
    labelled = Calibration(
        weights="weights",
        bias="bias",
        share="share",
        evidence=lambda server, states, rows: stack_evidence(task, server, states, rows),
        e_step=lambda server, states, rows: states | {"proportions": rule(server, states, rows).proportions},
        proportions=lambda states: states["proportions"],
    )
    return scale, *fisher_steps(task, labelled, task.settings.calibration_steps)


def until_settled(steps: tuple[Step, ...], judge_rounds: int) -> tuple[Step, ...]:
    """The same steps, left out of rounds in which judges have stayed and the last calibration left the weights as they
    were: the next would too. The first step decides for all: where too few clients answer it, the others, which would
    change nothing on the server, are left out."""

    def begins(server: Tree) -> bool:
        before, weights = server["weights_before"], server["weights"]
        settled = bool(((weights - before).abs() <= SETTLED * weights.clamp(min=1.0)).all())
        return int(server["version"]) <= judge_rounds or not settled

    def has_begun(server: Tree) -> bool:
        return int(server["calibrated"]) == int(server["version"])

    first, *others = steps
    return replace(first, when=begins), *(replace(step, when=has_begun) for step in others)


@dataclass(frozen=True)
class Calibration:
    """One of the two calibrations: its leaves in the server's state, and what a client brings to it.

    evidence(server, states, rows) → [R, F, K] · e_step(server, states, rows) → states before the gradient is taken
    · proportions(states) → [C, K].
    """

    weights: str
    bias: str
    share: str
    evidence: Callable[[Tree, Tree, Rows], Tensor]
    e_step: Callable[[Tree, Tree, Rows], Tree]
    proportions: Callable[[Tree], Tensor]


def fisher_steps(task: Task, own: Calibration, n_steps: int) -> tuple[Step, ...]:
    """Turns of: ask for the shares q_k, then for the gradient. Ends with the shares, so that they fit the weights."""

    def send_share(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        weights, bias = server[own.weights], server[own.bias]
        down = tree.n_bytes({"weights": weights, "bias": bias})
        sums = calibration.share_sums(own.evidence(server, states, rows), weights, bias) | client_count(rows)
        return states, reply(sums, rows, down=down)

    def take_share(server: Tree, sums: Tree, round: int) -> Tree:
        if too_few(sums):
            return server
        return server | {own.share: sums["share"] / sums["count"]}

    def send_gradient(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        states = own.e_step(server, states, rows)
        evidence, proportions = own.evidence(server, states, rows), own.proportions(states)
        weights, bias, share = (server[name] for name in (own.weights, own.bias, own.share))
        sums = calibration.calibration_sums(evidence, weights, bias, share, proportions, rows)
        sums |= client_count(rows)
        return states, reply(sums, rows, down=tree.n_bytes({"share": share}))

    def take_gradient(server: Tree, sums: Tree, round: int) -> Tree:
        if too_few(sums) or task.n_components == 1:
            return server
        weights, bias = server[own.weights], server[own.bias]
        weights, bias = calibration.fisher_step(weights, bias, sums, most(task, server)[: len(weights)])
        return server | {own.weights: weights, own.bias: bias}

    share = Step("shares", send_share, take_share)
    return (share, *(Step("calibrate", send_gradient, take_gradient), share) * n_steps)


def client_count(rows: Rows) -> Tree:
    """Additive: how many clients stand behind a message."""
    return {"clients": torch.tensor(float(rows.n_clients), dtype=torch.float64, device=rows.x.device)}


def too_few(sums: Tree) -> bool:
    """Whether so few clients answered that the last calibration stands."""
    return float(sums["clients"]) < MIN_CLIENTS


def judges_size(task: Task, server: Tree) -> int:
    """Bytes of the K judges, which a client fetches where they are new since the last round."""
    if not judges_are_components(server):
        return 0
    experts = server["judge_expert"]
    return int(server["judge_density"].nbytes) + task.expert.numbers(len(experts)) * experts.element_size()


def in_deviations(server: Tree) -> Tensor:
    """Which kinds of evidence come in units of their pooled deviation: the density's; the others are in nats."""
    return torch.tensor([False, True, False], device=server["scale"].device)


def most(task: Task, server: Tree) -> Tensor:
    """The largest weight of each kind of evidence; 0 for densities and experts in warm-up.

    Words and densities count one nat a nat at most: they are more sure of themselves than they should be. Experts count
    two: heads that grew from one another differ by less than their components do, and evidence that is too weak drives
    proportions into the corners. Densities and experts that have hardly begun to differ differ by noise alone.
    """
    warm = task.settings.warm_up_rounds
    ready = bool(server["version"] >= warm)
    value = server["scale"] * torch.tensor(MOST, dtype=server["scale"].dtype, device=server["scale"].device)
    return value if ready else value * torch.tensor([1.0, 0.0, 0.0], dtype=value.dtype, device=value.device)


def gate_evidence(task: Task, server: Tree, rows: Rows, own: Tensor | None = None) -> Tensor:
    """The evidence that needs no label [R, 2, K]: the cell and the density."""
    cell = word_evidence(server["cell_topics"], own, row_cells(task, server, rows), rows).double()
    bound = elbo(task, server["judge_density"], rows).double() / server["scale"][1]
    return calibration.centre(torch.stack([cell, bound], 1))


def cell_topics_step(task: Task, rule: Rule) -> Step:
    """Words summed over labels: how many rows of each component fell into each cell."""
    n_cells = task.settings.codewords

    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        resp = rule(server, states, rows).responsibilities
        flat = rows.owner * n_cells + row_cells(task, server, rows)
        own = resp.new_zeros((rows.n_clients * n_cells, resp.shape[1])).index_add_(0, flat, resp)
        own = own.reshape(rows.n_clients, n_cells, -1)
        return states | {"own_cells": own}, reply({"cells": own.sum(0)}, rows)

    def server_step(server: Tree, sums: Tree, round: int) -> Tree:
        share = sums["cells"].sum(0) / sums["cells"].sum()
        start = torch.tensor([1.0, 0.0], dtype=torch.float64, device=share.device)
        return server | {"cell_topics": sums["cells"], "gate_weights": start} | uncalibrated(share, "gate_")

    return Step("cell topics", client, server_step)


def gate_steps(task: Task, rule: Rule) -> tuple[Step, ...]:
    """Prediction sees no labels, so it has a calibration of its own, with the proportions held."""

    def evidence(server: Tree, states: Tree, rows: Rows) -> Tensor:
        if "gate evidence" not in rows.cache:
            rows.cache["gate evidence"] = gate_evidence(task, server, rows, states["own_cells"])
        return rows.cache["gate evidence"]

    unlabelled = Calibration(
        weights="gate_weights",
        bias="gate_bias",
        share="gate_share",
        evidence=evidence,
        e_step=lambda server, states, rows: states,
        proportions=gate_proportions,
    )
    return (cell_topics_step(task, rule), *fisher_steps(task, unlabelled, 2 * task.settings.calibration_steps))


def gate_proportions(states: Tree) -> Tensor:
    """The proportions a predictor uses [C, K]: the client's own; the oracle's are the realised ones."""
    return states.get("realised", states["proportions"])
