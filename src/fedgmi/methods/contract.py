"""The contract of a method: what is exchanged (its program), what can be asked of the result (its predictor).

A method is a record of pure functions, state in and state out. Server and client states are trees of tensors, hence
checkpoint and wire format at once. Methods call the mathematics in `mixture` and `models`; nothing calls back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic

import torch
from torch import Tensor
from typing_extensions import TypeVar

from fedgmi.data.rows import Rows, Schema
from fedgmi.errors import ConfigError
from fedgmi.models.density import Density
from fedgmi.models.expert import Expert
from fedgmi.models.memory import WorkingMemory
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import Program
from fedgmi.settings.base import MethodSettings
from fedgmi.settings.run import TASKS, TaskName, TrainingSettings
from fedgmi.tree import Tree

if TYPE_CHECKING:
    from fedgmi.mixture.identity import Cells

Charge = Callable[[str, float, float, str, Mapping[str, float | str]], None]
"""(key, ε, δ, what, about the mechanism) → nothing; see `privacy.ledger.PrivacyLedger.charge`."""
S = TypeVar("S", bound=MethodSettings, default=MethodSettings, covariant=True)


@dataclass(frozen=True)
class Task(Generic[S]):
    """All that a method may know before it meets any data.

    Attributes:
        schema: What rows look like.
        n_components: K.
        density: The model of one component's p(x).
        expert: The model of one component's p(y | x).
        training: How local training goes.
        settings: The method's own.
        lr: The learning rate.
        seed: Of all draws.
        secret: What a client's site knows and the coordinator does not, from which noise that protects rows is drawn.
            None in simulation, where noise comes from the seed, which everybody knows: it imitates protection and gives
            none. A site draws one of its own (`secrets.token_hex(32)`) once, and never sends it.
        charge: (key, ε, δ, what, how) → nothing, or an error where a site's ledger allows no such release. A client
            asks it before each release with noise. The same key again is the same release, with the same noise. None:
            nobody counts.
        clip_rows: The length to which each row's gradient of an expert is cut (`[privacy]` with rows as the unit).
            None: they stay as they are.
        private: Whether clients may tell of models alone, whose updates are bounded (`[privacy]`).
        memory: What models that are trained together may take.
        part: The part of its local steps that a site finishes, by its own word; 1 in simulation, which draws stragglers
            (`training.stragglers`).
    """

    schema: Schema
    n_components: int
    density: Density
    expert: Expert
    training: TrainingSettings
    settings: S
    lr: float
    seed: int
    secret: str | None = field(default=None, repr=False)
    memory: WorkingMemory = field(default_factory=WorkingMemory, repr=False)
    part: float = 1.0
    charge: Charge | None = field(default=None, repr=False)
    clip_rows: float | None = None
    private: bool = False

    def replace(self, **changes: Any) -> Task[S]:
        """The same task but for `changes`."""
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True)
class Predictor:
    """What can be asked of a method's states once they are trained. All functions are pure.

    Attributes:
        predict: (server, states, rows) → log p(y | x), rows without labels [R, L]; of other tasks the numbers that the
            expert's head has for a mixture [R, Q]
        reads: The leaves of the server's state that these functions need, named as in `Step.reads`. A saved model
            holds them, and no more.
        proportions: (states) → each client's proportions. [C, K]
        told: (states) → the proportions that clients may tell a coordinator, where those by which they predict are for
            themselves alone. None: the same. [C, K]
        responsibilities: (server, states, rows) → which component each row came from, labels seen. [R, K]
        evidence: (server, rows) → log p_k(row)/P(row) up to a constant per row, for rows never seen, by labels where
            there are any. [R, K], nats
        infer_client: (server, rows) → states of clients never seen, from their rows alone, with labels where there are
            any. Nothing is trained.
        identified: (states of such clients) → whether their rows can tell their proportions. [C], bool
        standard_errors: (states of such clients) → those of their proportions. [C, K]
        pooled: (server) → the proportions of all rows together. [K]
        client_state: (proportions [C, K]) → states of clients that are known by their proportions alone.
        own: The leaves of clients' states, besides the proportions, by which they predict. A saved model holds them.
        welcome: (server, states of newcomers, rows) → the same states with parts of their own, from rows with labels.
            This trains. Without `infer_client` there are no states to begin with ({}). None where clients have nothing
            of their own.
        shared: As `predict`, without what clients have of their own; None where they have nothing.
        has_own: (server) → whether clients ended with a part of their own beside `shared`. Without rows for validation
            they do not.
        density: (server, x [R, *shape], noise [R, S, Z]) → log p_k(x). [R, K], nats
        sample: (server, component, n, generator) → rows of a component. [n, *shape]
        expert: (server, x [R, *shape]) → log p_k(y | x). [R, K, L], nats; of other tasks [R, K, Q]
    """

    predict: Callable[[Tree, Tree, Rows], Tensor]
    reads: tuple[str, ...] = ()
    proportions: Callable[[Tree], Tensor] | None = None
    told: Callable[[Tree], Tensor] | None = None
    responsibilities: Callable[[Tree, Tree, Rows], Tensor] | None = None
    evidence: Callable[[Tree, Rows], Tensor] | None = None
    infer_client: Callable[[Tree, Rows], Tree] | None = None
    identified: Callable[[Tree], Tensor] | None = None
    standard_errors: Callable[[Tree], Tensor] | None = None
    pooled: Callable[[Tree], Tensor] | None = None
    client_state: Callable[[Tensor], Tree] | None = None
    own: tuple[str, ...] = ()
    welcome: Callable[[Tree, Tree, Rows], Tree] | None = None
    shared: Callable[[Tree, Tree, Rows], Tensor] | None = None
    has_own: Callable[[Tree], bool] = lambda server: False
    density: Callable[[Tree, Tensor, Tensor], Tensor] | None = None
    sample: Callable[..., Tensor] | None = None
    expert: Callable[[Tree, Tensor], Tensor] | None = None


def no_metrics(server: Tree) -> dict[str, float]:
    """A method that has nothing to show of its server's state."""
    return {}


