"""The contract of a method: a record of pure functions, state in and state out.

A method is phases of steps. A step is one exchange: the server's state goes out, each client answers with an additive
message, the server folds the sum into its state. Server and client states are trees of tensors, hence checkpoint and
wire format at once. Methods call the mathematics in `mixture` and `training`; nothing calls back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from fedgmi import tree
from fedgmi.data.rows import Rows, Schema
from fedgmi.models.density import Density
from fedgmi.models.experts import Expert
from fedgmi.settings.run import MethodSettings, TrainingSettings
from fedgmi.tree import Tree


@dataclass(frozen=True)
class Task:
    """All that a method may know before it meets any data.

    secret: what a client's site knows and the coordinator does not, from which noise that protects rows is drawn.
    None in simulation, where noise comes from the seed, which everybody knows: it imitates protection and gives none.
    A site draws one of its own (`secrets.token_hex(32)`), a new one whenever its rows change, and never sends it.
    """

    schema: Schema
    n_components: int
    density: Density
    expert: Expert
    training: TrainingSettings
    settings: MethodSettings
    lr: float
    seed: int
    secret: str | None = field(default=None, repr=False)

    def replace(self, **changes: Any) -> Task:
        """The same task but for `changes`."""
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True)
class Message:
    """Additive statistics and what they cost: merging is addition, `Message()` is the identity.

    values: leaves that add up over clients, or, for steps that stack, leaves [C, …] that are joined
    · down, up: bytes that went to and from the clients for it.
    """

    values: Tree = field(default_factory=dict)
    down: int = 0
    up: int = 0

    def __add__(self, other: Message) -> Message:
        return Message(tree.add(self.values, other.values), self.down + other.down, self.up + other.up)


ClientStep = Callable[[Tree, Tree, Rows, int], tuple[Tree, Message]]
ServerStep = Callable[[Tree, Tree, int], Tree]


@dataclass(frozen=True)
class Step:
    """One exchange.

    client: (server state, states of C clients [C, …], their rows, round) → (new states, message over the C clients)
    · server: (server state, reduced values, round) → server state · reduce: "sum", or "stack" where the server needs
    single replies [C, …], which secure aggregation then has to refuse · updates(server) → the models [K, P] whose
    weighted sums the message holds, by NAME: `NAME total` [K, P] = Σ_i N_ik θ_ik and `NAME mass` [K]; a deployment
    bounds and averages these robustly, where it is asked to · when(server) → whether the exchange is still of use; one
    that is not costs a deployment seconds, and is left out.
    """

    name: str
    client: ClientStep
    server: ServerStep
    reduce: Literal["sum", "stack"] = "sum"
    updates: Callable[[Tree], Tree] | None = None
    when: Callable[[Tree], bool] | None = None


@dataclass(frozen=True)
class Method:
    """What an experiment, an evaluation and a deployment need of a method; all functions are pure.

    init() → server state · client_init(ids) → states of those clients [C, …] · prepare, round, finish: the steps before
    the first round, in each, and after the last · predict(server, states, rows) → log p(y | x) [R, L], rows without
    labels · proportions(states) → [C, K] · responsibilities(server, states, rows) → [R, K], labels seen
    · evidence(server, rows) → log p_k(row)/P(row) up to a constant per row [R, K], nats, for rows never seen, by labels
    where there are any · welcome(server, rows) → states of clients never seen, from their rows alone, no training;
    with labels where there are any · densities, experts: the leaves of the server state that hold them, [K, P].
    """

    name: str
    init: Callable[[], Tree]
    client_init: Callable[[tuple[int, ...]], Tree]
    round: tuple[Step, ...]
    predict: Callable[[Tree, Tree, Rows], Tensor]
    prepare: tuple[Step, ...] = ()
    finish: tuple[Step, ...] = ()
    proportions: Callable[[Tree], Tensor] | None = None
    responsibilities: Callable[[Tree, Tree, Rows], Tensor] | None = None
    evidence: Callable[[Tree, Rows], Tensor] | None = None
    welcome: Callable[[Tree, Rows], Tree] | None = None
    densities: str | None = None
    experts: str | None = None


def first_states(method: Method, server: Tree, rows: Rows, round: int) -> Tree:
    """States of clients that have none yet: the method's first ones, or, where they missed its preparation, those of
    newcomers."""
    if round > 0 and method.prepare and method.welcome is not None:
        return method.welcome(server, rows)
    return method.client_init(rows.ids)


def mean_by_mass(old: Tensor, total: Tensor, mass: Tensor) -> Tensor:
    """θ_k ← Σ_i N_ik θ_ik / Σ_i N_ik; a component with (almost) no mass stays as it was. [K, P], [K, P], [K]

    >>> import torch
    >>> mean_by_mass(torch.ones(2, 1), torch.tensor([[8.0], [0.0]]), torch.tensor([2.0, 0.0])).flatten().tolist()
    [4.0, 1.0]
    """
    alive = mass > 1e-6
    mean = total / mass.clamp(min=1e-6).to(total.dtype)[:, None]
    return mean.where(alive[:, None], old)
