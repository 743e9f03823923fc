"""How many bytes an exchange takes, for each client, without serialising for each: what a simulation's ledger holds.

A request's size depends on the client through its number, the exchange it answered last, and the blocks it holds. A
reply's size depends on the client through its number of rows and the models that it holds. Clients that are alike in
these are counted together. `tests/protocol/test_sizes.py` holds the figures to parcels that were really made.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from fedgmi import __version__
from fedgmi.protocol import wire
from fedgmi.protocol.blocks import Blocks, cut, first_blocks, still_held
from fedgmi.protocol.codecs.broadcast import Broadcast, rounds_held
from fedgmi.protocol.message import Message, flatten
from fedgmi.protocol.step import Kind, Program, Step
from fedgmi.protocol.wire import Header, Parcel, json_size
from fedgmi.tree import Tree

Bytes = dict[Kind, int]
Exchange = tuple[int, int]  # round, number within it
NAME = "0" * 16  # as long as the names of a run and of a coordinator's start
DIGEST = "0" * 32
NOTHING: Mapping[str, int] = {}


class Requests:
    """The requests of one run: what they cost, and which blocks each client holds by now.

    Args:
        program: The method's, which says of what kind a leaf is.
        chain: What the server has sent as differences; None: all blocks travel whole.
    """

    def __init__(self, program: Program, chain: Broadcast | None = None) -> None:
        self._program, self._chain = program, chain
        self._held: dict[int, Mapping[str, int]] = {}
        self._base: dict[int, Exchange | None] = {}
        self._before: dict[int, tuple[Mapping[str, int], Exchange | None]] = {}
        self._cut: dict[str, tuple[Tensor, Blocks]] = {}
        self._first: Mapping[str, int] = NOTHING

    def begin(self, server: Tree) -> None:
        """All clients know the state that a run begins with."""
        self._first = dict.fromkeys(first_blocks(server), 0)

    def send(self, step: Step, part: Tree, ids: Sequence[int], at: Exchange, index: int) -> list[Bytes]:
        """Bytes of each client's request, by kind; the clients then hold its blocks.

        Args:
            step: The step that is asked for.
            part: What it reads of the server's state.
            ids: The clients that are asked.
            at: The exchange.
            index: The step's place in its phase.

        Returns:
            One entry a client.
        """
        blocks, found = self._blocks(part), self.price(step, part, ids, at, index)
        then: dict[int, Mapping[str, int]] = {}
        for i in ids:
            held = self._held.get(i, self._first)  # clients that were asked alike share one object
            if id(held) not in then:
                then[id(held)] = still_held(held, blocks.blocks, at[0], rounds_held(self._chain))
            self._before[i] = held, self._base.get(i)
            self._held[i], self._base[i] = then[id(held)], at
        return found

    def price(self, step: Step, part: Tree, ids: Sequence[int], at: Exchange, index: int) -> list[Bytes]:
        """What `send` would enter of each client, before anything is sent."""
        blocks = self._blocks(part)
        header = request_header(round=at[0], number=at[1], step=index)
        seen: dict[int, Bytes] = {}
        found = []
        for i in ids:
            held = self._held.get(i, self._first)
            if id(held) not in seen:
                seen[id(held)] = request_bytes(self._program, step, blocks, header, held)
            cost, own = seen[id(held)], json_size({"id": i, "base": self._base.get(i)})
            found.append(cost | {step.kind: cost[step.kind] + own})  # two objects' braces are as long as one comma
        return found

    def lose(self, ids: Iterable[int], round: int) -> None:
        """The replies of these clients did not come: they stand where they stood.

        Whether the request came nobody knows. What they held before it they still hold, but for what one that came let
        go.
        """
        for i in ids:
            held, self._base[i] = self._before[i]
            self._held[i] = still_held(held, (), round, rounds_held(self._chain))

    def whole(self, part: Tree) -> int:
        """Bytes of some leaves for a client that holds nothing."""
        blocks = self._blocks(part)
        alone = replace(blocks, links=None if blocks.links is None else {})
        return sum(one.size for one in alone.sent())

    def to_json(self) -> dict[str, Any]:
        """What clients hold and answered last. With it in a checkpoint, a resumed run counts as if uninterrupted."""
        held: dict[int, Mapping[str, int]] = {id(blocks): blocks for blocks in self._held.values()}
        places = {key: place for place, key in enumerate(held)}
        clients = {str(i): [places[id(blocks)], self._base[i]] for i, blocks in self._held.items()}
        links = {} if self._chain is None else {"links": self._chain.to_json()}
        first = {"first": list(self._first)} if self._first else {}
        return {"held": [dict(blocks) for blocks in held.values()], "clients": clients} | links | first

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Go on from what `to_json` wrote."""
        held = kept["held"]
        if self._chain is not None:
            self._chain.restore(kept.get("links", {}))  # a survey, which a run goes on from, sends no models
        self._first = dict.fromkeys(kept.get("first", ()), 0)
        self._held = {int(i): held[place] for i, (place, _) in kept["clients"].items()}
        self._base = {int(i): None if base is None else (base[0], base[1]) for i, (_, base) in kept["clients"].items()}

    def _blocks(self, part: Tree) -> Blocks:
        """The part cut into blocks; a leaf that is the same tensor as before is not hashed again."""
        leaves, blocks = dict[str, list[str]](), dict[str, bytes]()
        for name, leaf in sorted(part.items()):
            known = self._cut.get(name)
            if known is None or known[0] is not leaf:
                known = self._cut[name] = leaf, cut({name: leaf})
            leaves |= known[1].leaves
            blocks |= known[1].blocks
        return Blocks(leaves, blocks, None if self._chain is None else self._chain.links)


