"""A request's blocks: whatever a parcel says, memory goes by what the receiver's own program knows."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch

from fedgmi.protocol.agreed import Agreed
from fedgmi.protocol.blocks import BLOCK_BYTES, cut
from fedgmi.protocol.codecs.coding import Coding
from fedgmi.protocol.opening import join, received, tree_of
from fedgmi.protocol.step import Program, Step
from fedgmi.protocol.wire import Parcel, WireError, hash_of, to_tensor
from fedgmi.settings.communication import CommunicationSettings

PROGRAM = Program(
    lambda: {"expert": torch.zeros(2, 5000), "cluster": torch.zeros(0, dtype=torch.long)},
    lambda ids: {},
    (Step("gate", lambda *asked: None, writes=("gate/cells", "gate/bias", "gate/x")),),
    grows=frozenset({"cluster"}),
)
AGREED = Agreed.of(PROGRAM, ("expert", "cluster", "gate"), most=3)


def said(name: str, shape: Sequence[Any], rows: Sequence[Sequence[str]], dtype: Any = "float32") -> bytes:
    return json.dumps({"name": name, "dtype": dtype, "shape": shape, "blocks": rows}).encode()


def parcel(abouts: Sequence[bytes], blocks: Sequence[bytes] = (), forms: str = "", names: Sequence[str] = ()) -> Parcel:
    """Blocks, then what is said of leaves."""
    sent = [*blocks, *abouts]
    hashes = [*(names or map(hash_of, blocks)), *map(hash_of, abouts)]
    header = {"layout": [hash_of(about) for about in abouts], "sent": hashes, "sizes": [len(part) for part in sent]}
    return Parcel(header | ({"forms": forms + "w" * len(abouts)} if forms else {}), to_tensor(sent))


ZEROS = bytes(BLOCK_BYTES)


def test_what_is_agreed_on_comes_through():
    tree = {
        "expert": torch.randn(2, 5000),
        "cluster": torch.tensor([0, 1, 1]),
        "gate/cells": torch.eye(3).double(),
        "gate/bias": torch.tensor(1.0),
    }
    sent = cut(tree).parcel({})
    found = tree_of(sent.header, received(sent, {}, agreed=AGREED))
    assert found.keys() == tree.keys()
    assert all(torch.equal(found[name], leaf) for name, leaf in tree.items())


REFUSED: dict[str, tuple[Parcel, str]] = {
    "unknown leaf": (parcel([said("junk", [4096], [[hash_of(ZEROS)]])], [ZEROS]), "'junk', which this request has no"),
    "shape": (
        parcel([said("expert", [1, 4096], [[hash_of(ZEROS)]])], [ZEROS]),
        r"float32 \[1, 4096\], expected float32",
    ),
    "dtype": (cut({"expert": torch.zeros(2, 5000).double()}).parcel({}), r"as float64 \[2, 5000\], expected float32"),
    "more rows": (cut({"expert": torch.zeros(3, 5000)}).parcel({}), r"as float32 \[3, 5000\], expected float32 \[2,"),
    "more clients": (cut({"cluster": torch.zeros(4, dtype=torch.long)}).parcel({}), r"as int64 \[4\], expected int64"),
    "one block again and again": (
        parcel([said("gate/cells", [4096 * 400], [[hash_of(ZEROS)] * 400])], [ZEROS]),
        "by blocks that repeat: expected at most",
    ),
    "a leaf below another": (
        parcel([said("gate/x/y", [4096], [[hash_of(ZEROS)]])], [ZEROS]),
        "'gate/x/y', which no step makes",
    ),
    "leaves that share a block": (
        parcel([said(f"gate/{name}", [4 * 4096], [[hash_of(ZEROS)] * 4]) for name in ("cells", "bias", "x")], [ZEROS]),
        "3 leaves that steps make, of 196608 bytes",
    ),
    "endless": (parcel([said("gate/cells", [2**40, 4096], [[hash_of(ZEROS)]])], [ZEROS]), "its blocks are not of that"),
    "an axis below zero": (parcel([said("expert", [2, -1], [])]), "'expert' has a shape that cannot be"),
    "an axis that is no number": (parcel([said("expert", [2, True], [])]), "'expert' has a shape that cannot be"),
    "a kind that does not travel": (parcel([said("expert", [2, 5000], [], "complex64")]), "'expert' is of 'complex64'"),
    "too deep": (parcel([b"[" * 200_000]), "what is said of a leaf cannot be read"),
    "no leaf": (parcel([b"7"]), "what is said of a leaf cannot be read"),
    "a large block": (parcel([said("gate/x", [1], [[hash_of(b"abcd")]])], [b"abcd", 2 * ZEROS]), "that no leaf needs"),
    "a block of another size": (
        parcel([said("gate/x", [2], [[hash_of(b"abcd")]])], [b"abcd"]),
        "a block of 'gate/x' has 4 bytes, expected 8",
    ),
    "another block": (
        parcel([said("gate/x", [1], [[hash_of(b"abcd")]])], [b"abce"], names=[hash_of(b"abcd")]),
        "a block of 'gate/x' is not what its hash says",
    ),
    "another form": (
        parcel([said("gate/x", [1], [[hash_of(b"abcd")]])], [b"abcd"], "z"),
        "a block of 'gate/x' came in the form 'z'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_agreed_on_is_refused_by_name(case):
    sent, why = REFUSED[case]
    with pytest.raises(WireError, match=why) as caught:
        received(sent, {}, agreed=AGREED)
    assert not caught.value.missing


def linked(steps: int) -> tuple[Parcel, bytes, Any]:
    """A model that comes as so many links from one that the receiver holds."""
    chain = Coding(CommunicationSettings(precision="4", top=0.01)).broadcast(PROGRAM)
    assert chain is not None
    block = held = torch.randn(4096).numpy().tobytes()
    parts, names = [], []
    for step in range(steps):
        moved = torch.zeros(1, 4096)
        moved[0, step] = 1.0
        data = chain.codec.encode(moved, (0, step))[0].numpy().tobytes()
        parts.append(bytes.fromhex(hash_of(block)) + data)
        block = chain.decode(block, data)
        names.append(hash_of(block))
    about = said("gate/x", [4096], [[names[-1]]])
    return parcel([about], parts, "l" * steps, names), held, chain.decode


def test_a_chain_of_links_takes_the_room_of_a_few_blocks():
    """Blocks between are let go once the next one is made: eight times the links take no more memory."""
    peaks = []
    for steps in (10, 80):
        sent, held, decode = linked(steps)
        tracemalloc.start()
        found = join(sent, {hash_of(held): held}, decode)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert found["gate/x"].shape == (4096,)
    assert peaks[1] - peaks[0] < 10 * BLOCK_BYTES


def test_links_that_lead_nowhere_are_refused():
    sent, held, decode = linked(3)
    header: Mapping[str, Any] = sent.header
    last = header["sent"][1]
    about = said("gate/x", [4096], [[last]])
    layout = {"layout": [hash_of(about)], "sent": [*header["sent"][:-1], hash_of(about)]}
    parts = sent.payload.numpy().tobytes()[: sum(header["sizes"][:-1])]
    wrong = Parcel(dict(header) | layout | {"sizes": [*header["sizes"][:-1], len(about)]}, to_tensor([parts, about]))
    with pytest.raises(WireError, match="a block came that no leaf needs"):
        join(wrong, {hash_of(held): held}, decode)
