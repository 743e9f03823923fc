"""Models of clients' own, made from a shared one: passes over a client's rows, and temperatures.

A temperature β makes q̃ ∝_y q^β (Guo et al. 2017, arXiv 1706.04599): a net on few rows is right before it is modest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.methods.contract import Task
from fedgmi.methods.local_training import train_own
from fedgmi.models.density import rows_per_chunk
from fedgmi.models.heads import CLASSES, Head
from fedgmi.protocol.step import ClientStep
from fedgmi.tree import Tree

BETAS = torch.logspace(-1.0, 0.5, 31, dtype=torch.float64)
"""β that are tried, from 0.1 to 3.2; 1 is among them."""
DOUBT = 3.0
"""c of a prior exp(−c·log²β): a handful of rows, all of them right, would make any model as sure as the grid goes."""
PROOF = 20.0
"""So many times likelier rows for validation have to be where `Head.rare`."""
WORST = -1e10
"""Of a candidate that ran away, in the place of −∞: it has to travel, and to fit into masked sums."""
NOBODY = -1
"""The choice where nobody has rows for validation."""
LAST = -1
"""The round in whose name newcomers' models draw their rows; those before it count down."""
PASSES, PASSES_AFRESH = 16, 64
"""Passes of a newcomer's own model from a shared one, and from a random start: the most that fine-tuning and the
personal part try."""


def labelled_validation(rows: Rows) -> Rows | None:
    """The clients' rows for validation, where they have labels; None where there are none."""
    held = rows.validation
    return None if held is None or held.y is None or not len(held) else held


def tuned(task: Task, start: Tensor, rows: Rows, stops: Sequence[int], rate: float, round: int) -> Iterator[Tensor]:
    """Clients' models after several numbers of passes over their rows, each going on from the one before.

    Args:
        task: Its training settings, and its learning rate.
        start: Where the clients' models begin. [C, P]
        rows: Of C clients.
        stops: The numbers of passes, ascending.
        rate: Which part of the learning rate.
        round: Of which it is.

    Yields:
        The models at each stop. [C, P]
    """
    model, done = start, 0
    for stop in stops:
        stretch = task.training.model_copy(update={"epochs": stop - done, "stragglers": 0.0})
        key = (task.seed, round, f"tuning to {stop} at {rate!r}")
        model = train_own(task.replace(lr=rate * task.lr, training=stretch, part=1.0), rows, model, key)
        done = stop
        yield model


def welcomed(
    client: ClientStep, epochs: int, passes: int = PASSES, start: Callable[[Tree, Rows], Tree] | None = None
) -> Callable[[Tree, Tree, Rows], Tree]:
    """What gives newcomers a model of their own, by a method's rounds in which the server's state stands still.

    Args:
        client: What a client does in a round, after which its states predict. Messages go nowhere.
        epochs: Its passes in a round.
        passes: So many are made, in whole rounds.
        start: (server, rows) → states to begin with; None: those of `infer_client`.

    Returns:
        See `Predictor.welcome`. Rows without labels leave states as they are.
    """

    def welcome(server: Tree, states: Tree, rows: Rows) -> Tree:
        if rows.y is None:
            return states
        states = states if start is None else start(server, rows)
        for number in range(math.ceil(passes / epochs)):
            states, _ = client(server, states, rows, LAST - number)
        return states

    return welcome


def betas_of(head: Head) -> Tensor:
    """The β that are tried. Of risks a β moves the level alone, and a few events more or less would choose it: 1."""
    return torch.ones(1, dtype=torch.float64) if head.rare else BETAS


def proven(own: Tensor, others: Tensor, head: Head) -> bool:
    """Whether rows for validation prove some models to be better than others.

        mean over these models of exp(L − max L of the others) ≥ 20

    Were the best of the others true, a likelihood ratio on rows that trained neither would have mean 1, and so would a
    mean of ratios. It then reaches 20 with a probability of 5 % at most (Markov), however many models are tried.

    Args:
        own: L, the log likelihood of all clients' rows. [M, B], nats
        others: Likewise. [S, B]
        head: Whether anything is to be proven.

    Returns:
        True where nothing is.

    Examples:
        >>> from fedgmi.models.heads import COX
        >>> [proven(torch.tensor([[gain], [0.0]]), torch.zeros(1, 1), COX) for gain in (3.5, 4.0)]  # 17 and 28 times
        [False, True]
    """
    if not head.rare:
        return True
    ratios = (own - others.max()).flatten()
    return float(ratios.logsumexp(0)) >= math.log(PROOF * len(ratios))


def by_temperature(logs: Tensor, labels: Tensor, head: Head = CLASSES, betas: Tensor | None = None) -> Tensor:
    """The log likelihood of labels at every β of a grid, where p^β is made to sum to one again.

    Args:
        logs: log p(y | x) of every class [V, L], nats; of other heads their numbers.
        labels: [V]
        head: How logs are read.
        betas: The grid; None: that of the head. [B]

    Returns:
        Summed over rows. [B], float64, nats

    Examples:
        >>> logs = torch.tensor([[0.9, 0.1], [0.9, 0.1]]).log()
        >>> bool(by_temperature(logs, torch.tensor([0, 1])).argmax() == 0)  # a coin's toss: the smallest β
        True
    """
    betas = betas_of(head) if betas is None else betas
    found = [logs.new_zeros((0, len(betas)), dtype=torch.float64)]
    n = rows_per_chunk(8 * len(betas) * logs.shape[1])  # float64, with copies: of 1,000 classes it would be gigabytes
    for some, own in zip(torch.split(logs, n), torch.split(labels, n), strict=True):
        tempered = head.temper(some.double()[:, None], betas.to(logs.device)[:, None])  # [V', B, L]
        found.append(head.log_lik(tempered, own))
    return told(torch.cat(found).sum(0))


def doubted(likelihood: Tensor, betas: Tensor = BETAS) -> Tensor:
    """Summed log likelihoods at every β of a grid with the prior on β: by this the server chooses.

    Args:
        likelihood: Summed over clients. […, B], nats
        betas: The grid. [B]

    Returns:
        […, B], nats

    Examples:
        >>> float(BETAS[doubted(torch.zeros(31)).argmax()])
        1.0
    """
    return likelihood - DOUBT * betas.to(likelihood.device).log().square()


def told(likelihood: Tensor) -> Tensor:
    """What candidates' log likelihoods are told as: one that ran away counts as the worst, and is not chosen.

    Args:
        likelihood: Any numbers, NaN and infinities among them, in nats.

    Returns:
        −1e10 in their place, and no less. The same shape

    Examples:
        >>> told(torch.tensor([-3.0, torch.nan])).tolist()
        [-3.0, -10000000000.0]
    """
    return torch.where(likelihood.isfinite(), likelihood, WORST).clamp(min=WORST)
