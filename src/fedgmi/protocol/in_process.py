"""All clients in this process, as many at once as memory allows: the fast simulator, a peer of the deployed one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedgmi import tree
from fedgmi.data.rows import Client, Rows, chunks, pack
from fedgmi.methods.contract import Message, Method, Step
from fedgmi.tree import Tree


class InProcess:
    """The in-process transport.

    clients: whose rows it holds · method: whose client states it keeps, in `states` [N, …] · components: per client the
    true component of each row, for the oracle only.
    """

    def __init__(
        self,
        clients: Sequence[Client],
        method: Method,
        *,
        device: torch.device | str = "cpu",
        components: Sequence[Tensor] | None = None,
    ) -> None:
        self._clients, self._components, self._device = clients, components, device
        self.states: Tree = tree.to(method.client_init(tuple(range(len(clients)))), device)
        self._packed: dict[tuple[int, ...], Rows] = {}

    def exchange(self, step: Step, server: Tree, ids: Sequence[int], round: int) -> Message:
        """Chunks of clients in ascending order, so that sums are the same bits on every run."""
        replies = []
        for chunk in chunks(self._clients, sorted(ids)):
            index = torch.tensor(chunk, device=self._device)
            states, reply = step.client(server, tree.take(self.states, index), self._rows(chunk), round)
            self._keep(index, states)
            replies.append(reply)
        if step.reduce == "stack":
            values = tree.concatenate([reply.values for reply in replies])
            return Message(values, sum(reply.down for reply in replies), sum(reply.up for reply in replies))
        return sum(replies, Message())

    def _keep(self, index: Tensor, states: Tree) -> None:
        """Write the chunk's states back; a leaf that is new to all clients starts as zeros elsewhere."""
        for name, leaf in states.items():
            if name not in self.states or self.states[name].shape[1:] != leaf.shape[1:]:
                self.states[name] = leaf.new_zeros((len(self._clients), *leaf.shape[1:]))
        self.states = tree.put(self.states, index, states)

    def _rows(self, ids: tuple[int, ...]) -> Rows:
        """The chunk's rows, kept while the same clients are asked again (the exchanges of one round)."""
        if ids not in self._packed:
            if sum(len(key) for key in self._packed) + len(ids) > len(self._clients):
                self._packed.clear()
            self._packed[ids] = pack(self._clients, ids, self._components, self._device)
        return self._packed[ids]
