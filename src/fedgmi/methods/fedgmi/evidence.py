"""What speaks for component k on a row: its word, its density, its expert, each centred over components.

Where judges are in closed form they take the place of density and expert.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.methods.contract import Task
from fedgmi.methods.fedgmi.judges import by_label, label_values, own_words
from fedgmi.methods.fedgmi.points import row_cells
from fedgmi.methods.fedgmi.settings import FedGMISettings
from fedgmi.methods.fedgmi.state import Calibration, Reference, Sketch
from fedgmi.methods.local_training import row_losses
from fedgmi.mixture import calibration, target_bins
from fedgmi.mixture.calibration import centre
from fedgmi.mixture.posterior import Posterior
from fedgmi.mixture.topics import word_log_probs
from fedgmi.randomness import generator, row_noise
from fedgmi.tree import Tree

Evidence = Callable[[Tree, Tree, Rows], Tensor]  # (server, states, rows) → log evidence [R, K], nats
Rule = Callable[[Tree, Tree, Rows], Posterior]  # where a preset's responsibilities and proportions come from

EXPERT_FLOOR = -7.0  # nats; an expert that is certain and wrong must not outshout everything else


def row_words(task: Task[FedGMISettings], server: Tree, rows: Rows) -> Tensor:
    """The word of each row [R]: cell and label together, rare ones merged."""
    return Sketch(server).word_map[raw_words(task, server, rows)]


def raw_words(task: Task[FedGMISettings], server: Tree, rows: Rows) -> Tensor:
    """The word before merging [R]: cell · L + label; the cell alone without labels. What is no class is binned."""
    cell, label = row_cells(task, server, rows), label_values(task.schema, server, rows)
    return cell if label is None else cell * target_bins.n_values(task.schema) + label


def judged_labels(task: Task[FedGMISettings], server: Tree, rows: Rows) -> Tensor:
    """By what judges in closed form tell rows apart beforehand: label, bin, or without labels the cell. [R]"""
    label = label_values(task.schema, server, rows)
    return row_cells(task, server, rows) if label is None else label


def word_evidence(counts: Tensor, own: Tensor | None, words: Tensor, rows: Rows) -> Tensor:
    """log p(w | k) of each row's word, from the rows of all other clients where `own` is given.

    Args:
        counts: Rows of each component in each word. [W, K]
        own: The clients' own share of these. [C, W, K]
        words: Of each row. [R]
        rows: Of C clients.

    Returns:
        [R, K], nats
    """
    if own is None:
        return word_log_probs(counts)[words]
    return word_log_probs(counts, own)[rows.client_index, words]


def elbo(task: Task[FedGMISettings], densities: Tensor, rows: Rows, version: Tensor | None = None) -> Tensor:
    """e_k(x) = log p_k(x) or its bound, with noise by the client's rows, or by the row itself. [R, K], nats

    With the densities' version it is kept: the E-step and the bound of one round use it alike.
    """
    if version is not None:
        return rows.once("elbo", [densities, version], lambda: elbo(task, densities, rows))
    samples, size = task.settings.elbo_samples, task.density.noise_size
    noise = torch.zeros(len(rows), samples, size)
    if size and rows.by_content:
        noise = row_noise(rows.x, samples, size, task.seed, "elbo")
    elif size:
        draws = [
            torch.randn(int(n), samples, size, generator=generator(task.seed, "elbo", i))
            for i, n in zip(rows.ids, rows.counts.tolist(), strict=True)
        ]
        noise = torch.cat(draws)
    return task.density.log_prob(densities, rows.x, noise.to(rows.x.device))


def expert_evidence(task: Task[FedGMISettings], server: Tree, rows: Rows) -> Tensor:
    """log p_k(y | x) of the label that a row has; zeros without labels. [R, K], nats"""
    if rows.y is None:
        return torch.zeros(len(rows), task.n_components, device=rows.x.device)
    return (-row_losses(task, Reference(server).expert, rows)).clamp(min=EXPERT_FLOOR)


def stack_evidence(task: Task[FedGMISettings], server: Tree, states: Tree, rows: Rows) -> Tensor:
    """The calibrated E-step's evidence with labels seen: word, density and expert, in KINDS' order. [R, F, K]

    It is kept while what judges does not change: the exchanges of one calibration use it again.
    """

    def stack(others: Callable[[], tuple[Tensor, Tensor]]) -> Tensor:
        words = word_evidence(Sketch(server).topics, own_words(server, states), row_words(task, server, rows), rows)
        return centre(torch.stack([words.double(), *(kind.double() for kind in others())], 1))

    def closed() -> tuple[Tensor, Tensor]:
        return by_label(task, server, states, rows, judged_labels(task, server, rows))

    def models() -> tuple[Tensor, Tensor]:
        return elbo(task, reference.density, rows, reference.version), expert_evidence(task, server, rows)

    of = made_of(server, states, without=[name for name in server if name.startswith(Calibration.prefix)])
    if task.settings.judges == "closed":
        return rows.once("evidence", of, lambda: stack(closed))
    reference = Reference(server)
    return rows.once("evidence", of, lambda: stack(models)) / Calibration(server).scale[:, None]


def made_of(server: Tree, states: Tree, without: Collection[str]) -> list[Tensor]:
    """All that evidence can be made of: the server's leaves, without those that weigh it, and what clients put in."""
    own = ("own_cells", "own_judges", "own_words", "judged_in", "words_in")
    seen = [leaf for name, leaf in sorted(server.items()) if name not in without]
    return [*seen, *(states[name] for name in own if name in states)]


def labelled_evidence(task: Task[FedGMISettings], server: Tree, states: Tree, rows: Rows) -> Tensor:
    """log p_k(x, y)/P(x, y) as calibrated, labels seen. [R, K], nats"""
    now = Calibration(server)
    return calibration.log_evidence(stack_evidence(task, server, states, rows), now.weights, now.bias, now.share)
