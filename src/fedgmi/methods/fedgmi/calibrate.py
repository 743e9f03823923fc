"""Calibration as steps: once with labels seen (for proportions and training), once without (for prediction)."""

from __future__ import annotations

import torch
from torch import Tensor

from fedgmi import tree
from fedgmi.data.federation import Rows
from fedgmi.methods.base import Message, Step, Task
from fedgmi.methods.fedgmi.em import Rule
from fedgmi.methods.fedgmi.evidence import elbo, row_cells, stack_evidence, word_evidence
from fedgmi.methods.fedgmi.sketch import reply
from fedgmi.mixture import calibration
from fedgmi.mixture.posterior import Posterior, e_step, responsibilities
from fedgmi.tree import Tree

MIN_CLIENTS = 5  # with fewer participants the last calibration stands


def calibrated_e_step(task: Task, server: Tree, states: Tree, rows: Rows) -> Posterior:
    """Responsibilities with labels seen, and proportions at their fixed point under the calibrated evidence."""
    evidence = stack_evidence(task, server, states, rows)
    logs = calibration.log_evidence(evidence, server["weights"], server["bias"], server["pooled"])
    return e_step(logs, rows, states["proportions"], server["pooled"])


def calibration_steps(task: Task) -> tuple[Step, ...]:
    """Scale the evidence, then a few Fisher steps; densities and words stand still meanwhile."""
    parts = ("weights", "bias", "pooled", "scale")

    def send_scale(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        evidence = stack_evidence(task, server, states, rows) * server["scale"][:, None]
        count = torch.tensor(float(len(rows)), dtype=torch.float64)
        sums = {"squares": evidence.square().mean(2).sum(0), "count": count}
        return states, reply(sums, rows, down=tree.n_bytes({"densities": server["density"]}))

    def take_scale(server: Tree, sums: Tree, round: int) -> Tree:
        scale = (sums["squares"] / sums["count"]).sqrt().clamp(min=1e-6)
        return server | {"scale": torch.where(scaled(server), scale, 1.0)}

    def send_gradient(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        posterior = calibrated_e_step(task, server, states, rows)
        evidence = stack_evidence(task, server, states, rows)
        proportions = posterior.proportions
        sums = calibration.calibration_sums(
            evidence, server["weights"], server["bias"], server["pooled"], proportions, rows
        )
        sums["mass"] = (proportions * rows.counts[:, None]).sum(0)
        sums["clients"] = torch.tensor(float(rows.n_clients))
        down = tree.n_bytes({name: server[name] for name in parts})
        return states | {"proportions": proportions}, reply(sums, rows, down=down)

    def take_gradient(server: Tree, sums: Tree, round: int) -> Tree:
        if float(sums["clients"]) < MIN_CLIENTS or task.n_components == 1:
            return server
        active = torch.tensor([True, True, True]) & trained(server)
        weights, bias = calibration.fisher_step(server["weights"], server["bias"], sums, active)
        pooled = sums["mass"] / sums["mass"].sum()
        return server | {"weights": weights, "bias": bias, "pooled": pooled}

    scale = Step("scale evidence", send_scale, take_scale)
    return (scale, *(Step("calibrate", send_gradient, take_gradient),) * task.settings.calibration_steps)


def scaled(server: Tree) -> Tensor:
    """Which kinds of evidence come in units of their pooled deviation: the density's; the others are in nats."""
    return torch.tensor([False, True, False], device=server["scale"].device)


def trained(server: Tree) -> Tensor:
    """Which kinds of evidence exist: densities and experts speak once they have been trained."""
    ready = bool(server["version"] > 0)
    return torch.tensor([True, ready, ready])


def gate_evidence(task: Task, server: Tree, rows: Rows, own: Tensor | None = None) -> Tensor:
    """The evidence that needs no label [R, 2, K]: the cell and the density."""
    cell = word_evidence(server["cell_topics"], own, row_cells(task, server, rows), rows).double()
    bound = elbo(task, server, rows).double() / server["scale"][1]
    return calibration.centre(torch.stack([cell, bound], 1))


def gate(task: Task, server: Tree, states: Tree, rows: Rows) -> Tensor:
    """r_ik(x) from the row alone, for prediction: π_i held, calibrated without labels. [R, K]"""
    logs = calibration.log_evidence(
        gate_evidence(task, server, rows), server["gate_weights"], server["gate_bias"], server["pooled"]
    )
    return responsibilities(logs, gate_proportions(states), rows.owner)[0]


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
        bias = server["pooled"].clamp(min=1e-6).log()
        start = torch.tensor([1.0, 0.0], dtype=torch.float64, device=bias.device)
        return server | {"cell_topics": sums["cells"], "gate_weights": start, "gate_bias": bias - bias[0]}

    return Step("cell topics", client, server_step)


def gate_steps(task: Task, rule: Rule) -> tuple[Step, ...]:
    """Prediction sees no labels, so it has a calibration of its own, with the proportions held."""

    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        if "gate evidence" not in rows.cache:
            rows.cache["gate evidence"] = gate_evidence(task, server, rows, states["own_cells"])
        weights, bias, pooled = server["gate_weights"], server["gate_bias"], server["pooled"]
        evidence = rows.cache["gate evidence"]
        sums = calibration.calibration_sums(evidence, weights, bias, pooled, gate_proportions(states), rows)
        sums["clients"] = torch.tensor(float(rows.n_clients))
        return states, reply(sums, rows, down=tree.n_bytes({"weights": weights, "bias": bias}))

    def server_step(server: Tree, sums: Tree, round: int) -> Tree:
        if float(sums["clients"]) < MIN_CLIENTS or task.n_components == 1:
            return server
        active = torch.ones(2, dtype=torch.bool, device=server["gate_weights"].device)
        weights, bias = calibration.fisher_step(server["gate_weights"], server["gate_bias"], sums, active)
        return server | {"gate_weights": weights, "gate_bias": bias}

    steps = (Step("calibrate gate", client, server_step),) * (2 * task.settings.calibration_steps)
    return (cell_topics_step(task, rule), *steps)


def gate_proportions(states: Tree) -> Tensor:
    """The proportions a predictor uses [C, K]: the client's own; the oracle's are the realised ones."""
    return states.get("realised", states["proportions"])
