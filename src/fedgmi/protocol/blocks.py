"""The server's state as it travels: in blocks that go by their hash.

A parcel holds what a step reads of the state. A client keeps blocks for a while, and is sent those that it lacks. So
densities that have not changed, and the trunk that all experts share, travel once.

With a codec (`protocol.codecs.broadcast`) a block may have a link: how it is made of another one. Where the links from
a block that the client holds are shorter than the block, they travel in its place.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from fedgmi.protocol.wire import Header, Parcel, WireError, from_bytes, hash_of, layout_entry, to_bytes, to_tensor
from fedgmi.tree import Tree

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


def join(parcel: Parcel, held: Mapping[str, bytes], decode: Decode | None = None) -> Tree:
    """The tree that a parcel of `Blocks` stands for.

    Args:
        parcel: As it came.
        held: The blocks that the receiver has, by hash; see `received` for all of the parcel's.
        decode: Makes blocks of links; None: there are none.

    Returns:
        The tree.

    Raises:
        WireError: Where bytes and layout disagree, or with `missing` where blocks are neither sent nor held.
    """
    return tree_of(parcel.header, received(parcel, held, decode))


def tree_of(header: Header, blocks: Mapping[str, bytes]) -> Tree:
    """The tree that a parcel's header speaks of.

    Args:
        header: The parcel's.
        blocks: All blocks of it, as `received` has them.

    Returns:
        The tree.

    Raises:
        WireError: Where blocks and layout disagree.
    """
    tree = {}
    for about in header["layout"]:
        try:
            entry = json.loads(blocks[about])
            data = b"".join(blocks[name] for row in entry["blocks"] for name in row)
            tree[str(entry["name"])] = from_bytes(data, entry["dtype"]).reshape(tuple(int(n) for n in entry["shape"]))
        except (KeyError, IndexError, ValueError, TypeError, RuntimeError) as error:
            raise WireError(f"a leaf is not what it is said to be ({error})") from error
    return tree


def received(parcel: Parcel, held: Mapping[str, bytes], decode: Decode | None = None) -> dict[str, bytes]:
    """All blocks of a parcel's tree by their hash: those that came with it, checked, and those that are held.

    Raises:
        WireError: As `join`.
    """
    header = parcel.header
    try:
        sent, sizes = header["sent"], header["sizes"]
        forms = str(header.get("forms", "w" * len(sent)))
        data, at, came = parcel.payload.cpu().numpy().tobytes(), 0, dict[str, bytes]()
        for name, size, form in zip(sent, sizes, forms, strict=True):
            came[name] = _opened(form, data[at : at + int(size)], came, held, decode)
            at += int(size)
            if hash_of(came[name]) != name:
                raise WireError("a block is not what its hash says", [name] if form == "l" else [])
        wanted = set(_need(header["layout"], came, held))
        for about in list(wanted):
            entry = json.loads(came[about] if about in came else held[about])
            wanted |= {str(name) for row in entry["blocks"] for name in row}
    except (KeyError, TypeError, ValueError) as error:
        raise WireError(f"the header is not one of a message ({error})") from error
    if at != len(data):
        raise WireError(f"{len(data)} bytes came, and the header speaks of {at}")
    return {name: came[name] if name in came else held[name] for name in _need(wanted, came, held)}


def _opened(
    form: str, data: bytes, came: Mapping[str, bytes], held: Mapping[str, bytes], decode: Decode | None
) -> bytes:
    """A block from what was sent of it."""
    if form == "w":
        return data
    if form == "h":
        whole = np.zeros((len(data) // 2, 2), dtype="<u2")
        whole[:, 1] = np.frombuffer(data, dtype="<u2")
        return whole.tobytes()
    if form != "l" or decode is None:
        raise WireError(f"a block came in the form {form[:1]!r}, which there is not")
    base = data[:HASH_BYTES].hex()
    [known] = _need([base], came, held)
    return decode(came[known] if known in came else held[known], data[HASH_BYTES:])


def _need(names: Iterable[str], came: Mapping[str, bytes], held: Mapping[str, bytes]) -> list[str]:
    """The names, sorted; a WireError where any is neither sent nor held."""
    ordered = sorted(names)
    missing = [name for name in ordered if name not in came and name not in held]
    if missing:
        raise WireError("blocks are missing", missing)
    return ordered


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
