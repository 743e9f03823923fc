"""Proportions that clients tell the coordinator: a last step, with single replies, and nothing beside it.

A coordinator could reckon them from masses anyway where it sees single messages. With secure sums it could not, and
then this step is refused, as any with single replies.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.methods.contract import Method
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import Step
from fedgmi.tree import Tree

TELLS = "its proportions π: how much of every component it has"
CLIENTS, PROPORTIONS = "disclosed/clients", "disclosed/proportions"


def disclosing(method: Method) -> Method:
    """The method with a last step in which every client tells its proportions; itself where it has none."""
    tell = method.predictor.proportions
    if tell is None:
        return method

    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        number = torch.tensor(rows.ids, device=rows.x.device)
        return states, Message(replies={"client": number, "proportions": tell(states)})

    def take(server: Tree, message: Message, round: int) -> Tree:
        return server | {CLIENTS: message.replies["client"], PROPORTIONS: message.replies["proportions"]}

    step = Step("proportions", client, take, writes=(CLIENTS, PROPORTIONS), single=True, tells=TELLS)
    return replace(method, program=replace(method.program, finish=(*method.program.finish, step)))


def disclosed(server: Tree) -> dict[int, Tensor]:
    """The proportions [K] that clients told, by their index; none before the last step."""
    if PROPORTIONS not in server:
        return {}
    return dict(zip(server[CLIENTS].tolist(), server[PROPORTIONS].cpu(), strict=True))
