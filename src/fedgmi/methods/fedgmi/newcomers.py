"""A client that was not there: its proportions from its rows alone, by the E-step, without training."""

from __future__ import annotations

import torch
from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.methods.fedgmi.calibration import client_count
from fedgmi.methods.fedgmi.evidence import Evidence
from fedgmi.methods.fedgmi.state import CONTRAST, Calibration, Gate, Sketch, counted_clients
from fedgmi.methods.plausible import wrong_clients, wrong_counts
from fedgmi.mixture.information import MIN_CONTRAST, contrast_sums, contrasts, decided, standard_errors
from fedgmi.mixture.posterior import e_step
from fedgmi.mixture.scatter import dispersion
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import Step
from fedgmi.tree import Tree

OVERLAP = "its rows by two components"
FEWEST_CLIENTS = 3
"""Of two clients each may be a component of its own: nothing tells a component from what a client has for itself."""


def contrast_step(labelled: Evidence, unlabelled: Evidence) -> Step:
    """How well components can be told apart, with labels seen and without: K × K numbers a client, once, at the end.

    Args:
        labelled: The evidence of rows with labels.
        unlabelled: The evidence of x alone.

    Returns:
        The step.
    """

    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        kinds = {"labelled": labelled, "unlabelled": unlabelled}
        share = Calibration(server).share
        judged, states_of = (rows.held, {}) if Gate(server).unseen else (rows, states)
        nothing = torch.zeros(len(share), len(share), dtype=torch.float64, device=rows.x.device)
        sums = dict.fromkeys(kinds, nothing)
        if len(judged):
            sums = {
                name: contrast_sums(evidence(server, states_of, judged), share, judged)["joint"]
                for name, evidence in kinds.items()
            }
        return states, Message(sums=sums | client_count(rows))

    def take(server: Tree, message: Message, round: int) -> Tree:
        labelled, unlabelled = (contrasts(message.sums[name]) for name in ("labelled", "unlabelled"))
        least = torch.stack([labelled[0], unlabelled[0]])
        if len(message.sums["labelled"]) > 1 and n_clients(server, message) < FEWEST_CLIENTS:
            least = torch.zeros_like(least)
        return server | {CONTRAST: least} | Gate.leaves(contrast=unlabelled[-1])

    def check(server: Tree, message: Message, client: int, rows: int) -> str | None:
        most = float("inf") if bool(Gate(server).unseen) else rows  # how many it has for validation is its own
        joint = torch.stack([message.sums["labelled"], message.sums["unlabelled"]])
        return next((why for sums in joint if (why := wrong_counts(OVERLAP, sums, most))), wrong_clients(message))

    return Step("contrast", client, take, writes=(CONTRAST, *Gate.names("contrast")), check=check)


def n_clients(server: Tree, message: Message) -> int:
    """How many clients components were found from: those with counts of words; without counts, those that answer."""
    counted = counted_clients(server)
    return int(message.sums["clients"]) if counted is None else counted


def all_shown(server: Tree) -> bool:
    """Whether the clients' counts show as many components as there are. Else some are arbitrary, however well rows tell
    them apart. True where nobody counted."""
    [shown] = Sketch.names("components_shown")
    return shown not in server or int(server[shown]) >= len(Calibration(server).share)


def infer_client(server: Tree, rows: Rows, log_evidence: Tensor) -> Tree:
    """States of new clients: proportions at the fixed point of the E-step, and whether their rows can tell them.

    Where components cannot be told apart by such rows, the proportions are the pooled ones and `identified` is False.
    Where a client's own rows are too few to decide (`decided`), they lie between, and `identified` is False too. So it
    is where clients show fewer components than there are (`all_shown`). Newcomers scatter as the clients did that were
    there, so n rows say as much as n/φ drawn independently.

    Args:
        server: The server's state.
        rows: Of C new clients.
        log_evidence: Of these rows. [R, K], nats

    Returns:
        `proportions` [C, K], `identified` [C], `standard_errors` [C, K].
    """
    share = Calibration(server).share.double()
    start = share.expand(rows.n_clients, -1)
    tell = bool(server[CONTRAST][0 if rows.y is not None else 1] >= MIN_CONTRAST)
    proportions = e_step(log_evidence, rows, start, share).proportions if tell else start.clone()
    [scatter] = Sketch.names("scatter")
    phi = dispersion(rows.counts.double(), float(server[scatter])) if scatter in server else None  # without words: 1
    errors = standard_errors(log_evidence, proportions, share, rows, phi)
    return {
        "proportions": proportions,
        "standard_errors": errors,
        "identified": decided(errors) & (tell and all_shown(server)),
    }
