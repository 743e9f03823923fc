"""The gate: what a predictor knows of a row's component from x alone, calibrated by itself, proportions held."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.methods.contract import Task
from fedgmi.methods.fedgmi.calibration import Side, client_count, fisher_steps
from fedgmi.methods.fedgmi.conditions import too_few
from fedgmi.methods.fedgmi.evidence import Evidence, Rule, elbo, made_of, word_evidence
from fedgmi.methods.fedgmi.judges import by_features
from fedgmi.methods.fedgmi.points import row_cells
from fedgmi.methods.fedgmi.settings import FedGMISettings
from fedgmi.methods.fedgmi.state import Calibration, Components, Gate, Reference, uncalibrated
from fedgmi.methods.own_models import BETAS, by_temperature
from fedgmi.methods.plausible import wrong_clients, wrong_counts
from fedgmi.mixture import calibration, switching
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import Step
from fedgmi.tree import Tree


def unlabelled_evidence(task: Task[FedGMISettings], server: Tree, states: Tree, rows: Rows) -> Tensor:
    """log p_k(x)/P(x) as calibrated without labels, for prediction. [R, K], nats"""
    evidence, now = gate_evidence(task, server, rows, states), Gate(server)
    return calibration.log_evidence(evidence, now.weights, now.bias, now.share)


def gate_evidence(task: Task[FedGMISettings], server: Tree, rows: Rows, states: Tree) -> Tensor:
    """The evidence that needs no label: the cell and the density. [R, 2, K], nats and deviations"""
    cell = word_evidence(Gate(server).cells, states.get("own_cells"), row_cells(task, server, rows), rows).double()
    if task.settings.judges == "closed":
        return calibration.centre(torch.stack([cell, by_features(task, server, states, rows)], 1))
    bound = elbo(task, Reference(server).density, rows).double() / Calibration(server).scale[1]
    return calibration.centre(torch.stack([cell, bound], 1))


PERMUTATIONS = 99
SIZE = 0.05  # of the switch's test
TEMPERATURES = BETAS[::5]  # 0.1 to 3.2; 1 is among them


def cells_step(task: Task[FedGMISettings], rule: Rule) -> Step:
    """Words summed over labels: how many rows of each component fell into each cell.

    Args:
        task: Its settings.
        rule: Whose responsibilities.

    Returns:
        The step.
    """
    n_cells = task.settings.codewords

    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        resp = rule(server, states, rows).responsibilities
        flat = rows.client_index * n_cells + row_cells(task, server, rows)
        own = resp.new_zeros((rows.n_clients * n_cells, resp.shape[1])).index_add_(0, flat, resp)
        own = own.reshape(rows.n_clients, n_cells, -1)
        return states | {"own_cells": own}, Message(sums={"cells": own.sum(0)} | client_count(rows.held))

    def take(server: Tree, message: Message, round: int) -> Tree:
        cells = message.sums["cells"]
        share = cells.sum(0) / cells.sum()
        start = torch.tensor([1.0, 0.0], dtype=torch.float64, device=share.device)
        remembers = task.settings.judges == "density"  # others leave a client's rows out of what judges them
        unseen = torch.tensor(remembers and not too_few(server, message), device=share.device)
        return server | Gate.leaves(cells=cells, weights=start, unseen=unseen) | uncalibrated(Gate, share)

    def check(server: Tree, message: Message, client: int, rows: int) -> str | None:
        cells = message.sums["cells"]
        return wrong_counts("its rows by component and cell", cells, rows, all_rows=True) or wrong_clients(message)

    made = Gate.names("cells", "weights", "share", "bias", "unseen")
    return Step("cells", client, take, writes=made, check=check)


def gate_steps(task: Task[FedGMISettings], proportions: Callable[[Tree], Tensor]) -> dict[str, Step]:
    """Prediction sees no labels, so it has a calibration of its own, with the proportions held.

    Args:
        task: Its settings.
        proportions: (states) → those that the predictor uses. [C, K]

    Returns:
        The steps by name.
    """

    def evidence(server: Tree, states: Tree, rows: Rows) -> Tensor:
        if not len(rows):
            return torch.zeros(0, 2, task.n_components, dtype=torch.float64, device=rows.x.device)
        asked, own = (replace(rows, by_content=True), {}) if unseen(server) else (rows, states)  # as the predictor asks
        of = made_of(server, own, without=Gate.names("weights", "bias", "share"))
        return rows.once("gate evidence", of, lambda: gate_evidence(task, server, asked, own))

    side = Side(
        part=Gate,
        names=("gate shares", "calibrate gate"),
        evidence=evidence,
        e_step=lambda server, states, rows: states,
        proportions=proportions,
        unseen=unseen,
    )
    return fisher_steps(task, side)


def unseen(server: Tree) -> bool:
    """Whether the gate is judged by rows for validation.

    Densities remember what they were trained on. On rows trained on the gate of `label-swap`, where x says nothing,
    looks better than proportions alone, and on others it is far worse. So rows that no model has seen judge it, as far
    as enough clients have such.
    """
    return bool(Gate(server).unseen)


def switch_step(task: Task[FedGMISettings], unlabelled: Evidence, proportions: Callable[[Tree], Tensor]) -> Step:
    """Whether the gate predicts labels of unseen rows better than proportions do, and better than by chance.

    Args:
        task: Its experts.
        unlabelled: The gate's evidence.
        proportions: (states) → those that the predictor uses. [C, K]

    Returns:
        The step. Where too few clients have rows for validation it changes nothing.
    """

    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        held, pi = rows.held, proportions(states)
        sums = torch.zeros(2 + PERMUTATIONS, len(TEMPERATURES), dtype=torch.float64, device=rows.x.device)
        labels, head = held.y, task.expert.head
        if labels is not None and len(held):
            logs = unlabelled(server, {}, replace(held, y=None, by_content=True))
            experts = task.expert.log_prob(Components(server).expert, held.x)

            def told(log_gate: Tensor) -> Tensor:
                return by_temperature(head.mix(experts, log_gate), labels, head, TEMPERATURES)

            sums = switching.likelihoods(logs, told, pi, held, PERMUTATIONS, task.seed)
        return states, Message(sums={"log_likelihood": sums} | client_count(held))

    def take(server: Tree, message: Message, round: int) -> Tree:
        if too_few(server, message):
            return server
        of_use = switching.better(message.sums["log_likelihood"], SIZE)
        return server | Gate.leaves(contrast=Gate(server).contrast * of_use)

    return Step("switch", client, take, writes=Gate.names("contrast"))
