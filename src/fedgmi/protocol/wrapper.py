"""What may be done to messages on their way, in a table: no method knows of it, and none needs a change for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from fedgmi.errors import ConfigError
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import Program, Step
from fedgmi.tree import Tree


@dataclass(frozen=True)
class Place:
    """Where a message belongs.

    Attributes:
        client: Index of the client that sends it.
        clients: All that are asked in this exchange.
        round: Of the exchange.
        number: Of the exchange within the round.
        seed: The run's.
    """

    client: int
    clients: tuple[int, ...]
    round: int
    number: int
    seed: int


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
        reduce: At the server: (messages in the order of clients, step, server's state) → one message; None: their sum.
        finish: At the server: (the sum, a message of the form that the step's messages have) → the sum, decoded.
        refuses: (step) → why it cannot be wrapped, or None.
        takes: What it can be given: "numbers", or "anything".
        sends: What leaves it: "numbers", "bytes" that are none, "masked" numbers that mean something in the sum alone.
    """

    name: str
    summary: str
    send: Callable[[Message, Place], Message] = as_it_is
    receive: Callable[[Message, Place], Message] = as_it_is
    reduce: Callable[[Sequence[Message], Step, Tree], Message] | None = None
    finish: Callable[[Message, Message], Message] = lambda total, form: total
    refuses: Callable[[Step], str | None] = refuses_nothing
    takes: Literal["numbers", "anything"] = "numbers"
    sends: Literal["numbers", "bytes", "masked"] = "numbers"


def identity() -> Wrapper:
    """Messages travel as they are."""
    return Wrapper("identity", "messages travel as they are", takes="anything")


def reduce(wrappers: Sequence[Wrapper], messages: Sequence[Message], step: Step, server: Tree) -> Message:
    """All clients' messages as one, by the wrapper that has a rule of its own, or as their sum in their order."""
    rules = [wrapper.reduce for wrapper in wrappers if wrapper.reduce is not None]
    return rules[0](messages, step, server) if rules else sum(messages, Message())


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
    rules = [wrapper.name for wrapper in wrappers if wrapper.reduce is not None]
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
