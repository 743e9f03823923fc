"""Proportions that clients tell the coordinator: a last step, with single replies, and nothing beside it.

A coordinator could reckon them from masses anyway where it sees single messages. With secure sums it could not, and
then this step is refused, as any with single replies.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.methods.contract import Method, client_ids, wrong_index
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import Step
from fedgmi.tree import Tree

SLACK = 1e-3  # of sums in float32
TELLS = "its proportions π: how much of every component it has"
CLIENTS, PROPORTIONS = "disclosed/clients", "disclosed/proportions"


def disclosing(method: Method) -> Method:
    """The method with a last step in which every client tells its proportions.

    Args:
        method: Any.

    Returns:
        The method with the step; itself where it has no proportions.
    """
    tell = method.predictor.told or method.predictor.proportions
    if tell is None:
        return method

    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        return states, Message(replies={"client": client_ids(rows), "proportions": tell(states)})

    def take(server: Tree, message: Message, round: int) -> Tree:
        return server | {CLIENTS: message.replies["client"], PROPORTIONS: message.replies["proportions"]}

    step = Step("proportions", client, take, writes=(CLIENTS, PROPORTIONS), single=True, check=wrong_with, tells=TELLS)
    return replace(method, program=replace(method.program, finish=(*method.program.finish, step)))


def wrong_with(server: Tree, message: Message, client: int, rows: int) -> str | None:
    """What is wrong with the proportions that a client tells.

    Args:
        server: The server's state.
        message: The client's answer to the last step.
        client: Its index in the federation.
        rows: How many rows it has.

    Returns:
        The reason in words; None where nothing is wrong.

    Examples:
        >>> import torch
        >>> told = {"client": torch.tensor([2]), "proportions": torch.tensor([[0.5, 0.9]])}
        >>> wrong_with({}, Message(replies=told), 2, 10)
        'its proportions add up to 1.4, expected 1'
    """
    proportions = message.replies["proportions"].double()
    least, total = float(proportions.min()), float(proportions.sum())
    if least < -SLACK:
        return f"one of its proportions is {least:.3g}, expected 0 or more"
    if abs(total - 1) > SLACK:
        return f"its proportions add up to {total:.6g}, expected 1"
    return wrong_index(server, message, client, rows)


def disclosed(server: Tree) -> dict[int, Tensor]:
    """The proportions [K] that clients told, by their index; none before the last step."""
    if PROPORTIONS not in server:
        return {}
    return dict(zip(server[CLIENTS].tolist(), server[PROPORTIONS].cpu(), strict=True))
