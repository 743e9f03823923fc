"""A transport is one method: send a step to some clients, join what they answer, and enter the bytes in a ledger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fedgmi.protocol.ledger import Ledger
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import Step
from fedgmi.protocol.wrapper import Wrapper
from fedgmi.tree import Tree


class Transport(Protocol):
    """It owns the clients' rows and states; the round loop runs any transport alike."""

    @property
    def ledger(self) -> Ledger:
        """What has travelled so far."""
        ...

    @property
    def wrappers(self) -> Sequence[Wrapper]:
        """What is done to messages on their way; they are held to the program before it begins."""
        ...

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

    def price(self, step: Step, server: Tree, ids: Sequence[int], round: int) -> dict[int, int]:
        """What an exchange will enter in the ledger, at most, before anything is sent.

        Args:
            step: As in `exchange`.
            server: Likewise.
            ids: Likewise.
            round: Likewise.

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
