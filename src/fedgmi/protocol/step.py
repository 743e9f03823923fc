"""One exchange between server and clients, and the program that a method makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.errors import CheckpointError, FedgmiError
from fedgmi.protocol.message import Message
from fedgmi.tree import Tree

Kind = Literal["sketch", "density", "expert", "statistics"]
KINDS: tuple[Kind, ...] = ("sketch", "density", "expert", "statistics")
Phase = Literal["prepare", "round", "finish"]
ClientStep = Callable[[Tree, Tree, Rows, int], tuple[Tree, Message]]
ServerStep = Callable[[Tree, Message, int], Tree]
Check = Callable[[Tree, Message, int, int], str | None]


class ProgramError(FedgmiError):
    """A method's program cannot run as it is written: its author has to mend it."""


def keep(server: Tree, message: Message, round: int) -> Tree:
    """The server part of a step whose message changes nothing."""
    return server


@dataclass(frozen=True)
class Step:
    """One exchange: leaves of the server's state go out, and each client answers with a message.

    Attributes:
        name: In words, for logs and lists of what leaves a site.
        client: (what it reads of the server's state, states of C clients [C, …], their rows, round) → (new states,
            their message).
        server: (server's state, the clients' message, round) → server's state.
        reads: The leaves of the server's state that the client part needs. A name stands for the leaf of that name
            and for all below it (`gate` for `gate/weights`). Nothing else is sent.
        writes: The leaves that the server part makes or changes, named likewise. Of a leaf that the first state lacks
            the whole name: a site of a deployment takes no leaf that is neither there nor named so.
        kind: What its sums and replies are, for the ledger.
        models: (server's state) → the models [K, P] as they stand, by the names under which the message holds their
            sums. Norm bounds and robust means need to know them.
        updates: (server's state) → zeros of the form of those replies that are updates of a model [1, P], by name.
        single: Whether the server needs single replies, which secure sums have to refuse.
        counts: Whether these are counts of rows, which a client may protect by noise. Secure sums let them go singly,
            and name them.
        beside: Whether its messages hold sums beside models, which nothing bounds (`[privacy]`).
        row_change: The most that its sums change in L2, all together, where one row of a client is another one
            (`[privacy]` with rows as the unit). They have to be exact, and a row adds no more to them. 0: its message
            has noise of its own. None: nothing bounds them. Of models the wrapper knows the bound.
        apart: Whether the client part heeds `Rows.apart`: models and sums of its message then have the clients' axis in
            front, and are added up over nobody. So a simulation trains clients together where it needs each one's
            message. Without it they are asked one by one.
        when: (server's state) → whether the exchange is still of use. It is left out where it is not.
        check: (server's state, one client's message, its index, its number of rows) → what is wrong with it, or None.
            For what neither layout nor mass shows. A deployment asks it before the message is used.
        tells: In words, what a client's message tells of its rows; "": nothing. A site shows it before it takes part.
        spare: Of the preparation: whether it may be left out, with all such that follow, where a budget does not reach.
        part: Of the end: what it belongs to, in a word or two for whoever waits.
        unforeseen: Whether a run on a budget goes without it: whether it comes can be told by nobody beforehand.
    """

    name: str
    client: ClientStep
    server: ServerStep = keep
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    kind: Kind = "statistics"
    models: Callable[[Tree], Tree] | None = None
    updates: Callable[[Tree], Tree] | None = None
    single: bool = False
    counts: bool = False
    beside: bool = False
    row_change: float | None = None
    apart: bool = False
    when: Callable[[Tree], bool] | None = None
    check: Check | None = None
    tells: str = ""
    spare: bool = False
    part: str = "last steps"
    unforeseen: bool = False


