"""The personal part: what a client makes of the shared model for itself, after the last round. No model travels.

    p_i(y | x) = Σ_m ω_im · q̃_im(y | x)        q̃_im ∝_y q_im^β_m

The candidates of client i: the shared predictors, and its own net. The own net starts as the client's average of the
shared experts, or at random, and makes passes over the client's rows. Which start, how many passes, at which rate,
and every β_m: by the log likelihood of all clients' validation rows together, temperatures first.

Then weights, by stacking (Wolpert 1992; Yao et al. 2018, arXiv 1704.02030). The pooled ω̄ maximises
Σ_i Σ_v log Σ_m ω̄_m q̃_im(y_v | x_v), a concave problem, by Newton steps whose sums add up. Of n validation rows v,

    ω_i = (Σ_v r_i(v) + s·prior_i) / (n + s)

r_i(v) ∝ ω_i·q̃_i(y_v | x_v). prior_i is ω̄, the own net's part times n_i/(n_i + s), n_i the rows trained on. So a client
without validation rows has the prior, one with many has weights of its own, and one with hardly any rows the shared
model. Last, a temperature for the whole mixture under the prior's weights: predictors that disagree make one that is
too modest. What travels: sums for each candidate and temperature, M + M² sums in each of two exchanges, and sums for
each temperature.

Where nobody has validation rows the shared model stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import torch
from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.methods.contract import Method, Task
from fedgmi.methods.local_training import own_log_prob
from fedgmi.methods.own_models import BETAS, LAST, NOBODY, by_temperature, labelled_validation, tuned
from fedgmi.mixture.stacking import LEAST, newton_step, only_first, own_weights, prior_weights
from fedgmi.models.heads import blend
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import Step
from fedgmi.randomness import generator
from fedgmi.settings.effects import refuse_without_effect
from fedgmi.tree import Tree

PASSES = (1, 2, 4, 8, 16)
RATES = (0.3, 1.0)
"""Of the rounds' learning rate."""
AFRESH = (16, 64)
"""Passes of a net that starts at random, at the rounds' rate: where clients have nothing in common it is the best."""
NEWTON_STEPS = 2
SHARED_ALONE = "nobody has rows for validation: all clients have the shared mixture, and no part of their own"
TRIED, BETA, WEIGHTS, LAST_BETA = (f"personal/{leaf}" for leaf in ("tried", "beta", "weights", "last_beta"))
TELLS = "how likely its rows for validation are under the shared model and under models tuned to its own rows, summed"
WEIGHS = (
    "how much likelier its rows for validation are under each candidate than under their mixture: sums and products"
)
TEMPERS = "how likely its rows for validation are under the mixture of candidates, by temperature"


Stretch = tuple[bool, tuple[int, ...], float]
"""Whether nets start at random, after which numbers of passes they are tried, and at which part of the rate."""


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


