"""What a client may predict with at the end: the shared predictors, and nets of its own. No model travels.

A net starts as the client's average of the shared experts, or at random, and makes passes over the client's rows. Of
those that are tried the best few are kept. Which starts, how many passes, at which rates, and a temperature for every
candidate: by the log likelihood of all clients' validation rows together, temperatures first. What travels are these
sums, for each candidate and temperature. In survival there are no temperatures, and nets that start at random have to
be proven better (`own_models.proven`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.methods.contract import Task
from fedgmi.methods.local_training import own_log_prob
from fedgmi.methods.own_models import (
    NOBODY,
    WORST,
    betas_of,
    by_temperature,
    doubted,
    labelled_validation,
    proven,
    tuned,
)
from fedgmi.protocol.message import Message
from fedgmi.randomness import generator
from fedgmi.tree import Tree

PASSES = (1, 2, 4, 8, 16)
RATES = (0.3, 1.0, 3.0)
"""Of the rounds' learning rate. Those of tables are small, and at them 16 passes are not enough for a client's net."""
AFRESH = (16, 64)
"""Passes of a net that starts at random, at the rounds' rate: where clients have nothing in common it is the best."""
KEPT = 4
"""So many nets a client keeps: one early and one late are wrong about different rows."""
TRIED, BETA, WEIGHTS, LAST_BETA = (f"personal/{leaf}" for leaf in ("tried", "beta", "weights", "last_beta"))
"""The server's leaves: the chosen nets, the candidates' temperatures, what they count, and the temperature of all."""


@dataclass(frozen=True)
class OwnPart:
    """What a client's own part is made of.

    Attributes:
        shared: (server, states, rows) → log q of each shared candidate, labels not looked at. [R, L], nats; of other
            heads their numbers [R, Q].
        n_shared: How many there are.
        start: (server, states, rows) → where clients' own nets begin. [C, P]
        reads: The leaves of the server's state that `shared` needs.
        start_reads: Those that `start` needs.
    """

    shared: Callable[[Tree, Tree, Rows], Sequence[Tensor]]
    n_shared: int
    start: Callable[[Tree, Tree, Rows], Tensor]
    reads: tuple[str, ...]
    start_reads: tuple[str, ...]


@dataclass(frozen=True)
class Stretch:
    """How nets are trained.

    Attributes:
        afresh: Whether they start at random.
        stops: The numbers of passes after which they are tried, ascending.
        rate: Which part of the rounds' learning rate.
    """

    afresh: bool
    stops: tuple[int, ...]
    rate: float


