"""The server's state as it travels: in blocks that go by their hash.

A parcel holds what a step reads of the state. A client keeps blocks for a while, and is sent those that it lacks. So
densities that have not changed, and the trunk that all experts share, travel once.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from fedgmi.protocol.wire import Header, Parcel, WireError, from_bytes, hash_of, layout_entry, to_bytes, to_tensor
from fedgmi.tree import Tree

BLOCK_BYTES = 16 * 1024
ROUNDS_HELD = 1  # a client keeps a block for so many rounds after the one that needed it last


@dataclass(frozen=True)
class Blocks:
    """A tree cut into blocks of bytes; what is said of a leaf is a block like those with its numbers.

    Attributes:
        leaves: By the leaf's name, the hashes of its blocks; the first tells its name, dtype and shape, and which
            blocks hold its numbers.
        blocks: Bytes by hash.
    """

    leaves: dict[str, list[str]]
    blocks: dict[str, bytes]

    def parcel(self, header: Header, held: Collection[str] = ()) -> Parcel:
        """All of it but the blocks that the receiver holds."""
        sent = [name for name in self.blocks if name not in held]
        return Parcel(header | self.about(sent), to_tensor(self.blocks[name] for name in sent))

    def about(self, sent: Iterable[str]) -> Header:
        """What the header says, the blocks `sent` going with it."""
        sizes = {name: len(self.blocks[name]) for name in sent}
        layout = [names[0] for names in self.leaves.values()]
        return {"layout": layout, "sent": list(sizes), "sizes": list(sizes.values())}


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


def join(parcel: Parcel, held: Mapping[str, bytes]) -> Tree:
    """The tree that a parcel of `Blocks` stands for.

    Args:
        parcel: As it came.
        held: The blocks that the receiver has, by hash; see `received` for all of the parcel's.

    Returns:
        The tree.

    Raises:
        WireError: Where bytes and layout disagree, or with `missing` where blocks are neither sent nor held.
    """
    blocks = received(parcel, held)
    tree = {}
    for about in parcel.header["layout"]:
        try:
            entry = json.loads(blocks[about])
            data = b"".join(blocks[name] for row in entry["blocks"] for name in row)
            tree[str(entry["name"])] = from_bytes(data, entry["dtype"]).reshape(tuple(int(n) for n in entry["shape"]))
        except (KeyError, IndexError, ValueError, TypeError, RuntimeError) as error:
            raise WireError(f"a leaf is not what it is said to be ({error})") from error
    return tree


def received(parcel: Parcel, held: Mapping[str, bytes]) -> dict[str, bytes]:
    """All blocks of a parcel's tree by their hash: those that came with it, checked, and those that are held.

    Raises:
        WireError: As `join`.
    """
    header = parcel.header
    try:
        sent, sizes = header["sent"], header["sizes"]
        data, at, came = parcel.payload.cpu().numpy().tobytes(), 0, dict[str, bytes]()
        for name, size in zip(sent, sizes, strict=True):
            came[name] = data[at : at + int(size)]
            at += int(size)
            if hash_of(came[name]) != name:
                raise WireError("a block is not what its hash says")
        wanted = set(_need(header["layout"], came, held))
        for about in list(wanted):
            entry = json.loads(came[about] if about in came else held[about])
            wanted |= {str(name) for row in entry["blocks"] for name in row}
    except (KeyError, TypeError, ValueError) as error:
        raise WireError(f"the header is not one of a message ({error})") from error
    if at != len(data):
        raise WireError(f"{len(data)} bytes came, and the header speaks of {at}")
    return {name: came[name] if name in came else held[name] for name in _need(wanted, came, held)}


def _need(names: Iterable[str], came: Mapping[str, bytes], held: Mapping[str, bytes]) -> list[str]:
    """The names, sorted; a WireError where any is neither sent nor held."""
    ordered = sorted(names)
    missing = [name for name in ordered if name not in came and name not in held]
    if missing:
        raise WireError("blocks are missing", missing)
    return ordered


def still_held(held: Mapping[str, int], wanted: Iterable[str], round: int) -> dict[str, int]:
    """Which blocks a client keeps after a request: those of this round and of the one before.

    Both sides follow this rule, so that the coordinator knows what a client lacks without asking.

    Args:
        held: The round in which each block was needed last, by hash.
        wanted: The hashes of this request's blocks.
        round: The request's.

    Returns:
        The new `held`.

    Examples:
        >>> still_held({"a": 1, "b": 2}, ["c"], 3)
        {'b': 2, 'c': 3}
    """
    kept = {name: last for name, last in held.items() if round - last <= ROUNDS_HELD}
    return kept | dict.fromkeys(wanted, round)
