"""What may be done to messages on their way, in a table: no method knows of it, and none needs a change for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from fedgmi.errors import ConfigError
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import Program, Step
from fedgmi.tree import Tree

Layout = dict[str, tuple[str, list[int]]]
"""Of a flat message: by the leaf's name, its dtype and shape."""


@dataclass(frozen=True)
class Place:
    """Where a message belongs.

    Attributes:
        client: Index of the client that sends it.
        clients: All that are asked in this exchange.
        round: Of the exchange.
        number: Of the exchange within the round.
        seed: The run's.
        start: Where the models of the message stand, as `Step.models` has them: both sides know it.
        updates: Of replies that are updates of a model, zeros of their form; see `Step.updates`.
        memory: What the client has kept for wrappers, by name [1, …]. The server does not know it.
        row_change: The step's; see `Step.row_change`.
    """

    client: int
    clients: tuple[int, ...]
    round: int
    number: int
    seed: int
    start: Mapping[str, Tensor] = field(default_factory=dict)
    updates: Mapping[str, Tensor] = field(default_factory=dict)
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    row_change: float | None = None

    @classmethod
    def of(
        cls, step: Step, part: Tree, client: int, clients: Sequence[int], at: tuple[int, int], seed: int, memory: Tree
    ) -> Place:
        """The place of a client's message to a step.

        Args:
            step: That is answered.
            part: What it reads of the server's state.
            client: Index of the client.
            clients: All that are asked.
            at: The exchange: its round, and its number within it.
            seed: The run's.
            memory: What the client keeps for wrappers.

        Returns:
            The place.
        """
        start, updates = ({} if of is None else of(part) for of in (step.models, step.updates))
        return cls(client, tuple(clients), *at, seed, start, updates, memory, step.row_change)


def as_it_is(message: Message, place: Place) -> Message:
    """The message itself."""
    return message


def refuses_nothing(step: Step) -> str | None:
    """No step is refused."""
    return None


@dataclass(frozen=True)
class Wrapper:
    """What is done to every message between a client and the server.

    Attributes:
        name: As the table has it.
        summary: One line.
        send: At the client: (its message, place) → what travels.
        receive: At the server, for each client: (what travelled, place) → a message.
        keep: At the client: (its message, what travels, place) → what it keeps until its next message. [1, …]
        layout: (the plain message's layout, place) → that of what travels.
        reduce: At the server: (messages in the order of clients, step, server's state) → one message; None: their sum.
        finish: At the server: (the sum, a message of the form that the step's messages have) → the sum, decoded.
        open: At the server: (the sum, step, server's state) → the sum as the step has it; it works on sums alone.
        refuses: (step) → why it cannot be wrapped, or None.
        skips: (step) → whether it leaves the step's messages as they are.
        takes: What it can be given: "numbers", or "anything".
        sends: What leaves it: "numbers", "bytes" that are none, "masked" numbers that mean something in the sum alone.
    """

    name: str
    summary: str
    send: Callable[[Message, Place], Message] = as_it_is
    receive: Callable[[Message, Place], Message] = as_it_is
    keep: Callable[[Message, Message, Place], Tree] = lambda message, sent, place: {}
    layout: Callable[[Layout, Place], Layout] = lambda leaves, place: leaves
    reduce: Callable[[Sequence[Message], Step, Tree], Message] | None = None
    finish: Callable[[Message, Message], Message] = lambda total, form: total
    open: Callable[[Message, Step, Tree], Message] | None = None
    refuses: Callable[[Step], str | None] = refuses_nothing
    skips: Callable[[Step], bool] = lambda step: False
    takes: Literal["numbers", "anything"] = "numbers"
    sends: Literal["numbers", "bytes", "masked"] = "numbers"


def identity() -> Wrapper:
    """Messages travel as they are."""
    return Wrapper("identity", "messages travel as they are", takes="anything")


MEMORY = "unsent/"  # before the names of what clients keep for wrappers, among their states