@dataclass(frozen=True)
class Candidates:
    """The shared predictors, and clients' own nets. A step's clients and server are its methods.

    Attributes:
        task: From which the method was built.
        own: What a client's own part is made of.
    """

    task: Task
    own: OwnPart

    @property
    def stretches(self) -> tuple[Stretch, ...]:
        """What is trained to try nets."""
        return (*(Stretch(False, PASSES, rate) for rate in RATES), Stretch(True, AFRESH, 1.0))

    @property
    def nets(self) -> list[tuple[int, int]]:
        """Each net that is tried: of which stretch, and at which of its stops."""
        return [(i, j) for i, stretch in enumerate(self.stretches) for j in range(len(stretch.stops))]

    def unchosen(self) -> Tree:
        """What `choose` and the steps after it would find, where nobody may be asked: nets that are named beforehand,
        without temperatures, which have one half of the weight. From the shared start the middle and the last number of
        passes at the middle rate, and from a random one all; docs/decisions.md has the figures."""
        stops = len(PASSES)
        first = len(RATES) // 2 * stops
        afresh = range(len(RATES) * stops, len(self.nets))
        chosen = torch.tensor(sorted({first + stops // 2, first + stops - 1, *afresh}))
        shared = torch.full((self.own.n_shared,), 0.5 / self.own.n_shared, dtype=torch.float64)
        own = torch.full((len(chosen),), 0.5 / len(chosen), dtype=torch.float64)
        ones = torch.ones(len(shared) + len(own), dtype=torch.float64)
        return {TRIED: chosen, BETA: ones, WEIGHTS: torch.cat([shared, own]), LAST_BETA: ones[0]}

    def trained(self, begin: Tensor, rows: Rows, stretch: Stretch, round: int) -> Iterator[Tensor]:
        """Nets after each number of passes. [C, P] each"""
        start = _afresh(self.task, begin) if stretch.afresh else begin
        return tuned(self.task, start, rows, stretch.stops, stretch.rate, round)

    def look(self, server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        """A client tells how likely its rows for validation are, by candidate and temperature."""
        held = labelled_validation(rows)
        if held is None or held.y is None:
            n = self.own.n_shared + len(self.nets)
            nothing = torch.zeros(n, len(betas_of(self.task.expert.head)), dtype=torch.float64, device=rows.x.device)
            return states, Message(sums={"log_likelihood": nothing, "rows": nothing.new_zeros(())})
        begin = self.own.start(server, states, rows)
        models = chain.from_iterable(self.trained(begin, rows, stretch, round) for stretch in self.stretches)
        y = held.y
        found = chain(
            self.own.shared(server, states, bare(held)), (own_log_prob(self.task, one, held) for one in models)
        )
        likelihood = torch.stack([by_temperature(one, y, self.task.expert.head) for one in found])
        return states, Message(sums={"log_likelihood": likelihood, "rows": likelihood.new_tensor(float(len(held)))})

    def choose(self, server: Tree, message: Message, round: int) -> Tree:
        """The server takes the best nets, but none that ran away, and the best temperature for each candidate."""
        n_shared, head = self.own.n_shared, self.task.expert.head
        betas, found = betas_of(head), message.sums["log_likelihood"]
        best, place = doubted(found, betas).max(1)
        first = n_shared + sum(not self.stretches[i].afresh for i, _ in self.nets)  # from here on they start at random
        last = None if proven(found[first:], found[:first], head) else first
        likeliest = best[n_shared:last].argsort(descending=True, stable=True)[:KEPT]
        sane = likeliest[best[n_shared:][likeliest] > WORST / 2]
        chosen = (sane if len(sane) else likeliest[:1]).sort().values
        beta = betas.to(best.device)[torch.cat([place[:n_shared], place[n_shared:][chosen]])]
        if float(message.sums["rows"]) == 0:
            chosen = torch.full_like(chosen, NOBODY)
        weights = torch.full_like(beta, 1.0 / len(beta))
        return server | {TRIED: chosen, BETA: beta, WEIGHTS: weights, LAST_BETA: torch.ones_like(beta[0])}

    def tune(self, server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        """A client trains the chosen nets on its rows, by the same draws as when they were tried."""
        begin, chosen = self.own.start(server, states, rows), [self.nets[int(net)] for net in server[TRIED]]
        kept: list[Tensor] = []
        for i, stretch in enumerate(self.stretches):
            stops = [stop for of, stop in chosen if of == i]
            if stops:
                part = replace(stretch, stops=stretch.stops[: stops[-1] + 1])
                kept += [net for j, net in enumerate(self.trained(begin, rows, part, round)) if j in stops]
        return states | {"personal": torch.stack(kept, 1)}, Message()

    def tempered(self, server: Tree, states: Tree, rows: Rows, nets: bool = True) -> list[Tensor]:
        """log q̃ of each candidate, with the client's own nets or without. [R, L] each, nats; of other heads [R, Q]"""
        found = list(self.own.shared(server, states, rows))
        found += [own_log_prob(self.task, one, rows) for one in states["personal"].unbind(1)] if nets else []
        temper = self.task.expert.head.temper
        return [temper(one.double(), beta) for one, beta in zip(found, server[BETA], strict=False)]

    def at_labels(self, server: Tree, states: Tree, held: Rows) -> Tensor:
        """log q̃ of the labels of V rows. [V, M], nats"""
        y = held.y
        assert y is not None
        log_lik = self.task.expert.head.log_lik
        return torch.stack([log_lik(one, y) for one in self.tempered(server, states, bare(held))], 1)


def somebody(server: Tree) -> bool:
    """Whether anybody has rows for validation, and so all have parts of their own."""
    return int(server[TRIED][0]) != NOBODY


def bare(rows: Rows) -> Rows:
    """The same rows without labels."""
    return replace(rows, y=None, cache={})


def _afresh(task: Task, like: Tensor) -> Tensor:
    """One random start for all clients, in place of others. [C, P]"""
    start = task.expert.init(generator(task.seed, "personal"))
    return start.to(like).repeat(len(like), 1)