def request_bytes(program: Program, step: Step, blocks: Blocks, header: Header, held: Collection[str]) -> Bytes:
    """Bytes of one request, by kind: a block's is that of the first leaf it belongs to, the header's is the step's.

    Args:
        program: The method's, which says of what kind a leaf is.
        step: The step that is asked for.
        blocks: What it reads of the server's state.
        header: Of the request, without what it says of blocks.
        held: The blocks that the client has.

    Returns:
        Bytes by kind.
    """
    sent = blocks.sent(held)
    kinds: dict[str, Kind] = {}
    for leaf, names in blocks.leaves.items():
        kinds[names[0]] = step.kind  # what is said of a leaf counts as the header does
        kind = program.kind_of(leaf, step.kind)
        for name in names[1:]:
            kinds.setdefault(name, kind)
    cost: Bytes = {step.kind: json_size(header | blocks.about(sent))}
    for one in sent:
        cost[kinds[one.wanted]] = cost.get(kinds[one.wanted], 0) + one.size
    return cost


def reply_bytes(program: Program, step: Step, parcel: Parcel) -> Bytes:
    """Bytes of one reply that has come, by kind: a model's own, and the step's for all else and for the header.

    Args:
        program: The method's, which says of what kind a model is.
        step: The step that was answered.
        parcel: The reply. One that is no message counts as a whole.

    Returns:
        Bytes by kind.
    """
    cost: Bytes = {step.kind: parcel.n_bytes}
    for name, n_bytes in wire.leaf_sizes(parcel).items():
        part, _, inner = name.partition("/")
        kind = program.kind_of(inner.rpartition("/")[0], step.kind) if part == "models" else step.kind
        cost[step.kind] -= n_bytes
        cost[kind] = cost.get(kind, 0) + n_bytes
    return cost


def request_header(**place: int) -> Header:
    """The header of a step's request, with names of the usual length, but for the client's own part."""
    return wire.request("step", version=__version__, federation=DIGEST, run=NAME, attempt=NAME, **place)


def replies(program: Program, step: Step, message: Message, counts: Sequence[int]) -> list[Bytes]:
    """Bytes of each client's reply, by kind.

    Args:
        program: The method's, which says of what kind a model is.
        step: The step that was answered.
        message: The message of C clients.
        counts: Their numbers of rows. [C]

    Returns:
        One entry a client.
    """
    leaves = flatten(message)
    held = {name: models.holders.tolist() for name, models in message.models.items()}
    seen: dict[tuple[tuple[bool, ...], ...], Bytes] = {}
    found = []
    for place, n_rows in enumerate(counts):
        pattern = tuple(tuple(rows[place]) for rows in held.values())
        if pattern not in seen:
            seen[pattern] = _reply(program, step, leaves, dict(zip(held, pattern, strict=True)), len(counts))
        cost = seen[pattern]
        found.append(cost | {step.kind: cost[step.kind] + len(str(n_rows)) - 1})
    return found


def largest_reply(leaves: Mapping[str, tuple[str, Sequence[int]]], n_rows: int) -> int:
    """Bytes of a reply, at most: of a client that holds all models.

    Args:
        leaves: The dtype and shape of each leaf of the message, as it travels.
        n_rows: How many rows the client has.

    Returns:
        Bytes.
    """
    layout, n_bytes = [], 0
    for name, (dtype, shape) in leaves.items():
        entry: dict[str, Any] = {"name": name, "dtype": dtype, "shape": list(shape)}
        if name.startswith("models/") and name.endswith("/total"):
            entry["rows"] = list(range(shape[0]))
        layout.append(entry)
        n_bytes += math.prod(shape) * wire.DTYPES[dtype].itemsize
    return n_bytes + json_size({"rows": n_rows, "layout": layout, "hash": DIGEST})


def _reply(program: Program, step: Step, leaves: Tree, held: Mapping[str, Sequence[bool]], n_clients: int) -> Bytes:
    """Bytes of the reply of one client that holds these models, and has a number of rows of one digit."""
    layout, cost = [], dict[Kind, int]({step.kind: 0})
    for name, leaf in leaves.items():
        entry = wire.layout_entry(name, leaf)
        part, _, inner = name.partition("/")
        n_bytes, kind = leaf.nbytes, step.kind
        if part == "replies":
            entry["shape"], n_bytes = [1, *leaf.shape[1:]], n_bytes // n_clients
        elif part == "models":
            model = inner.rpartition("/")[0]
            kind = program.kind_of(model, step.kind)
            if inner.endswith("/total"):
                entry["rows"] = [k for k, there in enumerate(held[model]) if there]
                n_bytes = n_bytes // max(1, len(leaf)) * len(entry["rows"])
        layout.append(entry)
        cost[kind] = cost.get(kind, 0) + n_bytes
    cost[step.kind] += json_size({"rows": 0, "layout": layout, "hash": DIGEST})
    return cost
