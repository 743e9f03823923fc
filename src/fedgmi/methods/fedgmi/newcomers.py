"""A client that was not there: its proportions from its rows alone, by the E-step, without training."""

from __future__ import annotations

import torch
from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.methods.contract import Message, Step
from fedgmi.methods.fedgmi.evidence import Evidence
from fedgmi.methods.fedgmi.sketch import reply
from fedgmi.mixture.information import MIN_CONTRAST, contrast_sums, contrasts, standard_errors
from fedgmi.mixture.posterior import e_step
from fedgmi.tree import Tree


def contrast_step(labelled: Evidence, unlabelled: Evidence) -> Step:
    """How well components can be told apart, with labels seen and without: K × K numbers a client, once, at the end."""

    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        kinds = {"labelled": labelled, "unlabelled": unlabelled}
        sums = {
            name: contrast_sums(evidence(server, states, rows), server["share"], rows)["joint"]
            for name, evidence in kinds.items()
        }
        return states, reply(sums, rows)

    def server_step(server: Tree, sums: Tree, round: int) -> Tree:
        labelled, unlabelled = contrasts(sums["labelled"]), contrasts(sums["unlabelled"])
        return server | {"contrast": torch.stack([labelled[0], unlabelled[0]]), "gate_contrast": unlabelled[-1]}

    return Step("contrast", client, server_step)


def welcome(server: Tree, rows: Rows, log_evidence: Tensor) -> Tree:
    """States of new clients: proportions at the fixed point of the E-step, and whether their rows can tell them.

    Where components cannot be told apart by such rows, the proportions are the pooled ones and `identified` is False.
    """
    share = server["share"].double()
    start = share.expand(rows.n_clients, -1)
    identified = bool(server["contrast"][0 if rows.y is not None else 1] >= MIN_CONTRAST)
    proportions = e_step(log_evidence, rows, start, share).proportions if identified else start.clone()
    return {
        "proportions": proportions,
        "identified": torch.full((rows.n_clients,), identified, device=share.device),
        "standard_errors": standard_errors(log_evidence, proportions, share, rows),
    }