@dataclass(frozen=True)
class Program:
    """All that is exchanged, in order: `prepare` once, `round` in every round, `finish` once.

    Attributes:
        init: () → the server's first state.
        client_init: (ids) → the first states of these clients. [C, …]
        round: The steps of a round.
        prepare: The steps before the first round.
        finish: The steps after the last round.
        kinds: What the server's leaves and the models in messages are, by name, where they are not statistics. A name
            stands for all below it.
        warm_up: The first rounds, in which the method is not yet what it is to be: none of them is chosen as the best.
        joins_late: Whether a client that missed the preparation begins as a newcomer does. None: where there is one.
        relative: The server's leaves and the models in messages that are factors of others. Rounding by steps of one
            length for all entries would ruin their quotient; they travel as numbers of relative precision.
        grows: Leaves of the server's state whose first axis grows with the run, to an entry for each client at most. A
            site refuses any other leaf that has not the shape of the first state.
        made: The shapes of leaves that the first state lacks, by name; None: an axis of any length. A site refuses
            others.
        rate: The setting to lower where numbers run away; "": the learning rate.
    """

    init: Callable[[], Tree]
    client_init: Callable[[tuple[int, ...]], Tree]
    round: tuple[Step, ...]
    prepare: tuple[Step, ...] = ()
    finish: tuple[Step, ...] = ()
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    joins_late: bool | None = None
    warm_up: int = 0
    relative: frozenset[str] = frozenset()
    grows: frozenset[str] = frozenset()
    made: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)
    rate: str = ""

    def steps(self, phase: Phase) -> tuple[Step, ...]:
        """The steps of a phase."""
        return {"prepare": self.prepare, "round": self.round, "finish": self.finish}[phase]

    @property
    def all_steps(self) -> tuple[Step, ...]:
        """Every step, in the order of the phases."""
        return (*self.prepare, *self.round, *self.finish)

    @property
    def late_are_new(self) -> bool:
        """Whether a client that missed the preparation begins as a newcomer does."""
        return bool(self.prepare) if self.joins_late is None else self.joins_late

    def kind_of(self, name: str, otherwise: Kind) -> Kind:
        """What a leaf of the server's state, or a model in a message, is."""
        return next((kind for entry, kind in self.kinds.items() if covers(entry, name)), otherwise)


def without_start(name: str) -> ProgramError:
    """What is said of a model in a message of which the step does not say where it stands."""
    return ProgramError(
        f"a message holds the model {name!r}, and its step does not say where that stands. Likely fix: "
        "name it in the step's `models`, or leave [communication] out"
    )


def covers(entry: str, name: str) -> bool:
    """Whether an entry of `reads`, `writes` or `kinds` means the leaf `name`.

    Examples:
        >>> covers("gate", "gate/weights"), covers("gate", "gate"), covers("gate", "gates")
        (True, True, False)
    """
    return name == entry or name.startswith(f"{entry}/")


@lru_cache(maxsize=4096)  # names come again in every exchange
def meant_by(name: str) -> tuple[str, ...]:
    """All entries that cover a leaf: its own name, and those above it.

    Examples:
        >>> meant_by("gate/weights")
        ('gate/weights', 'gate')
    """
    parts = name.split("/")
    return tuple("/".join(parts[:n]) for n in range(len(parts), 0, -1))


def select(server: Mapping[str, Tensor], entries: Iterable[str]) -> Tree:
    """The leaves of the server's state that the entries mean, in the order of the state.

    Examples:
        >>> import torch
        >>> leaf = torch.zeros(1)
        >>> list(select({"gate/weights": leaf, "gates": leaf, "gate": leaf}, ["gate"]))
        ['gate/weights', 'gate']
    """
    wanted = frozenset(entries)
    return {name: leaf for name, leaf in server.items() if not wanted.isdisjoint(meant_by(name))}


def check_program(name: str, program: Program, server: Mapping[str, Tensor], *, prepared: bool = False) -> None:
    """Refuse a program in which a step reads what nobody has written by then.

    Args:
        name: The method's.
        program: What is to be run.
        server: The state that it begins with.
        prepared: Whether the preparation is over, in a run that is resumed.

    Raises:
        ProgramError: It names the method, the step and the leaf.
        CheckpointError: For a run that is resumed.
    """
    there = set(server)
    above = {entry for name in there for entry in meant_by(name)}  # what covers something that is there
    for step in (*program.round, *program.finish) if prepared else program.all_steps:
        for entry in step.reads:
            if entry not in above and there.isdisjoint(meant_by(entry)):
                if prepared:
                    what = f"the checkpoint lacks {entry!r}, which step {step.name!r} of this fedgmi reads"
                    fix = "resume with the fedgmi that wrote it, or start the run again in another folder, with --out"
                    raise CheckpointError(what, where=name, fix=fix)
                known = ", ".join(sorted(there)) or "nothing"
                raise ProgramError(
                    f"{name}, step {step.name!r}: it reads {entry!r}, which no earlier step writes. The server's state "
                    f"has {known}. Likely fix: correct `reads`, or name it in an earlier step's `writes`."
                )
        there.update(step.writes)
        above.update(entry for name in step.writes for entry in meant_by(name))


def changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> Iterator[str]:
    """Names of the leaves that are new or other tensors than before."""
    return (name for name, leaf in after.items() if leaf is not before.get(name))
