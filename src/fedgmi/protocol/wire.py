"""What travels: a header in JSON and one flat tensor of bytes, whatever trees of tensors they stand for.

Cost over a network follows the number of tensors, so a message has one. The server's tree is cut into blocks that go
by their hash: a site keeps the blocks of the last request, and is sent those that it lacks. Densities that have not
changed, judges that are the densities, and the trunk that all experts share travel once. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedgmi.errors import FedgmiError
from fedgmi.tree import Tree

BLOCK_BYTES = 64 * 1024
SPARSE_BYTES = 16 * 1024  # leaves [K, …] of at least this size leave out rows of zeros: components without mass
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float32, torch.float64, torch.int32, torch.int64, torch.bool)
}

Header = dict[str, Any]


class WireError(FedgmiError):
    """A message that cannot be what it says it is. `missing`: hashes of blocks that the receiver lacks."""

    def __init__(self, what: str, missing: Collection[str] = ()) -> None:
        super().__init__(what)
        self.missing = list(missing)


@dataclass(frozen=True)
class Parcel:
    """header: JSON values · payload: uint8 [n]"""

    header: Header
    payload: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.uint8))

    @property
    def n_bytes(self) -> int:
        """As it travels."""
        return len(json.dumps(self.header)) + len(self.payload)


@dataclass(frozen=True)
class Blocks:
    """A tree as a layout and the blocks that it is made of, by their hash."""

    layout: list[Header]
    blocks: dict[str, bytes]

    def parcel(self, header: Header, held: Collection[str] = ()) -> Parcel:
        """All of it but the blocks that the receiver holds."""
        sent = [name for name in self.blocks if name not in held]
        about = {"layout": self.layout, "layout_hash": _hash(json.dumps(self.layout).encode())}
        sizes = [len(self.blocks[name]) for name in sent]
        return Parcel(header | about | {"sent": sent, "sizes": sizes}, _to_tensor(self.blocks[n] for n in sent))


def cut(tree: Mapping[str, Tensor], *, sparse: bool = False) -> Blocks:
    """Cut a tree into blocks. sparse: leave out the rows of zeros of large leaves.

    >>> tree = {"density": torch.ones(2, 5), "share": torch.tensor([0.5, 0.5])}
    >>> found = join(cut(tree).parcel({}), {})
    >>> all(torch.equal(tree[name], found[name]) for name in tree)
    True
    """
    layout, blocks = [], {}
    for name, leaf in sorted(tree.items()):
        leaf = leaf.detach().cpu().contiguous()
        entry: Header = {"name": name, "dtype": dtype_name(leaf), "shape": list(leaf.shape)}
        if sparse and leaf.ndim > 1 and leaf.nbytes >= SPARSE_BYTES:
            entry["rows"] = leaf.flatten(1).any(1).nonzero().flatten().tolist()
            leaf = leaf[entry["rows"]]
        rows = leaf.flatten(1) if leaf.ndim > 1 else leaf.reshape(1, -1)
        entry["blocks"] = [[] for _ in rows]
        for names, row in zip(entry["blocks"], rows, strict=True):  # each component begins a block of its own
            data = row.numpy().tobytes()
            for at in range(0, len(data), BLOCK_BYTES):
                block = data[at : at + BLOCK_BYTES]
                blocks[_hash(block)] = block
                names.append(_hash(block))
        layout.append(entry)
    return Blocks(layout, blocks)


def join(parcel: Parcel, held: Mapping[str, bytes]) -> Tree:
    """The tree that a parcel stands for, with the blocks that are `held`; see `received` for all of its blocks.

    Raises WireError where bytes and layout disagree, or with `missing` where blocks are neither sent nor held.
    """
    blocks = received(parcel, held)
    tree = {}
    for entry in parcel.header["layout"]:
        try:
            shape, dtype = tuple(int(n) for n in entry["shape"]), DTYPES[entry["dtype"]]
            rows = entry.get("rows")
            data = b"".join(blocks[name] for row in entry["blocks"] for name in row)
            flat = torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.zeros(0, dtype=dtype)
            if rows is None:
                tree[entry["name"]] = flat.reshape(shape)
            else:
                full = torch.zeros(shape, dtype=dtype)
                full[rows] = flat.reshape(len(rows), *shape[1:])
                tree[entry["name"]] = full
        except (KeyError, IndexError, ValueError, TypeError, RuntimeError) as error:
            raise WireError(f"leaf {str(entry.get('name'))[:40]!r} is not of its layout ({error})") from error
    return tree


def received(parcel: Parcel, held: Mapping[str, bytes]) -> dict[str, bytes]:
    """All blocks of a parcel's tree by their hash: those that came with it, checked, and those that are held."""
    header = parcel.header
    try:
        layout, sent, sizes = header["layout"], header["sent"], header["sizes"]
        if _hash(json.dumps(layout).encode()) != header["layout_hash"]:
            raise WireError("the layout is not what its hash says")
        wanted = {name for entry in layout for row in entry["blocks"] for name in row}
        data, at, came = parcel.payload.cpu().numpy().tobytes(), 0, {}
        for name, size in zip(sent, sizes, strict=True):
            came[name] = data[at : at + int(size)]
            at += int(size)
            if _hash(came[name]) != name:
                raise WireError("a block is not what its hash says")
    except (KeyError, TypeError, ValueError) as error:
        raise WireError(f"the header is not one of a message ({error})") from error
    if at != len(data):
        raise WireError(f"{len(data)} bytes came, and the layout speaks of {at}")
    missing = sorted(name for name in wanted if name not in came and name not in held)
    if missing:
        raise WireError("blocks are missing", missing)
    return {name: came[name] if name in came else held[name] for name in wanted}


def _to_tensor(parts: Any) -> Tensor:
    data = b"".join(parts)
    return torch.from_numpy(np.frombuffer(data, dtype=np.uint8).copy())


def dtype_name(leaf: Tensor) -> str:
    """As a layout has it; raises WireError for tensors that do not travel."""
    name = str(leaf.dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise WireError(f"tensors of {name} do not travel")
    return name


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
