"""A transport is one method: send a step to some clients, join what they answer, and enter the bytes in a ledger."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from fedgmi.protocol.ledger import Ledger
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import Step
from fedgmi.protocol.wrapper import Wrapper
from fedgmi.tree import Tree


class Carrier(Protocol):
    """What the round loop asks of any transport. It owns the clients' rows and states."""

    @property
    def ledger(self) -> Ledger:
        """What has travelled so far."""
        ...

    @property
    def wrappers(self) -> Sequence[Wrapper]:
        """What is done to messages on their way; they are held to the program before it begins."""
        ...

    def price(self, step: Step, server: Tree, ids: Sequence[int], round: int) -> dict[int, int]:
        """What an exchange will enter in the ledger, at most, before anything is sent.

        Args:
            step: What is asked.
            server: The server's state.
            ids: The clients' indices in the federation.
            round: 0 for the preparation, then 1, 2, ….

        Returns:
            Bytes down and up together of each client that would be asked.
        """
        ...

    def settle(self, before: Tree, after: Tree, round: int, name: str) -> Tree:
        """The server's state as clients will hold it: where models are sent rounded, everybody goes on from these.

        Args:
            before: The state before a step; {} at the start.
            after: As the step made it.
            round: The step's.
            name: The step's.

        Returns:
            The state.
        """
        ...


class Transport(Carrier, Protocol):
    """One that joins what clients answer; the round loop makes the server's state of it."""

    def exchange(self, step: Step, server: Tree, ids: Sequence[int], round: int) -> Message:
        """Run the step's client part on the clients `ids` and join their messages.

        Args:
            step: What is asked; of the server's state it is sent what it reads, and no more.
            server: The server's state.
            ids: The clients' indices in the federation.
            round: 0 for the preparation, then 1, 2, ….

        Returns:
            The message of those who answered. A client that fails or stays silent is absent in this round.
        """
        ...


@runtime_checkable
class Judging(Carrier, Protocol):
    """One that knows whose message is whose, and does without one that the server part of a step fails on."""

    def taken(
        self, step: Step, server: Tree, ids: Sequence[int], round: int, take: Callable[[Message], Tree]
    ) -> Tree | None:
        """Run the step's client part on the clients `ids`, and the server part on what they answer.

        Args:
            step: As in `Transport.exchange`.
            server: Likewise.
            ids: Likewise.
            round: Likewise.
            take: The server part. It raises where it fails, or comes to numbers that are not finite.

        Returns:
            The server's state. None where none of these clients has answered, and others take part in the run.
        """
        ...