def personal(method: Method, task: Task, own: OwnPart) -> Method:
    """A method whose clients end with a part of their own.

    It stays as it is where rows have no labels, and in survival: rows for validation have few events, by which chance
    chooses. On TCGA that gave up 24 points of the C-index.

    Args:
        method: Any with shared experts.
        task: From which it was built.
        own: What a client's own part is made of.

    Returns:
        The method with more steps at the end, and with clients that predict by their own mixture of candidates.

    Raises:
        ConfigError: In survival, for a method that has no own parts unless its settings ask for them.
    """
    if task.schema.task == "survival":
        refuse_without_effect(task.settings, "method", ["personal"], "in survival no client has a part of its own")
        return method
    if not task.schema.labelled:
        return method
    stretches: tuple[Stretch, ...] = (*((False, PASSES, rate) for rate in RATES), (True, AFRESH, 1.0))
    nets: list[Stretch] = [(new, stops[: i + 1], rate) for new, stops, rate in stretches for i in range(len(stops))]
    n_shared, plain, head = own.n_shared, method.predictor.predict, task.expert.head

    def trained(begin: Tensor, rows: Rows, stretch: Stretch, round: int) -> Iterator[Tensor]:
        new, stops, rate = stretch
        return tuned(task, afresh(task, begin) if new else begin, rows, stops, rate, round)

    def look(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        held = labelled_validation(rows)
        if held is None or held.y is None:
            nothing = torch.zeros(n_shared + len(nets), len(BETAS), dtype=torch.float64, device=rows.x.device)
            return states, Message(sums={"log_likelihood": nothing, "rows": nothing.new_zeros(())})
        begin = own.start(server, states, rows)
        models = chain.from_iterable(trained(begin, rows, stretch, round) for stretch in stretches)
        y = held.y
        found = chain(own.shared(server, states, bare(held)), (own_log_prob(task, m, held) for m in models))
        likelihood = torch.stack([by_temperature(one, y, head) for one in found])
        return states, Message(sums={"log_likelihood": likelihood, "rows": likelihood.new_tensor(float(len(held)))})

    def choose(server: Tree, message: Message, round: int) -> Tree:
        best, place = message.sums["log_likelihood"].max(1)
        chosen = int(best[n_shared:].argmax())
        beta = BETAS.to(best.device)[torch.cat([place[:n_shared], place[n_shared + chosen].reshape(1)])]
        chosen = NOBODY if float(message.sums["rows"]) == 0 else chosen
        weights = torch.full_like(beta, 1.0 / len(beta))
        made = {TRIED: torch.tensor(chosen, device=best.device), BETA: beta, WEIGHTS: weights}
        return server | made | {LAST_BETA: torch.ones_like(beta[0])}

    def tune(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        *_, net = trained(own.start(server, states, rows), rows, nets[int(server[TRIED])], round)
        return states | {"personal": net}, Message()

    def candidates(server: Tree, states: Tree, rows: Rows, net: bool = True) -> list[Tensor]:
        found = list(own.shared(server, states, rows))
        found += [own_log_prob(task, states["personal"], rows)] if net else []
        return [head.temper(one.double(), beta) for one, beta in zip(found, server[BETA], strict=False)]

    def at_labels(server: Tree, states: Tree, held: Rows) -> Tensor:
        y = held.y
        assert y is not None
        return torch.stack([head.log_lik(one, y) for one in candidates(server, states, bare(held))], 1)

    def weigh(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        weights = server[WEIGHTS]
        held = labelled_validation(rows) if "personal" in states else None  # who missed "own part" has no net
        logs = weights.new_zeros(0, len(weights)) if held is None else at_labels(server, states, held)
        ratio = (logs - (logs + weights.log()).logsumexp(1, keepdim=True)).exp()
        sums = {"gradient": ratio.sum(0), "curvature": ratio.T @ ratio, "rows": weights.new_tensor(float(len(ratio)))}
        return states, Message(sums=sums)

    def step_up(server: Tree, message: Message, round: int) -> Tree:
        return server | {WEIGHTS: newton_step(server[WEIGHTS], message.sums)}

    def temper(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        held = labelled_validation(rows) if "personal" in states else None
        if held is None or held.y is None:
            return states, Message(sums={"log_likelihood": torch.zeros_like(BETAS, device=rows.x.device)})
        weights = prior_weights(server[WEIGHTS], rows.counts)
        mixture = blend(head, candidates(server, states, bare(held)), weights.log()[held.client_index])
        return states, Message(sums={"log_likelihood": by_temperature(mixture, held.y, head)})

    def take_temper(server: Tree, message: Message, round: int) -> Tree:
        sums = message.sums["log_likelihood"]
        found = BETAS.to(sums.device)[int(sums.argmax())] if bool(sums.any()) else server[LAST_BETA]
        return server | {LAST_BETA: found}

    def settle(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        if "personal" not in states:
            return states, Message()
        weights, held = prior_weights(server[WEIGHTS], rows.counts), labelled_validation(rows)
        if held is not None:
            weights = own_weights(at_labels(server, states, held), held, weights)
        return states | {"weights": weights}, Message()

    def welcome(server: Tree, states: Tree, rows: Rows) -> Tree:
        if rows.y is None or int(server[TRIED]) == NOBODY:
            return states
        return tune(server, states, rows, LAST)[0] | {"weights": prior_weights(server[WEIGHTS], rows.counts)}

    def predict(server: Tree, states: Tree, rows: Rows) -> Tensor:
        pooled = server[WEIGHTS]
        if int(server[TRIED]) == NOBODY:
            return plain(server, states, rows)
        net = "personal" in states and "weights" in states  # not of newcomers, and not of who missed a step of the end
        weights = states["weights"] if net else only_first(pooled, n_shared).expand(rows.n_clients, -1)
        mixture = blend(head, candidates(server, states, rows, net), weights.clamp(min=LEAST).log()[rows.client_index])
        return head.temper(mixture, server[LAST_BETA]) if net else mixture

    def somebody(server: Tree) -> bool:
        return int(server[TRIED]) != NOBODY

    leaves = (TRIED, BETA, WEIGHTS, LAST_BETA)
    both = tuple(dict.fromkeys((*own.start_reads, *own.reads)))
    ending = partial(Step, part="own parts")
    weighs = ending("weigh", weigh, step_up, (*own.reads, BETA, WEIGHTS), (WEIGHTS,), tells=WEIGHS, when=somebody)
    steps = (
        ending("try own parts", look, choose, reads=both, writes=leaves, tells=TELLS),
        ending("own part", tune, reads=(*own.start_reads, TRIED), when=somebody),
        *(weighs,) * NEWTON_STEPS,
        ending("temper", temper, take_temper, (*own.reads, BETA, WEIGHTS), (LAST_BETA,), tells=TEMPERS, when=somebody),
        ending("own weights", settle, reads=(*own.reads, BETA, WEIGHTS), when=somebody),
    )
    return replace(
        method,
        program=replace(method.program, finish=(*method.program.finish, *steps)),
        predictor=replace(
            method.predictor,
            predict=predict,
            shared=plain,
            has_own=somebody,
            welcome=welcome,
            own=(*method.predictor.own, "personal", "weights"),
            reads=tuple(dict.fromkeys((*method.predictor.reads, *own.reads, *leaves))),
        ),
    )


def afresh(task: Task, like: Tensor) -> Tensor:
    """One random start for all clients, in place of others. [C, P]"""
    start = task.expert.init(generator(task.seed, "personal"))
    return start.to(like).repeat(len(like), 1)


def bare(rows: Rows) -> Rows:
    """The same rows without labels."""
    return replace(rows, y=None, cache={})
