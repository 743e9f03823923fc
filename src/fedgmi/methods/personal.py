"""The personal part: what a client makes of the shared model for itself, after the last round. No model travels.

    p_i(y | x) = Σ_m ω_im · q̃_im(y | x)        q̃_im ∝_y q_im^β_m

The candidates of client i: the shared predictors, and its own net. The own net starts as the client's average of the shared
experts, and makes passes over the client's rows. How many, at which rate, and every β_m: by the log likelihood of all
clients' validation rows together, temperatures first.

Then weights, by stacking (Wolpert 1992; Yao et al. 2018, arXiv 1704.02030). The pooled ω̄ maximises
Σ_i Σ_v log Σ_m ω̄_m q̃_im(y_v | x_v), a concave problem, by Newton steps whose sums add up. Of n validation rows v,

    ω_i = (Σ_v r_i(v) + s·prior_i) / (n + s)      prior_i: ω̄, the own net's part times n_i/(n_i + s), n_i: rows trained on

r_i(v) ∝ ω_i·q̃_i(y_v | x_v). So a client without validation rows has the prior, one with many has weights of its own, and one
with hardly any rows the shared model. What travels: M × B sums once, then M + M² sums in each of four exchanges.

Where nobody has validation rows the shared model stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import chain

import torch
from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.methods.contract import Method, Task
from fedgmi.methods.local_training import own_log_prob
from fedgmi.methods.own_models import BETAS, by_temperature, tuned
from fedgmi.mixture.posterior import responsibilities
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import Step
from fedgmi.tree import Tree

PASSES = (1, 2, 4, 8, 16)
RATES = (0.3, 1.0)
"""Of the rounds' learning rate."""
STRENGTH = 5.0
"""s, rows."""
NEWTON_STEPS = 4
NEAR = 1e-9
"""Of a likelihood or a weight: the least that is told from 0."""
TRIED, BETA, WEIGHTS = "personal/tried", "personal/beta", "personal/weights"
TELLS = "how likely its rows for validation are under the shared model and under models tuned to its own rows, summed"
WEIGHS = (
    "how much likelier its rows for validation are under each candidate than under their mixture: sums and products"
)

Shared = Callable[[Tree, Tree, Rows], Tensor]
Start = Callable[[Tree, Tree, Rows], Tensor]