def apart(states: Tree) -> tuple[Tree, Tree]:
    """A method's own states, and what clients keep for wrappers, by its plain names.

    Examples:
        >>> import torch
        >>> own, memory = apart({"proportions": torch.ones(1, 2), "unsent/expert": torch.zeros(1, 1, 3)})
        >>> list(own), list(memory)
        (['proportions'], ['expert'])
    """
    own = {name: leaf for name, leaf in states.items() if not name.startswith(MEMORY)}
    return own, {name.removeprefix(MEMORY): leaf for name, leaf in states.items() if name not in own}


def marked(memory: Tree) -> Tree:
    """What clients keep for wrappers, under its names among states."""
    return {MEMORY + name: leaf for name, leaf in memory.items()}


def send(wrappers: Sequence[Wrapper], message: Message, place: Place) -> tuple[Message, Tree]:
    """A client's message through all wrappers.

    Args:
        wrappers: The first one nearest to the client.
        message: Its message.
        place: Where it belongs.

    Returns:
        What travels, and what the client keeps. [1, …]
    """
    kept: Tree = {}
    for wrapper in wrappers:
        sent = wrapper.send(message, place)
        kept |= wrapper.keep(message, sent, place)
        message = sent
    return message, kept


def receive(wrappers: Sequence[Wrapper], message: Message, place: Place) -> Message:
    """What arrived as the message that was sent, through all wrappers backwards."""
    for wrapper in reversed(wrappers):
        message = wrapper.receive(message, place)
    return message


def reduce(wrappers: Sequence[Wrapper], messages: Sequence[Message], step: Step, server: Tree) -> Message:
    """All clients' messages as one, by the wrapper that has a rule of its own, or as their sum in their order."""
    rules = [wrapper.reduce for wrapper in wrappers if wrapper.reduce is not None]
    return rules[0](messages, step, server) if rules else sum(messages, Message())


def opened(wrappers: Sequence[Wrapper], total: Message, step: Step, server: Tree) -> Message:
    """The sum of all clients' messages as the step has it, by the wrapper that works on sums."""
    for wrapper in wrappers:
        total = total if wrapper.open is None or wrapper.skips(step) else wrapper.open(total, step, server)
    return total


def _check_order(wrappers: Sequence[Wrapper]) -> None:
    """Refuse wrappers that cannot work on what those before them send."""
    before: Wrapper | None = None
    for wrapper in wrappers:
        if before is not None and wrapper.takes == "numbers":
            raise ConfigError(
                f"{wrapper.name} works on numbers, and what {before.name} sends are none that it could change",
                where="wrappers of the transport",
                fix=f"name {wrapper.name} first, or leave one of them out",
            )
        before = wrapper if wrapper.sends != "numbers" else before
    masking = next((wrapper.name for wrapper in wrappers if wrapper.sends == "masked"), None)
    reducing = next((wrapper.name for wrapper in wrappers if wrapper.reduce is not None), None)
    if masking and reducing:
        raise ConfigError(
            f"{reducing} needs every client's message, and {masking} shows their sum alone",
            where="wrappers of the transport",
            fix="leave one of them out",
        )


def check_wrappers(method: str, program: Program, wrappers: Sequence[Wrapper]) -> None:
    """Refuse at the start what would fail in some round.

    Raises:
        ConfigError: Where a wrapper cannot wrap a step of the program; it names the method, the step and the reason.
    """
    rules = [wrapper.name for wrapper in wrappers if wrapper.reduce is not None or wrapper.open is not None]
    if len(rules) > 1:
        raise ConfigError(
            f"{' and '.join(rules)} both reduce messages", where="wrappers of the transport", fix="keep one of them"
        )
    _check_order(wrappers)
    if rules and all(step.models is None for step in program.all_steps):
        raise ConfigError(
            f"{method} averages no models, so {rules[0]} would do nothing",
            where="wrappers of the transport",
            fix=f"leave {rules[0]} out, or choose another method",
        )
    for wrapper in wrappers:
        for step in program.all_steps:
            why = wrapper.refuses(step)
            if why is not None:
                raise ConfigError(
                    f"{wrapper.name} cannot wrap the step {step.name!r} of {method}: {why}",
                    where="wrappers of the transport",
                    fix=f"leave {wrapper.name} out, or choose another method",
                )
