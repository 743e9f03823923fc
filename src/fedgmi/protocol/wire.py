"""What travels, as bytes: a header in JSON and one flat tensor of bytes.

Cost over a network follows the number of tensors, so a parcel has one. Of the server's state a parcel holds what a step
reads, cut into blocks that go by their hash: a client keeps blocks for a while, and is sent those that it lacks. So
densities that have not changed, and the trunk that all experts share, travel once. A client's message is laid out leaf
by leaf, and leaves out the models that the client does not hold. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedgmi.errors import FedgmiError
from fedgmi.protocol.message import Message, flatten, unflatten
from fedgmi.tree import Tree

BLOCK_BYTES = 16 * 1024
ROUNDS_HELD = 1  # a client keeps a block for so many rounds after the one that needed it last
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
        *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool),
    )
}

Header = dict[str, Any]


class WireError(FedgmiError):
    """A parcel that cannot be what it says it is.

    Args:
        what: In words.
        missing: Hashes of the blocks that the receiver lacks.
    """

    def __init__(self, what: str, missing: Collection[str] = ()) -> None:
        super().__init__(what)
        self.missing = list(missing)


@dataclass(frozen=True)
class Parcel:
    """One thing that travels.

    Attributes:
        header: JSON values.
        payload: The bytes of all leaves. [n], uint8
    """

    header: Header
    payload: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.uint8))

    @property
    def n_bytes(self) -> int:
        """Bytes as it travels, the header included."""
        return json_size(self.header) + len(self.payload)


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
        return Parcel(header | self.about(sent), _to_tensor(self.blocks[name] for name in sent))

    def about(self, sent: Iterable[str]) -> Header:
        """What the header says, the blocks `sent` going with it."""
        sizes = {name: len(self.blocks[name]) for name in sent}
        layout = [names[0] for names in self.leaves.values()]
        return {"layout": layout, "sent": list(sizes), "sizes": list(sizes.values())}


def request(kind: str, *, version: str, federation: str, run: str, attempt: str, **more: Any) -> Header:
    """What the header of every request says.

    Args:
        kind: "hello", "step" or "finish".
        version: Of fedgmi, as the coordinator has it.
        federation: The digest of federation.toml.
        run: The run's name.
        attempt: The name of this start of the coordinator.
        **more: What this kind of request says besides.

    Returns:
        The header, without the layout of the tree that goes with it.
    """
    return {"kind": kind, "version": version, "federation": federation, "run": run, "attempt": attempt} | more


def cut(tree: Mapping[str, Tensor]) -> Blocks:
    """Cut a tree into blocks; every row of a leaf [K, …] begins a block of its own.

    Examples:
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
            numbers.append([_hash(part) for part in parts])
            blocks |= zip(numbers[-1], parts, strict=True)
        about = json.dumps(layout_entry(name, leaf) | {"blocks": numbers}).encode()
        blocks[_hash(about)] = about
        leaves[name] = [_hash(about), *(part for parts in numbers for part in parts)]
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
            tree[str(entry["name"])] = _from_bytes(data, entry["dtype"]).reshape(tuple(int(n) for n in entry["shape"]))
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
            if _hash(came[name]) != name:
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


def pack(message: Message, header: Header) -> Parcel:
    """A client's message as a parcel.

    Args:
        message: Of one client.
        header: What is said besides.

    Returns:
        The parcel. Of the models [K, P] it holds the rows that have mass.

    Raises:
        WireError: For a tensor of a kind that does not travel.

    Examples:
        >>> parcel = pack(Message(sums={"rows": torch.tensor(3)}), {"rows": 3})
        >>> unpack(parcel).sums
        {'rows': tensor(3)}
    """
    layout, parts = [], []
    for name, leaf in flatten(message).items():
        entry = layout_entry(name, leaf)
        rows = held_rows(name, message)
        if rows is not None:
            entry["rows"] = rows
            leaf = leaf[rows]
        layout.append(entry)
        parts.append(to_bytes(leaf))
    payload = _to_tensor(parts)
    return Parcel(header | {"layout": layout, "hash": _hash(payload.numpy().tobytes())}, payload)


def unpack(parcel: Parcel) -> Message:
    """The message that `pack` made a parcel of.

    Raises:
        WireError: Where bytes, hash and layout disagree.
    """
    header, data = parcel.header, parcel.payload.cpu().numpy().tobytes()
    leaves, at = {}, 0
    try:
        if header["hash"] != _hash(data):
            raise WireError("the bytes are not what their hash says")
        for entry in header["layout"]:
            shape, rows = tuple(int(n) for n in entry["shape"]), entry.get("rows")
            there = shape if rows is None else (len(rows), *shape[1:])
            size = int(np.prod(there, dtype=np.int64)) * DTYPES[entry["dtype"]].itemsize
            flat = _from_bytes(data[at : at + size], entry["dtype"]).reshape(there)
            at += size
            if rows is not None:
                full = torch.zeros(shape, dtype=flat.dtype)
                full[rows] = flat
                flat = full
            leaves[str(entry["name"])] = flat
        message = unflatten(leaves)
    except (KeyError, IndexError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise WireError(f"the message is not of its layout ({error})") from error
    if at != len(data):
        raise WireError(f"{len(data)} bytes came, and the layout speaks of {at}")
    return message


def leaf_sizes(parcel: Parcel) -> dict[str, int]:
    """Bytes of every leaf of a packed message, by name; nothing for a parcel that is no message."""
    sizes = {}
    try:
        for entry in parcel.header.get("layout", ()):
            shape, rows = entry["shape"], entry.get("rows")
            there = shape if rows is None else [len(rows), *shape[1:]]
            sizes[str(entry["name"])] = int(np.prod(there, dtype=np.int64)) * DTYPES[entry["dtype"]].itemsize
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}
    return sizes


def layout_entry(name: str, leaf: Tensor) -> Header:
    """What a layout says of a leaf of a message."""
    return {"name": name, "dtype": dtype_name(leaf), "shape": list(leaf.shape)}


def held_rows(name: str, message: Message) -> list[int] | None:
    """Which rows of this leaf travel; None where all do."""
    part, _, inner = name.partition("/")
    if part != "models" or not inner.endswith("/total"):
        return None
    held: list[int] = message.models[inner.removesuffix("/total")].holders.any(0).nonzero().flatten().tolist()
    return held


def json_size(header: Header) -> int:
    """Bytes of a header as it travels."""
    return len(json.dumps(header).encode())


def dtype_name(leaf: Tensor) -> str:
    """As a layout has it.

    Raises:
        WireError: For tensors that do not travel.
    """
    name = str(leaf.dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise WireError(f"tensors of {name} do not travel")
    return name


def to_bytes(leaf: Tensor) -> bytes:
    """The leaf's numbers in the order of its axes."""
    flat = leaf.detach().cpu().reshape(-1)
    flat = (
        flat if flat.stride(0) == 1 else flat.clone(memory_format=torch.contiguous_format)
    )  # one number has any stride
    return flat.view(torch.uint8).numpy().tobytes()


def _from_bytes(data: bytes, dtype: str) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=DTYPES[dtype]) if data else torch.zeros(0, dtype=DTYPES[dtype])


def _to_tensor(parts: Iterable[bytes]) -> Tensor:
    return torch.from_numpy(np.frombuffer(b"".join(parts), dtype=np.uint8).copy())


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
