"""The personal part: what a client makes of the shared model for itself, after the last round. No model travels.

    p_i(y | x) = Σ_m ω_im · q̃_im(y | x)        q̃_im ∝_y q_im^β_m

The candidates of client i: the shared predictors, and nets of its own; `candidates` says how they are made and
tempered.

Then weights, by stacking (Wolpert 1992; Yao et al. 2018, arXiv 1704.02030). The pooled ω̄ maximises
Σ_i Σ_v log Σ_m ω̄_m q̃_im(y_v | x_v), a concave problem, by Newton steps whose sums add up, with one more row that speaks
for the shared predictors. Of n validation rows v,

    ω_i = (Σ_v r_i(v) + s·prior_i) / (n + s)

r_i(v) ∝ ω_i·q̃_i(y_v | x_v). prior_i is ω̄, its own nets' part times n_i/(n_i + s), n_i the rows trained on. So a client
without validation rows has the prior, one with many has weights of its own, and one with hardly any rows the shared
model. Last, a temperature for the whole mixture under the prior's weights: predictors that disagree make one that is
too modest. What travels: sums for each candidate and temperature, M + M² sums in each of three exchanges, and sums for
each temperature.

With `[privacy]` none of this may be told. Then the nets are named beforehand, all candidates have the same pooled
weight, no temperature is fitted, and each client weighs them by its own rows for validation alone: nothing travels.

Where nobody has validation rows the shared model stays as it is. In survival a row's likelihood is
exp(δ·η − u·exp η) (`models.survival_head`), and mixtures are of densities. Few rows end in an event there, and chance
would choose: no temperature is fitted, and nets that start at random have to be proven (`own_models.proven`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.methods.candidates import BETA, LAST_BETA, TRIED, WEIGHTS, Candidates, OwnPart, bare, somebody
from fedgmi.methods.contract import Method, Task
from fedgmi.methods.own_models import LAST, betas_of, by_temperature, doubted, labelled_validation
from fedgmi.mixture.stacking import LEAST, newton_step, only_first, own_weights, prior_weights, with_doubt
from fedgmi.models.heads import Head, blend
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import Program, Step
from fedgmi.tree import Tree

NEWTON_STEPS = 3
SHARED_ALONE = "nobody has rows for validation: all clients have the shared mixture, and no part of their own"
TELLS = "how likely its rows for validation are under the shared model and under models tuned to its own rows, summed"
WEIGHS = (
    "how much likelier its rows for validation are under each candidate than under their mixture: sums and products"
)
TEMPERS = "how likely its rows for validation are under the mixture of candidates, by temperature"


def personal(method: Method, task: Task, own: OwnPart) -> Method:
    """A method whose clients end with a part of their own.

    It stays as it is where rows have no labels.

    Args:
        method: Any with shared experts.
        task: From which it was built.
        own: What a client's own part is made of.

    Returns:
        The method with more steps at the end, and with clients that predict by their own mixture of candidates.
    """
    if not task.schema.labelled:
        return method
    stack = Stack(Candidates(task, own), method.predictor.predict)
    predictor, leaves = method.predictor, (TRIED, BETA, WEIGHTS, LAST_BETA)
    return replace(
        method,
        program=_untold(method.program, stack) if task.private else _told(method.program, stack),
        predictor=replace(
            predictor,
            predict=stack.predict,
            shared=predictor.predict,
            has_own=somebody,
            welcome=stack.welcome,
            own=(*predictor.own, "personal", "weights"),
            reads=tuple(dict.fromkeys((*predictor.reads, *own.reads, *leaves))),
        ),
        chooses=True,
    )


def _told(program: Program, stack: Stack) -> Program:
    """With all exchanges after the last round."""
    return replace(program, finish=(*program.finish, *_steps(stack)))


def _untold(program: Program, stack: Stack) -> Program:
    """Without those in which clients tell anything; what these would find is in the first state."""
    first, known = program.init, stack.candidates.unchosen()
    own = tuple(step for step in _steps(stack) if not step.tells)
    return replace(program, init=lambda: first() | known, finish=(*program.finish, *own))


def _steps(stack: Stack) -> tuple[Step, ...]:
    """The exchanges after the last round, in order."""
    made, own = stack.candidates, stack.candidates.own
    both = tuple(dict.fromkeys((*own.start_reads, *own.reads)))
    weighed = (*own.reads, BETA, WEIGHTS)
    then = partial(Step, part="own parts", when=somebody)  # the first step finds out whether anybody has one
    leaves = (TRIED, BETA, WEIGHTS, LAST_BETA)
    return (
        Step("try own parts", made.look, made.choose, reads=both, writes=leaves, tells=TELLS),
        then("own part", made.tune, reads=(*own.start_reads, TRIED)),
        *(then("weigh", stack.weigh, stack.step_up, weighed, (WEIGHTS,), tells=WEIGHS),) * NEWTON_STEPS,
        then("temper", stack.tell_temper, stack.take_temper, weighed, (LAST_BETA,), tells=TEMPERS),
        then("own weights", stack.settle, reads=weighed),
    )


@dataclass(frozen=True)
class Stack:
    """How much each candidate counts, for all clients and for each. A step's clients and server are its methods.

    Attributes:
        candidates: What is mixed.
        plain: The shared predictor, where nobody has a part of its own.
    """

    candidates: Candidates
    plain: Callable[[Tree, Tree, Rows], Tensor]

    def weigh(self, server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        """A client tells gradient and curvature of the log likelihood in the weights."""
        weights = server[WEIGHTS]
        held = _judging(states, rows)
        logs = weights.new_zeros(0, len(weights)) if held is None else self.candidates.at_labels(server, states, held)
        ratio = (logs - (logs + weights.log()).logsumexp(1, keepdim=True)).exp()
        sums = {"gradient": ratio.sum(0), "curvature": ratio.T @ ratio, "rows": weights.new_tensor(float(len(ratio)))}
        return states, Message(sums=sums)

    def step_up(self, server: Tree, message: Message, round: int) -> Tree:
        """The server makes a Newton step."""
        weights = server[WEIGHTS]
        sums = with_doubt(weights, message.sums, self.candidates.own.n_shared)
        return server | {WEIGHTS: newton_step(weights, sums)}

    def tell_temper(self, server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        """A client tells how likely its rows for validation are under the mixture, by temperature."""
        held = _judging(states, rows)
        if held is None or held.y is None:
            nothing = torch.zeros_like(betas_of(self._head), device=rows.x.device)
            return states, Message(sums={"log_likelihood": nothing})
        mixture = self._mixture(server, states, bare(held), self._prior(server, rows))
        return states, Message(sums={"log_likelihood": by_temperature(mixture, held.y, self._head)})

    def take_temper(self, server: Tree, message: Message, round: int) -> Tree:
        """The server takes the best temperature."""
        betas = betas_of(self._head)
        sums = doubted(message.sums["log_likelihood"], betas)
        return server | {LAST_BETA: betas.to(sums.device)[int(sums.argmax())]}

    def settle(self, server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        """A client finds its own weights."""
        if "personal" not in states:
            return states, Message()
        weights, held = self._prior(server, rows), labelled_validation(rows)
        if held is not None:
            weights = own_weights(self.candidates.at_labels(server, states, held), held, weights)
        return states | {"weights": weights}, Message()

    def welcome(self, server: Tree, states: Tree, rows: Rows) -> Tree:
        """Newcomers with labels get nets, and the prior's weights."""
        if rows.y is None or not somebody(server):
            return states
        return self.candidates.tune(server, states, rows, LAST)[0] | {"weights": self._prior(server, rows)}

    def predict(self, server: Tree, states: Tree, rows: Rows) -> Tensor:
        """log p_i(y | x) [R, L], nats; of other heads their numbers [R, Q]."""
        if not somebody(server):
            return self.plain(server, states, rows)
        if "personal" in states and "weights" in states:
            mixture = self._mixture(server, states, rows, states["weights"])
            return self._head.temper(mixture, server[LAST_BETA])
        # newcomers, and who missed a step of the end
        shared = only_first(server[WEIGHTS], self.candidates.own.n_shared)
        return self._mixture(server, states, rows, shared.expand(rows.n_clients, -1), nets=False)

    def _mixture(self, server: Tree, states: Tree, rows: Rows, weights: Tensor, nets: bool = True) -> Tensor:
        """The candidates in proportions `weights` [C, M], before the last temperature."""
        found = self.candidates.tempered(server, states, rows, nets)
        return blend(self._head, found, weights.clamp(min=LEAST).log()[rows.client_index])

    def _prior(self, server: Tree, rows: Rows) -> Tensor:
        """The weights of clients that know nothing better. [C, M]"""
        return prior_weights(server[WEIGHTS], rows.counts, self.candidates.own.n_shared)

    @property
    def _head(self) -> Head:
        return self.candidates.task.expert.head


def _judging(states: Tree, rows: Rows) -> Rows | None:
    """The rows by which clients' candidates are weighed; None for who missed "own part" and has no nets."""
    return labelled_validation(rows) if "personal" in states else None
