"""The server's state as it travels: in blocks that go by their hash.

A parcel holds what a step reads of the state. A client keeps blocks for a while, and is sent those that it lacks. So
densities that have not changed, and the trunk that all experts share, travel once.

With a codec (`protocol.codecs.broadcast`) a block may have a link: how it is made of another one. Where the links from
a block that the client holds are shorter than the block, they travel in its place.
`protocol.opening` reads them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from fedgmi.protocol.wire import Header, Parcel, hash_of, layout_entry, to_bytes, to_tensor

BLOCK_BYTES = 16 * 1024
ROUNDS_HELD = 1  # a client keeps a block for so many rounds after the one that needed it last

HASH_BYTES = 16
LINK_HEADER = 60  # bytes that a link takes in the header
Form = Literal["w", "h", "l"]
Decode = Callable[[bytes, bytes], bytes]  # (the block that it builds on, the coded difference) → the block


@dataclass(frozen=True)
class Link:
    """How a block is made of another one.

    Attributes:
        base: The other one's hash.
        data: The coded difference; empty where its size alone is known.
        size: Of the coded difference, in bytes.
        round: In which it was made.
    """

    base: str
    data: bytes
    size: int
    round: int


@dataclass(frozen=True)
class Sent:
    """One thing in a parcel's payload.

    Attributes:
        name: The hash of the block that comes of it.
        form: "w": the block whole; "h": half of it, the upper two of each four bytes, where the others are zero; "l": a
            link, the hash of its base before it.
        size: In bytes.
        wanted: The block for whose sake it is sent.
    """

    name: str
    form: Form
    size: int
    wanted: str


@dataclass(frozen=True)
class Blocks:
    """A tree cut into blocks of bytes; what is said of a leaf is a block like those with its numbers.

    Attributes:
        leaves: By the leaf's name, the hashes of its blocks; the first tells its name, dtype and shape, and which
            blocks hold its numbers.
        blocks: Bytes by hash.
        links: How blocks are made of others, by hash; None: all travel whole.
    """

    leaves: dict[str, list[str]]
    blocks: dict[str, bytes]
    links: Mapping[str, Link] | None = None

    def parcel(self, header: Header, held: Collection[str] = ()) -> Parcel:
        """All of it but the blocks that the receiver holds."""
        sent = self.sent(held)
        return Parcel(header | self.about(sent), to_tensor(self._bytes(one) for one in sent))

    def sent(self, held: Collection[str] = ()) -> list[Sent]:
        """What is sent to a receiver that holds some blocks, in an order in which it can be read."""
        found: list[Sent] = []
        coming: set[str] = set()
        for name, block in self.blocks.items():
            if name in held or name in coming:
                continue
            chain = self._chain(name, held, coming)
            form: Form = "h" if self.links is not None and _half_is_zero(block) else "w"
            whole = Sent(name, form, len(block) // (2 if form == "h" else 1), name)
            shorter = bool(chain) and sum(one.size + LINK_HEADER for one in chain) < whole.size
            added = chain if shorter else [whole]
            found += added
            coming |= {one.name for one in added}
        return found

    def _chain(self, name: str, held: Collection[str], coming: Collection[str]) -> list[Sent]:
        """The links to a block from one that is there, the oldest first; none where there are no such."""
        chain: list[Sent] = []
        at, most = name, len(self.blocks[name])
        while at not in held and at not in coming:
            link = (self.links or {}).get(at)
            if link is None or most <= 0:
                return []
            chain.append(Sent(at, "l", len(link.base) // 2 + link.size, name))
            most -= chain[-1].size
            at = link.base
        return chain[::-1]

    def _bytes(self, one: Sent) -> bytes:
        if one.form == "l" and self.links is not None:
            link = self.links[one.name]
            return bytes.fromhex(link.base) + link.data
        block = self.blocks[one.name]
        return block if one.form == "w" else np.frombuffer(block, dtype="<u2")[1::2].tobytes()

    def about(self, sent: Iterable[Sent]) -> Header:
        """What the header says, with what is sent."""
        every = list(sent)
        layout = [names[0] for names in self.leaves.values()]
        header = {"layout": layout, "sent": [one.name for one in every], "sizes": [one.size for one in every]}
        forms = "".join(one.form for one in every)
        return header | ({"forms": forms} if forms.strip("w") else {})


def _half_is_zero(block: bytes) -> bool:
    """Whether of each four bytes the lower two are zero: numbers in float32 that bfloat16 has too."""
    return len(block) % 4 == 0 and not np.frombuffer(block, dtype="<u2")[::2].any()


def cut(tree: Mapping[str, Tensor]) -> Blocks:
    """Cut a tree into blocks; every row of a leaf [K, …] begins a block of its own.

    Examples:
        >>> import torch
        >>> from fedgmi.protocol.opening import join
        >>> tree = {"density": torch.ones(2, 5), "share": torch.tensor([0.5, 0.5])}
        >>> found = join(cut(tree).parcel({}), {})
        >>> all(torch.equal(tree[name], found[name]) for name in tree)
        True
    """
    leaves: dict[str, list[str]] = {}
    blocks: dict[str, bytes] = {}
    for name, leaf in sorted(tree.items()):
        numbers: list[list[str]] = []
        for row in leaf.detach().flatten(1) if leaf.ndim > 1 else leaf.detach().reshape(1, -1):
            data = to_bytes(row)
            parts = [data[at : at + BLOCK_BYTES] for at in range(0, len(data), BLOCK_BYTES)]
            numbers.append([hash_of(part) for part in parts])
            blocks |= zip(numbers[-1], parts, strict=True)
        about = json.dumps(layout_entry(name, leaf) | {"blocks": numbers}).encode()
        blocks[hash_of(about)] = about
        leaves[name] = [hash_of(about), *(part for parts in numbers for part in parts)]
    return Blocks(leaves, blocks)


def first_blocks(server: Mapping[str, Tensor]) -> dict[str, bytes]:
    """The blocks of a run's first state, by hash. Both sides draw it by the seed, so it need not travel."""
    return cut(server).blocks


def still_held(held: Mapping[str, int], wanted: Iterable[str], round: int, rounds: int = ROUNDS_HELD) -> dict[str, int]:
    """Which blocks a client keeps after a request: those of this round and of so many before.

    Both sides follow this rule, so that the coordinator knows what a client lacks without asking.

    Args:
        held: The round in which each block was needed last, by hash.
        wanted: The hashes of this request's blocks.
        round: The request's.
        rounds: For how long they are kept. With links it is as long as these may be of use.

    Returns:
        The new `held`.

    Examples:
        >>> still_held({"a": 1, "b": 2}, ["c"], 3)
        {'b': 2, 'c': 3}
    """
    kept = {name: last for name, last in held.items() if round - last <= rounds}
    return kept | dict.fromkeys(wanted, round)
