"""Parcels with random damage: a message, or a WireError, and little memory."""

from __future__ import annotations

import json
import random
from contextlib import suppress

import torch
from damage import cheap, damaged, damaged_bytes, text_of

from fedgmi.protocol.blocks import Link, cut
from fedgmi.protocol.message import Message, Models
from fedgmi.protocol.opening import join
from fedgmi.protocol.wire import Parcel, WireError, hash_of, leaf_sizes, pack, unpack

CASES = 2000


def message(draws: random.Random) -> Message:
    """One client's, with a model of which it holds a part, sums of several types, and replies."""
    k = draws.randrange(1, 4)
    mass = torch.tensor([float(draws.randrange(3)) for _ in range(k)])
    of = Models(torch.ones(k, 5) * mass[:, None], mass, (mass != 0)[None])
    sums = {"rows": torch.tensor(3), "x": torch.ones(2, 2, dtype=torch.float64), "none": torch.zeros(0, 4)}
    return Message({"expert": of}, sums, {"histogram": torch.ones(1, 6, dtype=torch.int32)})


def as_came(header: object, payload: bytes) -> Parcel | None:
    """As a network brings it; None where the text is no table."""
    try:
        read = json.loads(text_of(header))
    except (ValueError, RecursionError):
        return None
    return Parcel(read, torch.frombuffer(bytearray(payload), dtype=torch.uint8)) if isinstance(read, dict) else None


def spoilt(header: dict[str, object], payload: bytes, draws: random.Random) -> Parcel | None:
    """Damage to what is said, to the bytes, or to both; at times the hash is right all the same."""
    how = draws.randrange(4)
    payload = damaged_bytes(payload, draws) if how in (0, 1) and payload else payload
    header = damaged(header, draws) if how != 0 else header
    if how == 1 and isinstance(header, dict) and "hash" in header:
        header = header | {"hash": hash_of(payload)}
    return as_came(header, payload or b"\x00")


def test_messages():
    with cheap() as case:
        for seed in range(CASES):
            case()
            draws = random.Random(seed)
            parcel = pack(message(draws), {"rows": 3})
            found = spoilt(parcel.header, parcel.payload.numpy().tobytes(), draws)
            if found is None:
                continue
            assert isinstance(leaf_sizes(found), dict)
            with suppress(WireError):
                assert isinstance(unpack(found), Message)


def linked(base: bytes, difference: bytes) -> bytes:
    """A code for tests: the difference is added byte by byte."""
    if len(base) != len(difference):
        raise ValueError("a difference of another length")
    return bytes((one + other) % 256 for one, other in zip(base, difference, strict=True))


def test_blocks():
    """Whole blocks, halves and links, and what is said of leaves."""
    before = cut({"model": torch.arange(12.0).reshape(3, 4)})
    now = cut({"model": torch.arange(12.0).reshape(3, 4) + 1, "share": torch.ones(3), "n": torch.tensor(3)})
    links = {}
    for new, old in zip(now.leaves["model"][1:], before.leaves["model"][1:], strict=True):
        difference = bytes((b - a) % 256 for a, b in zip(before.blocks[old], now.blocks[new], strict=True))
        links[new] = Link(old, difference, 1, 0)
    with cheap() as case:
        for seed in range(CASES):
            case()
            draws = random.Random(seed)
            held = before.blocks if draws.random() < 0.5 else {}
            blocks = now if draws.random() < 0.5 else type(now)(now.leaves, now.blocks, links)
            header, abouts = dict(blocks.parcel({}, held).header), blocks.parcel({}, held)
            found = _said_otherwise(header, abouts, draws) if draws.random() < 0.3 else None
            if found is None:
                found = spoilt(header, abouts.payload.numpy().tobytes(), draws)
            if found is None:
                continue
            with suppress(WireError):
                assert all(isinstance(leaf, torch.Tensor) for leaf in join(found, held, linked).values())


def _said_otherwise(header: dict[str, object], parcel: Parcel, draws: random.Random) -> Parcel | None:
    """What is said of a leaf is another thing, under its right hash."""
    entry = {"name": "model", "dtype": "float32", "shape": [3, 4], "blocks": [["ab" * 16]] * 3}
    about = text_of(damaged(entry, draws)).encode()
    found = {"layout": [hash_of(about)], "sent": [hash_of(about)], "sizes": [len(about)]}
    return as_came(header | found | {"forms": "w"}, about)