@dataclass(frozen=True)
class Method:
    """A method for a task.

    Attributes:
        name: As the table has it.
        program: What is exchanged.
        predictor: What can be asked of the result.
        metrics: (server) → what outer rooms may show of the server's state: `bound` (nats per row) and
            `components_shown`, `reliability`, `scatter`, `contrast` and `rows_decide`, where there are such.
        counts: (server) → the clients' counts of words from which a diagnosis can be made [C, W], where there are any.
        cells: (server) → what it knows of rows beside these counts, where rows may decide what components are.
        chooses: Whether rows for validation choose what clients have of their own. Where nobody has such, a run sets
            some aside.
    """

    name: str
    program: Program
    predictor: Predictor
    metrics: Callable[[Tree], dict[str, float]] = no_metrics
    counts: Callable[[Tree], Tensor | None] = lambda server: None
    cells: Callable[[Tree], Cells | None] = lambda server: None
    chooses: bool = False


@dataclass(frozen=True)
class Entry(Generic[S]):
    """One line of the table of methods.

    Attributes:
        build: (task) → the method.
        settings: What may stand in `[method]` for it. Its `name` has one value, by which the table knows it.
        summary: One line about it.
        has_components: Whether a number of components means anything to it.
        has_histogram: (settings) → whether clients send a histogram of words, to which noise can be added.
        check: (settings, rounds) → raises ConfigError for what contradicts itself, or has no effect.
        settle: (settings, rounds) → the settings of a run of so many rounds, what is left to them filled in.
        tasks: What labels may be. Others are refused.
        tune: Settings of its own and their values, mostly its paper's, between which `fedgmi compare --tune` chooses.
    """

    build: Callable[[Task[Any]], Method]
    settings: type[MethodSettings]
    summary: str
    has_components: bool = True
    has_histogram: Callable[[Any], bool] = lambda settings: False
    check: Callable[[Any, int], None] = lambda settings, rounds: None
    settle: Callable[[Any, int], Any] = lambda settings, rounds: settings
    tasks: tuple[TaskName, ...] = tuple(TASKS)
    tune: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As settings name the method."""
        return str(self.settings.model_fields["name"].default)

    def __call__(self, task: Task[Any]) -> Method:
        if task.schema.task not in self.tasks:
            what = f"{self.name} is for {' and '.join(self.tasks)}, and the task is {task.schema.task}"
            raise ConfigError(what, where="method.name", fix="take another method: `fedgmi list` shows them")
        return self.build(task)


def wrong_entry(name: str, entry: object) -> str:
    """What is wrong with an outside package's entry of the table of methods, or ""."""
    if not isinstance(entry, Entry):
        return f"it is a {type(entry).__name__}, not an Entry"
    return "" if entry.name == name else f"its settings call it {entry.name!r}"


def joins_as_newcomer(method: Method, round: int) -> bool:
    """Whether a client without a state begins as a newcomer does in this round: it missed the preparation."""
    return round > 0 and method.program.late_are_new and method.predictor.infer_client is not None


def first_states(method: Method, server: Tree, rows: Rows, round: int) -> Tree:
    """States of clients that have none yet.

    Args:
        method: Whose.
        server: The server's state, of which newcomers need what the predictor reads.
        rows: The clients' rows.
        round: In which they come.

    Returns:
        The method's first states; where they missed its preparation, those of newcomers. [C, …]
    """
    infer = method.predictor.infer_client
    if infer is not None and joins_as_newcomer(method, round):
        return infer(server, rows)
    return method.program.client_init(rows.ids)


def client_ids(rows: Rows) -> Tensor:
    """The clients' places in the federation, never their places among those that take part.

    Args:
        rows: Of C clients.

    Returns:
        [C], on the device of the rows.
    """
    return torch.tensor(rows.ids, device=rows.x.device)


def wrong_index(server: Tree, message: Message, client: int, rows: int) -> str | None:
    """What is wrong with the index by which a client names itself in a reply: it could speak for another one.

    Args:
        server: The server's state.
        message: The client's, with the reply `client`. [1]
        client: Its index in the federation.
        rows: How many rows it has.

    Returns:
        The reason in words; None where the index is its own.
    """
    said = int(message.replies["client"])
    return None if said == client else f"it gives its index as {said}, and has index {client}"