def personal(method: Method, task: Task, shared: Shared, n_shared: int, start: Start, reads: tuple[str, ...]) -> Method:
    """A method whose clients end with a part of their own.

    Args:
        method: Any with shared experts.
        task: From which it was built.
        shared: (server, states, rows) → log q of the shared candidates, labels not looked at. [R, S, L]
        n_shared: S.
        start: (server, states, rows) → where clients' own nets begin. [C, P]
        reads: The leaves of the server's state that these two need.

    Returns:
        The method with more steps at the end, and with clients that predict by their own mixture of candidates.
    """
    nets = [(n, rate) for rate in RATES for n in PASSES]

    def look(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        held = labelled(rows)
        if held is None:
            nothing = torch.zeros(n_shared + len(nets), len(BETAS), dtype=torch.float64, device=rows.x.device)
            return states, Message(sums={"log_likelihood": nothing, "rows": nothing.new_zeros(())})
        begin = start(server, states, rows)
        models = chain.from_iterable(tuned(task, begin, rows, PASSES, rate, round) for rate in RATES)
        logs = chain(shared(server, states, bare(held)).unbind(1), (own_log_prob(task, one, held) for one in models))
        likelihood = torch.stack([by_temperature(one, held.y) for one in logs])
        return states, Message(sums={"log_likelihood": likelihood, "rows": likelihood.new_tensor(float(len(held)))})

    def choose(server: Tree, message: Message, round: int) -> Tree:
        best, place = message.sums["log_likelihood"].max(1)
        own = int(best[n_shared:].argmax())
        beta = BETAS.to(best.device)[torch.cat([place[:n_shared], place[n_shared + own].reshape(1)])]
        weights = torch.full_like(beta, 1.0 / len(beta))
        if float(message.sums["rows"]) == 0:
            beta, weights = torch.ones_like(beta), torch.eye(len(beta), dtype=beta.dtype, device=beta.device)[0]
        return server | {TRIED: torch.tensor(own, device=best.device), BETA: beta, WEIGHTS: weights}

    def tune(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        most, rate = nets[int(server[TRIED])]
        *_, own = tuned(task, start(server, states, rows), rows, [n for n in PASSES if n <= most], rate, round)
        return states | {"personal": own}, Message()

    def candidates(server: Tree, states: Tree, rows: Rows) -> Tensor:
        every = torch.cat([shared(server, states, rows), own_log_prob(task, states["personal"], rows)[:, None]], 1)
        return (every.double() * server[BETA][:, None]).log_softmax(2)

    def at_labels(server: Tree, states: Tree, held: Rows) -> Tensor:
        logs, y = candidates(server, states, bare(held)), held.y
        assert y is not None
        return logs.gather(2, y[:, None, None].expand(-1, logs.shape[1], 1)).squeeze(2)

    def weigh(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        held, weights = labelled(rows), server[WEIGHTS]
        if held is None:
            ratio = weights.new_zeros(0, len(weights))
        else:
            logs = at_labels(server, states, held)
            ratio = (logs - (logs + weights.log()).logsumexp(1, keepdim=True)).exp()
        sums = {"gradient": ratio.sum(0), "curvature": ratio.T @ ratio, "rows": weights.new_tensor(float(len(ratio)))}
        return states, Message(sums=sums)

    def step_up(server: Tree, message: Message, round: int) -> Tree:
        return server | {WEIGHTS: newton_step(server[WEIGHTS], message.sums)}

    def settle(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        own, held = prior_weights(server[WEIGHTS], rows.counts), labelled(rows)
        if held is not None:
            own = own_weights(at_labels(server, states, held), held, own)
        return states | {"weights": own}, Message()

    def predict(server: Tree, states: Tree, rows: Rows) -> Tensor:
        if "personal" not in states:  # newcomers, and who missed the end
            logs = shared(server, states, rows).double()
            logs = (logs * server[BETA][:n_shared, None]).log_softmax(2)
            own = only_shared(server[WEIGHTS], n_shared).expand(rows.n_clients, -1)
        else:
            logs, own = candidates(server, states, rows), states["weights"]
        return (logs + own.clamp(min=NEAR).log()[rows.client_index][:, :, None]).logsumexp(1).log_softmax(1)

    mine = (*reads, TRIED, BETA)
    weighs = Step("weigh", weigh, step_up, reads=(*reads, BETA, WEIGHTS), writes=(WEIGHTS,), tells=WEIGHS)
    steps = (
        Step("try own parts", look, choose, reads=reads, writes=(TRIED, BETA, WEIGHTS), tells=TELLS),
        Step("own part", tune, reads=mine),
        *(weighs,) * NEWTON_STEPS,
        Step("own weights", settle, reads=(*mine, WEIGHTS)),
    )
    return replace(
        method,
        program=replace(method.program, finish=(*method.program.finish, *steps)),
        predictor=replace(
            method.predictor,
            predict=predict,
            reads=tuple(dict.fromkeys((*method.predictor.reads, *reads, BETA, WEIGHTS))),
        ),
    )


def labelled(rows: Rows) -> Rows | None:
    """The clients' rows for validation, where they have labels; None where there are none."""
    held = rows.validation
    return None if held is None or held.y is None or not len(held) else held


def bare(rows: Rows) -> Rows:
    """The same rows without labels."""
    return replace(rows, y=None, cache={})


def newton_step(weights: Tensor, sums: Tree, floor: float = 1e-6) -> Tensor:
    """The weights on the simplex that maximise the quadratic model of the log likelihood around some weights.

    By multiplicative ascent, on the server alone: at ω the model's gradient is 2g − Hω, g and H a row's.

    Args:
        weights: [M], positive, with sum 1.
        sums: `gradient` [M], `curvature` [M, M] and `rows`, summed over rows.
        floor: The least weight.

    Returns:
        [M], with sum 1. Without rows: as they were.
    """
    if float(sums["rows"]) == 0:
        return weights
    gradient, curvature = sums["gradient"] / sums["rows"], sums["curvature"] / sums["rows"]
    new = weights
    for _ in range(300):
        new = (new * (2.0 * gradient - curvature @ new).clamp(min=NEAR)).clamp(min=floor)
        new = new / new.sum()
    return new


def only_shared(weights: Tensor, n: int) -> Tensor:
    """The weights of the first n candidates, brought to sum 1. [n]"""
    first = weights[:n] + 1e-3
    return first / first.sum()


def prior_weights(weights: Tensor, counts: Tensor, strength: float = STRENGTH) -> Tensor:
    """The pooled weights, the own net's times n/(n + s), the rest to the shared candidates.

    Args:
        weights: Pooled; the own net's is the last. [M]
        counts: The rows that each client trains on. [C]
        strength: s, rows.

    Returns:
        [C, M]
    """
    trust = (counts.double() / (counts.double() + strength)).to(weights.device)[:, None]
    own = trust * weights[-1]
    return torch.cat([only_shared(weights, len(weights) - 1) * (1.0 - own), own], 1)


def own_weights(logs: Tensor, held: Rows, prior: Tensor, strength: float = STRENGTH) -> Tensor:
    """Clients' own weights: the E-step's fixed point under a prior of s rows.

    Args:
        logs: log q̃ of the labels of validation rows. [V, M], nats
        held: These rows, of C clients.
        prior: [C, M]
        strength: s, rows.

    Returns:
        [C, M]
    """
    weights, counts = prior, held.counts.to(prior.device).double()[:, None]
    for _ in range(100):
        resp, _ = responsibilities(logs, weights.clamp(min=NEAR), held.client_index)
        weights = (held.sum_by_client(resp) + strength * prior) / (counts + strength)
    return weights
