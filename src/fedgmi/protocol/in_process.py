"""All clients in this process, as many at once as memory allows: the fast simulator, a peer of the deployed one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fedgmi import tree
from fedgmi.data.rows import Client, Rows, chunks, pack
from fedgmi.protocol.codecs.coding import Coding
from fedgmi.protocol.ledger import Ledger
from fedgmi.protocol.losses import THERE, Losses
from fedgmi.protocol.message import Message, flatten, told_apart
from fedgmi.protocol.sizes import Bytes, Requests, largest_reply, replies
from fedgmi.protocol.step import Program, Step, select, without_start
from fedgmi.protocol.wire import dtype_name
from fedgmi.protocol.wrapper import Place, Wrapper, apart, marked, opened, receive, reduce, send
from fedgmi.tree import Tree


class InProcess:
    """The in-process transport.

    Args:
        clients: Whose rows it holds.
        program: Whose client states it keeps, in `states` [N, …].
        device: Where rows and states are.
        components: The true component of each row, client by client; for the oracle only.
        wrappers: What is done to messages on their way, the first one nearest to the client. Each client's message is
            then made by itself; clients are trained together all the same where a step is `apart`.
        coding: How models travel. Its wrapper comes after the others.
        seed: Of what wrappers draw.
        validation: The same clients with their rows for validation, where there are any.
        losses: Whose replies are lost; None: nobody's.
    """

    def __init__(
        self,
        clients: Sequence[Client],
        program: Program,
        *,
        device: torch.device | str = "cpu",
        components: Sequence[Tensor] | None = None,
        wrappers: Sequence[Wrapper] = (),
        coding: Coding | None = None,
        seed: int = 0,
        validation: Sequence[Client] = (),
        losses: Losses | None = None,
    ) -> None:
        self._clients, self._components, self._device = clients, components, device
        self._validation = validation
        coding = coding or Coding()
        self._program, self._seed = program, coding.seed if coding.settings.on else seed
        self.wrappers = (*wrappers, *coding.wrappers(program), *coding.masks())
        self._chain = coding.broadcast(program)
        self.states: Tree = tree.to(program.client_init(tuple(range(len(clients)))), device)
        self.losses = losses
        if losses is not None:
            self.states[THERE] = torch.zeros(len(clients), dtype=torch.bool, device=device)
        self.absent: dict[int, frozenset[int]] = {}  # by round
        self.ledger = Ledger(len(clients))
        self.requests = Requests(program, self._chain)
        self._packed: dict[tuple[int, ...], Rows] = {}
        self._round, self._number = -1, 0

    def exchange(self, step: Step, server: Tree, ids: Sequence[int], round: int) -> Message:
        """See `Transport.exchange`. Clients are in ascending order, so that sums are the same bits on every run."""
        self._number = self._number + 1 if round == self._round else 0
        self._round = round
        part = select(server, step.reads)
        there = self._send(step, part, server, sorted(ids))
        if not all(wrapper.skips(step) for wrapper in self.wrappers):
            return self._wrapped(step, server, part, there)
        groups = chunks(self._clients, there)
        message = sum((self._ask(step, part, chunk) for chunk in groups), Message())
        if self.wrappers and message.models:
            raise without_start(next(iter(message.models)))
        return by_client(message, [i for chunk in groups for i in chunk])

    def price(self, step: Step, server: Tree, ids: Sequence[int], round: int) -> dict[int, int]:
        """See `Transport.price`. What a reply is like is learnt from one row, at the place of a client that is asked.

        Another client may stand where this step cannot go on from: it missed an exchange of this round.
        """
        at = round, self._number + 1 if round == self._round else 0
        usual, late, _ = self._asked(step, ids, round)
        found: dict[int, int] = {}
        for asked, reads in ((usual, step.reads), (late, (*step.reads, *self._late_reads))):
            costs = self.requests.price(step, select(server, reads), asked, at, self._index(step, round))
            found |= {i: sum(cost.values()) for i, cost in zip(asked, costs, strict=True)}
        if not found:
            return {}
        message = self._tried(step, server, min(usual or late), at, late=not usual)
        leaves = {name: (dtype_name(leaf), leaf.shape) for name, leaf in flatten(message).items()}
        return {i: cost + largest_reply(leaves, len(self._clients[i])) for i, cost in found.items()}

    def _tried(self, step: Step, server: Tree, i: int, at: tuple[int, int], *, late: bool) -> Message:
        """What a client would send that stands where this one does, and has one row of zeros."""
        client, part = self._clients[i], select(server, step.reads)
        one = Client(client.name, torch.zeros_like(client.x[:1]), None if client.y is None else client.y[:1])
        truth = None if self._components is None else [self._components[i][:1]]
        own, memory = apart(tree.take(self.states, torch.tensor([i], device=self._device)))
        own.pop(THERE, None)
        rows = replace(pack([one], components=truth, device=self._device), ids=(i,))
        if late and self.losses is not None and self.losses.start is not None:
            own = own | self.losses.start(select(server, self.losses.reads), rows)
        message = step.client(part, own, rows, at[0])[1]
        return send(self.wrappers, message, Place.of(step, part, i, (i,), at, self._seed, memory))[0]

    def settle(self, before: Tree, after: Tree, round: int, name: str) -> Tree:
        """See `Transport.settle`."""
        if self._chain is None:
            return after
        settled = self._chain.settle(before, after, round, name)
        if not before:
            self.requests.begin(settled)
        return settled

    @property
    def at(self) -> tuple[int, int]:
        """The latest exchange: its round, and its number within it. A resumed run goes on counting from it."""
        return self._round, self._number

    @at.setter
    def at(self, exchange: tuple[int, int]) -> None:
        self._round, self._number = exchange

    def follow(self, other: InProcess) -> None:
        """Go on where another transport to the same clients stands: its ledger, and all that its clients keep."""
        self.states = self.states | other.states
        self.ledger = Ledger.from_tree(len(self._clients), other.ledger.to_tree())
        self.requests.restore(other.requests.to_json())
        self.absent = dict(other.absent)
        self.at = other.at

    def admit(self, server: Tree) -> None:
        """Give states to clients that have never answered, as a deployment does when it hands out results."""
        if self.losses is not None:
            with torch.no_grad():
                self._begin(server, (~self.states[THERE]).nonzero()[:, 0].tolist())

    def _send(self, step: Step, part: Tree, server: Tree, ids: Sequence[int]) -> list[int]:
        """Send the requests, and enter their bytes; the clients that answer."""
        usual, late, lost = self._asked(step, ids, self._round)
        self._request(step, part, usual)
        if self.losses is None:
            return usual
        self._request(step, select(server, (*step.reads, *self._late_reads)), late)
        asked = sorted((*usual, *late))
        self.requests.lose(lost.intersection(asked), self._round)
        for i in lost.intersection(asked):
            self.ledger.lose(self._round, i)
        self.absent[self._round] = self.absent.get(self._round, frozenset()) | lost
        there = [i for i in asked if i not in lost]
        self._begin(server, [i for i in late if i not in lost])
        known = self.states[THERE].clone()
        known[there] = True
        self.states = self.states | {THERE: known}
        return there

    def _asked(self, step: Step, ids: Sequence[int], round: int) -> tuple[list[int], list[int], frozenset[int]]:
        """Who is asked: those that have answered before, and those that begin late. And whose replies are lost."""
        losses = self.losses
        if losses is None:
            return list(ids), [], frozenset()
        spared, gone = losses.spares(self._program, step, round), self.absent.get(round, frozenset())
        asked = [i for i in ids if spared or i not in gone]
        late = [] if round == 0 else [i for i in asked if not self.states[THERE][i]]
        return [i for i in asked if i not in late], late, frozenset() if spared else losses.lost(ids, round)

    @property
    def _late_reads(self) -> tuple[str, ...]:
        return () if self.losses is None else self.losses.reads

    def _begin(self, server: Tree, late: Sequence[int]) -> None:
        """First states of clients that missed the preparation. Leaves that a newcomer lacks stay as they were."""
        assert self.losses is not None
        if self.losses.start is None:
            return
        part = select(server, self.losses.reads)
        for chunk in chunks(self._clients, late):
            self._keep(torch.tensor(chunk, device=self._device), self.losses.start(part, self._rows(chunk)))

    def _request(self, step: Step, part: Tree, ids: Sequence[int]) -> None:
        at = self._round, self._number
        self._enter(ids, self.requests.send(step, part, ids, at, self._index(step, self._round)), down=True)

    def _ask(self, step: Step, part: Tree, chunk: tuple[int, ...]) -> Message:
        message = self._run(step, part, chunk)
        self._count(step, message, chunk)
        return message

    def _run(self, step: Step, part: Tree, chunk: tuple[int, ...], *, each: bool = False) -> Message:
        """The client part of a step on some clients together."""
        index = torch.tensor(chunk, device=self._device)
        own = {name: leaf for name, leaf in apart(self.states)[0].items() if name != THERE}
        rows = replace(self._rows(chunk), apart=each)
        states, message = step.client(part, tree.take(own, index), rows, self._round)
        self._keep(index, states)
        return message

    def _wrapped(self, step: Step, server: Tree, part: Tree, asked: Sequence[int]) -> Message:
        """The same, each client's message through all wrappers and back."""
        arrived, form, kept = [], Message(), list[Tree]()
        where = Place.of(step, part, -1, asked, self.at, self._seed, {})
        for i, message in self._each(step, part, asked):
            form = message
            memory = tree.take(apart(self.states)[1], torch.tensor([i], device=self._device))
            place = replace(where, client=i, memory=memory)
            message, memory = send(self.wrappers, message, place)
            kept.append(memory)
            self._count(step, message, (i,))
            arrived.append(receive(self.wrappers, message, place))
        self._remember(asked, kept)
        total = reduce(self.wrappers, arrived, step, server)
        for wrapper in reversed(self.wrappers):
            total = wrapper.finish(total, form)
        return opened(self.wrappers, total, step, server)

    def _each(self, step: Step, part: Tree, asked: Sequence[int]) -> Iterator[tuple[int, Message]]:
        """The clients and their own messages: made together where the step can tell them apart, else one by one."""
        for chunk in chunks(self._clients, asked) if step.apart else [(i,) for i in asked]:
            message = self._run(step, part, chunk, each=step.apart)
            yield from zip(chunk, told_apart(message, len(chunk)) if step.apart else [message], strict=True)

    def _remember(self, asked: Sequence[int], kept: Sequence[Tree]) -> None:
        """Write back what clients keep for wrappers: once an exchange, for it is as large as their models."""
        if any(kept):
            joined = tree.to(tree.concatenate(list(kept)), self._device)
            self._keep(torch.tensor(asked, device=self._device), marked(joined))

    def _count(self, step: Step, message: Message, chunk: tuple[int, ...]) -> None:
        counts = [len(self._clients[i]) for i in chunk]
        self._enter(chunk, replies(self._program, step, message, counts), down=False)

    def _enter(self, ids: Sequence[int], costs: Sequence[Bytes], *, down: bool) -> None:
        """Enter bytes in the ledger: one entry a client."""
        for i, cost in zip(ids, costs, strict=True):
            for kind, n_bytes in cost.items():
                self.ledger.add(self._round, kind, i, **{"down" if down else "up": n_bytes})

    def _index(self, step: Step, round: int) -> int:
        """The step's place in its phase. The same step may stand in several places, and does the same there."""
        phases = (self._program.prepare,) if round == 0 else (self._program.round, self._program.finish)
        return next((n for phase in phases for n, other in enumerate(phase) if other is step), 0)

    def _keep(self, index: Tensor, states: Tree) -> None:
        """Write the chunk's states back.

        A leaf that is new to all clients starts as zeros elsewhere, and one that these clients lack stays as it was.
        """
        for name, leaf in states.items():
            if name not in self.states or self.states[name].shape[1:] != leaf.shape[1:]:
                self.states[name] = leaf.new_zeros((len(self._clients), *leaf.shape[1:]))
        self.states = self.states | tree.put({name: self.states[name] for name in states}, index, states)

    def _rows(self, ids: tuple[int, ...]) -> Rows:
        """The chunk's rows, kept while the same clients are asked again (the exchanges of one round)."""
        if ids not in self._packed:
            if sum(len(key) for key in self._packed) + len(ids) > len(self._clients):
                self._packed.clear()
            self._packed[ids] = pack(self._clients, ids, self._components, self._device, validation=self._validation)
        return self._packed[ids]


def by_client(message: Message, ids: Sequence[int]) -> Message:
    """The message with its replies in ascending order of the clients `ids`, in whose order they are."""
    if not message.replies or list(ids) == sorted(ids):
        return message
    order = torch.tensor(ids).argsort()
    return replace(message, replies=tree.take(message.replies, order))
