"""A transport is one method: send a step to some clients, reduce what they answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fedgmi.methods.contract import Message, Step
from fedgmi.tree import Tree


class Transport(Protocol):
    """Owns the clients' rows and states; the round loop drives any transport alike."""

    def exchange(self, step: Step, server: Tree, ids: Sequence[int], round: int) -> Message:
        """Run the step's client part on the clients `ids` and return their reduced message.

        A client that fails or stays silent is absent this round: the message is the sum over those that answered.
        """
        ...
