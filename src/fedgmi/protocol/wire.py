"""What travels, as bytes: a header in JSON and one flat tensor of bytes.

Cost over a network follows the number of tensors, so a parcel has one. A client's message is laid out leaf by leaf, and
leaves out the models that the client does not hold. What a client is sent of the server's state travels in blocks; see
`fedgmi.protocol.blocks`. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedgmi.errors import FedgmiError
from fedgmi.protocol.message import Message, flatten, unflatten
from fedgmi.protocol.words import one_line

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
        *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool),
    )
}

Header = dict[str, Any]

TOKEN, TOKEN_LETTERS = "token", 32
"""The key in the answer to a greeting under which a site says what it is known by in the run, in hex."""

MOST_BYTES = 2**31 - 1  # of a message, as Flower carries it
MOST_TEXT = 8_000_000
"""Letters of a header that is read. The largest that fedgmi writes are those of masks, 3.5 kB for each other site: room
for 2,000 sites. Numbers take eight bytes a letter once they are read, 64 MB in all."""
MOST_TABLES = 100_000
"""Tables and lists of a header that is read. Empty ones take thirty bytes a letter; fedgmi has two for each leaf of a
message or site of a sum."""


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


def header_of(text: object) -> Header:
    """A header as it travelled, read; before any memory is taken for it, it is held to a length and a number of parts.

    Args:
        text: As it came: JSON in ASCII, as `json.dumps` writes it. As bytes, where a block says it.

    Returns:
        The header.

    Raises:
        WireError: It is no text, too long, of too many parts, too deep, or no table.

    Examples:
        >>> header_of('{"round": 3}')
        {'round': 3}
    """
    if not isinstance(text, str | bytes) or not text.isascii():
        raise WireError("a header is a text in ASCII")
    if len(text) > MOST_TEXT:
        raise WireError(f"the header has {len(text)} letters, expected at most {MOST_TEXT}")
    text = text if isinstance(text, str) else text.decode("ascii")
    parts = text.count("[") + text.count("{")
    if parts > MOST_TABLES:
        raise WireError(f"the header has {parts} tables and lists, expected at most {MOST_TABLES}")
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WireError(f"the header is no JSON ({type(error).__name__})") from error
    if not isinstance(header, dict):
        raise WireError("a header is a table")
    return header


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
    payload = to_tensor(parts)
    return Parcel(header | {"layout": layout, "hash": hash_of(payload.numpy().tobytes())}, payload)


def unpack(parcel: Parcel, most: int = MOST_BYTES) -> Message:
    """The message that `pack` made a parcel of.

    Args:
        parcel: As it came.
        most: How many bytes its leaves may have together, with the rows of models that did not travel.

    Returns:
        The message.

    Raises:
        WireError: Where bytes, hash and layout disagree, or more than `most` bytes came, or the layout speaks of more.
    """
    if len(parcel.payload) > most:
        raise WireError(f"{len(parcel.payload)} bytes came, expected at most {most}")
    header, data = parcel.header, parcel.payload.cpu().numpy().tobytes()
    leaves, at = {}, 0
    try:
        if header["hash"] != hash_of(data):
            raise WireError(f"the bytes of {_named(leaf_sizes(parcel))} are not what their hash says")
        whole = 0
        for entry in header["layout"]:
            size = DTYPES[entry["dtype"]].itemsize
            for n in entry["shape"]:  # step by step: the product of long numbers would take memory, too
                size *= min(int(n), most + 1)
                if size > most:
                    break
            whole += size
        if whole > most:
            raise WireError(f"the layout speaks of {str(whole)[:20]} bytes, expected at most {most}")
        for entry in header["layout"]:
            shape, rows = tuple(int(n) for n in entry["shape"]), entry.get("rows")
            there, size = travelling(entry)
            flat = from_bytes(data[at : at + size], entry["dtype"]).reshape(there)
            at += size
            if rows is not None:
                full = torch.zeros(shape, dtype=flat.dtype)
                full[rows] = flat
                flat = full
            leaves[str(entry["name"])] = flat
        message = unflatten(leaves)
    except (KeyError, IndexError, ValueError, TypeError, RuntimeError, AttributeError, ArithmeticError) as error:
        raise WireError(f"the message is not of its layout ({one_line(str(error), 200)})") from error
    if at != len(data):
        raise WireError(f"{len(data)} bytes came, and the layout speaks of {at}")
    return message


def _named(sizes: Mapping[str, int], most: int = 3) -> str:
    """Those leaves that one hash stands for, the largest first."""
    ordered = sorted(sizes, key=lambda name: -sizes[name])
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(repr(name[:60]) for name in ordered[:most]) + more or "the message"


def leaf_sizes(parcel: Parcel) -> dict[str, int]:
    """Bytes of every leaf of a packed message, by name; nothing for a parcel that is no message."""
    sizes = {}
    try:
        for entry in parcel.header.get("layout", ()):
            sizes[str(entry["name"])] = travelling(entry)[1]
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError):
        return {}
    return sizes


def travelling(entry: Header) -> tuple[tuple[int, ...], int]:
    """The shape of what travels of a leaf, by its entry in a layout, and its bytes."""
    shape, rows = tuple(entry["shape"]), entry.get("rows")
    if not all(type(n) is int and 0 <= n < 2**48 for n in shape):
        raise ValueError("a shape that cannot be")
    if rows is None:
        there = shape
    else:
        if not shape or not isinstance(rows, list) or not all(type(n) is int and 0 <= n < shape[0] for n in rows):
            raise ValueError("rows that the leaf does not have")
        if len(set(rows)) < len(rows):
            raise ValueError("a row twice")
        there = (len(rows), *shape[1:])
    return there, math.prod(there) * DTYPES[entry["dtype"]].itemsize


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


def from_bytes(data: bytes, dtype: str) -> Tensor:
    """The numbers that `to_bytes` wrote, on one axis."""
    return torch.frombuffer(bytearray(data), dtype=DTYPES[dtype]) if data else torch.zeros(0, dtype=DTYPES[dtype])


def to_tensor(parts: Iterable[bytes]) -> Tensor:
    """The parts one after the other, as a parcel has them. [n], uint8"""
    return torch.from_numpy(np.frombuffer(b"".join(parts), dtype=np.uint8).copy())


def hash_of(data: bytes) -> str:
    """By which blocks and messages are known and checked; hex."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()
