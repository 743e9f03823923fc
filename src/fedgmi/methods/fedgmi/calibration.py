"""Calibration as steps: how much evidence counts, learnt from how components occur together across clients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.methods.contract import Task
from fedgmi.methods.fedgmi.conditions import largest_weights, too_few
from fedgmi.methods.fedgmi.evidence import Rule, stack_evidence
from fedgmi.methods.fedgmi.settings import FedGMISettings
from fedgmi.methods.fedgmi.state import Calibration, Components, Gate
from fedgmi.methods.plausible import SLACK, either, wrong_clients, wrong_counts, wrong_scatter
from fedgmi.mixture import calibration
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import Step
from fedgmi.tree import Tree


@dataclass(frozen=True)
class Side:
    """One of the two calibrations, with labels seen or without.

    Attributes:
        part: Its leaves in the server's state.
        names: Of its two steps: for the shares, and for the gradient.
        evidence: (server, states, rows) → [R, F, K], nats.
        e_step: (server, states, rows) → the client states from which the gradient is taken.
        proportions: (states) → [C, K].
        unseen: (server) → whether it is judged by the clients' rows for validation, which no model has seen.
    """

    part: type[Calibration] | type[Gate]
    names: tuple[str, str]
    evidence: Callable[[Tree, Tree, Rows], Tensor]
    e_step: Callable[[Tree, Tree, Rows], Tree]
    proportions: Callable[[Tree], Tensor]
    unseen: Callable[[Tree], bool] = lambda server: False

    def judged(self, server: Tree, rows: Rows) -> Rows:
        """The rows that it is judged by."""
        return rows.held if self.unseen(server) else rows


def calibration_steps(task: Task[FedGMISettings], rule: Rule) -> dict[str, Step]:
    """The scale of the evidence, then Fisher steps; densities and words stand still meanwhile.

    Args:
        task: Its settings.
        rule: The E-step before each gradient.

    Returns:
        The steps by name.
    """

    def send_scale(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        evidence = stack_evidence(task, server, states, rows) * Calibration(server).scale[:, None]
        sums = {"squares": evidence.square().mean(2).sum(0), "count": rows.counts.sum().double()}
        return states, Message(sums=sums | client_count(rows))

    def take_scale(server: Tree, message: Message, round: int) -> Tree:
        if too_few(server, message):
            return server
        now, sums = Calibration(server), message.sums
        scale = (sums["squares"] / sums["count"]).sqrt().clamp(min=1e-6)
        # the density's evidence comes in units of its pooled deviation; the others are in nats
        in_deviations = torch.tensor([False, True, False], device=now.scale.device)
        return server | Calibration.leaves(
            begun=Components(server).version,
            weights_before=now.weights,
            scale=torch.where(in_deviations, scale, 1.0),
        )

    side = Side(
        part=Calibration,
        names=("shares", "calibrate"),
        evidence=lambda server, states, rows: stack_evidence(task, server, states, rows),
        e_step=lambda server, states, rows: states | {"proportions": rule(server, states, rows).proportions},
        proportions=lambda states: states["proportions"],
    )

    def check_scale(server: Tree, message: Message, client: int, rows: int) -> str | None:
        squares = message.sums["squares"]
        if float(squares.min()) < 0 or float(message.sums["count"]) != rows:
            return f"its evidence has a negative square, or is not of its {rows} rows"
        return wrong_clients(message)

    made = Calibration.names("begun", "weights_before", "scale")
    scale = Step("scale evidence", send_scale, take_scale, writes=made, check=check_scale)
    return {"scale evidence": scale} | fisher_steps(task, side)


def fisher_steps(task: Task[FedGMISettings], side: Side) -> dict[str, Step]:
    """The two exchanges that take turns: one asks for the shares q_k, the other for the gradient of weights and bias.

    Args:
        task: Its settings.
        side: Which calibration.

    Returns:
        The steps by name.
    """
    part = side.part

    def send_share(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        now, judged = part(server), side.judged(server, rows)
        sums = calibration.share_sums(side.evidence(server, states, judged), now.weights, now.bias)
        return states, Message(sums=sums | client_count(judged))

    def take_share(server: Tree, message: Message, round: int) -> Tree:
        if too_few(server, message):
            return server
        return server | part.leaves(share=message.sums["share"] / message.sums["count"])

    def send_gradient(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        states, now = side.e_step(server, states, rows), part(server)
        judged, unseen, proportions = side.judged(server, rows), side.unseen(server), side.proportions(states)
        evidence, line = side.evidence(server, states, judged), (now.weights, now.bias, now.share)
        sums = calibration.calibration_sums(evidence, *line, proportions, judged, unseen=unseen)
        return states, Message(sums=sums | client_count(judged))

    def take_gradient(server: Tree, message: Message, round: int) -> Tree:
        if too_few(server, message) or task.n_components == 1:
            return server
        now = part(server)
        limits = largest_weights(task.settings, server)[: len(now.weights)]
        weights, bias = calibration.fisher_step(now.weights, now.bias, message.sums, limits)
        return server | part.leaves(weights=weights, bias=bias)

    def check_count(server: Tree, message: Message, client: int, rows: int) -> str | None:
        """Of rows that it trains on; how many it has for validation is its own."""
        count = float(message.sums["count"])
        if count < 0 or (count != rows and not side.unseen(server)):
            return f"its evidence is of {count:.10g} rows, and the site has {rows}"
        return wrong_clients(message)

    def check_share(server: Tree, message: Message, client: int, rows: int) -> str | None:
        share, count = message.sums["share"], float(message.sums["count"])
        return wrong_counts("its shares", share, count, all_rows=True)

    def check_gradient(server: Tree, message: Message, client: int, rows: int) -> str | None:
        """A row's slope by a component's bias is within ±1; by a kind of evidence, in nats, it has no bound."""
        sums = message.sums
        by_bias, count = sums["fisher"].diagonal()[len(part(server).weights) :], float(sums["count"])
        if by_bias.numel() and float(by_bias.max()) > count * (1 + SLACK) + SLACK:
            return f"its slopes have a square of {float(by_bias.max()):.3g}, which is more than {count:.10g} rows have"
        return wrong_scatter("its slopes", sums["count"], sums["gradient"], sums["fisher"])

    shares, gradient = side.names
    of_shares, of_slopes = either(check_count, check_share), either(check_count, check_gradient)
    made = part.names("weights", "bias")
    return {
        shares: Step(shares, send_share, take_share, writes=part.names("share"), check=of_shares),
        gradient: Step(gradient, send_gradient, take_gradient, writes=made, check=of_slopes),
    }


def client_count(rows: Rows) -> Tree:
    """Additive: how many clients stand behind a message, with rows."""
    return {"clients": (rows.counts > 0).sum().double()}
