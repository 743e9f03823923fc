"""What a request or an answer says of sizes is refused before memory is taken for it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hostile import Hostile
from local_post import federation_settings, make_sites

from fedgmi.deploy.coordinator.checks import reason_against
from fedgmi.protocol.agreed import leaf_of
from fedgmi.protocol.blocks import BLOCK_BYTES
from fedgmi.protocol.wire import MOST_TABLES, MOST_TEXT, Parcel, WireError, hash_of, header_of, to_tensor, unpack

MOST_MB = 100  # beside what is there already


def peak_mb() -> float:
    """The most memory that this process has had since it was asked last."""
    status = Path("/proc/self/status").read_text()
    found = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024
    Path("/proc/self/clear_refs").write_text("5")
    return found


@pytest.fixture
def bounded():
    """Memory stays within bounds in the test."""
    try:
        peak_mb()
    except OSError:
        pytest.skip("the system does not tell the peak of memory")
    before = peak_mb()
    yield
    assert peak_mb() - before < MOST_MB


def parcel_of(header: dict, about: dict, *blocks: bytes) -> Parcel:
    """A request with one leaf, of which anything is said."""
    said = json.dumps(about).encode()
    sent = [said, *blocks]
    names = [hash_of(part) for part in sent]
    tree = {"layout": names[:1], "sent": names, "sizes": [len(part) for part in sent]}
    return Parcel(header | tree, to_tensor(sent))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Hostile:
    return Hostile(make_sites(federation_settings(), tmp_path_factory.mktemp("sites"))[100])


def place(hostile: Hostile, name: str) -> dict:
    """The header of a request for a step of the preparation."""
    steps = hostile.site.method().program.prepare
    index = next(n for n, step in enumerate(steps) if step.name == name)
    return hostile.header("step", round=0, number=0, step=index, id=0, base=None)


BLOCK = b"\x00" * BLOCK_BYTES


@pytest.mark.parametrize("name", ["sketch/centres", "sketch/word_map", "sketch/edges", "gate/cells", "x"])
@pytest.mark.parametrize(
    ("shape", "blocks", "payload"),
    [
        ([10**9], [], []),
        ([10**9, 10**9], [], []),
        ([0, 10**9], [], []),
        ([1, 10**9], [[]], []),
        ([50_000, BLOCK_BYTES // 8], [[hash_of(BLOCK)]] * 50_000, [BLOCK]),
        ([50_000 * BLOCK_BYTES // 8], [[hash_of(BLOCK)] * 50_000], [BLOCK]),
        ([2**62], [[]], []),
        ([-1, 10**9], [[]], []),
    ],
)
@pytest.mark.usefixtures("bounded")
def test_a_request_that_speaks_of_more_than_there_is_takes_no_memory(hostile, name, shape, blocks, payload):
    about = {"name": name, "dtype": "float64", "shape": shape, "blocks": blocks}
    asked = parcel_of(place(hostile, "fold in"), about, *payload)
    assert "error" in hostile.site.answer(asked).header


@pytest.mark.usefixtures("bounded")
def test_leaves_below_another_are_none_of_the_program_s(hostile):
    """1.9 MB made 480 MB: any name below a leaf was taken, and each leaf had room of its own."""
    about = {"dtype": "uint8", "shape": [6, BLOCK_BYTES], "blocks": [[hash_of(BLOCK)]] * 6}
    sent = [*(json.dumps(about | {"name": f"sketch/mean/{n}"}).encode() for n in range(2000)), BLOCK]
    names = [hash_of(part) for part in sent]
    tree = {"layout": names[:-1], "sent": names, "sizes": [len(part) for part in sent]}
    asked = Parcel(place(hostile, "spread") | tree, to_tensor(sent))
    assert "'sketch/mean/0', which no step makes" in hostile.site.answer(asked).header["error"]


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("about", ["[" * 200_000, '{"name":' * 200_000, "[" * 50_000 + "]" * 50_000, "1" * 5000])
def test_deep_json_is_no_leaf(about):
    with pytest.raises(WireError, match="what is said of a leaf cannot be read"):
        leaf_of(about.encode())


@pytest.mark.usefixtures("bounded")
def test_a_large_request_is_refused_unread(tmp_path):
    site = make_sites(federation_settings(), tmp_path)[100]
    small = replace(site, settings=site.settings.model_copy(update={"max_request_mb": 0.01}))
    hostile = Hostile(small)
    asked = Parcel(place(hostile, "features") | {"sent": [], "sizes": []}, torch.zeros(20_000, dtype=torch.uint8))
    kind = "its own limits do not allow it; the site's log.txt says more"
    assert small.answer(asked).header["error"] == kind
    asked = Parcel(hostile.header("hello") | {"plan": {"x": "y" * 20_000}})
    assert small.answer(asked).header["error"] == kind
    whys = [line["why"] for line in small.audit().refusals()]
    assert len(whys) == 2
    assert all("max_request_mb is 0.01: the site can raise it" in why for why in whys)


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize(
    "entry",
    [
        {"shape": [10**9], "rows": []},
        {"shape": [1, 10**9], "rows": []},
        {"shape": [10**6, 10**6], "rows": []},
        {"shape": [2**62], "rows": []},
    ],
)
def test_an_answer_whose_rows_did_not_travel_is_not_filled_up_without_bounds(entry):
    """399 bytes made 4.2 GB."""
    layout = [{"name": "models/expert/total", "dtype": "float32"} | entry]
    parcel = Parcel({"layout": layout, "hash": hash_of(b"")})
    with pytest.raises(WireError, match="expected at most 1000"):
        unpack(parcel, 1000)


@pytest.mark.parametrize("entry", [{"shape": [-(10**9), -1]}, {"shape": ["9"]}, {"shape": 3}, {"dtype": "object"}, []])
def test_an_answer_of_a_layout_that_cannot_be_is_refused(entry):
    whole = {"name": "sums/x", "dtype": "float32", "shape": [1]} | entry if isinstance(entry, dict) else entry
    parcel = Parcel({"layout": [whole], "hash": hash_of(b"")})
    with pytest.raises(WireError):
        unpack(parcel)


@pytest.mark.parametrize("part", ["[]", "{}", '{"":0}', "[[]]"])
def test_a_header_of_empty_parts_takes_no_memory(bounded, part):
    text = '{"kind": "hello", "x": [' + ",".join([part] * (MOST_TEXT // (len(part) + 1) - 10)) + "]}"
    assert len(text) < MOST_TEXT
    with pytest.raises(WireError, match=f"expected at most {MOST_TABLES}"):
        header_of(text)


def test_a_header_as_long_as_may_be_takes_little_memory(bounded):
    text = '{"x": [' + ",".join(["1.5"] * (MOST_TEXT // 4 - 5)) + "]}"
    assert len(header_of(text)["x"]) == MOST_TEXT // 4 - 5


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (" " * MOST_TEXT + "{}", f"expected at most {MOST_TEXT}"),
        ('{"site": "café"}', "ASCII"),
        (7, "ASCII"),
        ("[" * 5000 + "]" * 5000, "no JSON"),
        ('{"rows": ' + "9" * 5000 + "}", "no JSON"),
        ("[]", "a header is a table"),
    ],
    ids=["long", "letters", "a number", "deep", "digits", "a list"],
)
def test_a_header_that_is_none(text, why):
    with pytest.raises(WireError, match=why):
        header_of(text)


def test_what_is_said_of_a_leaf_is_held_to_the_same_length(bounded):
    with pytest.raises(WireError, match="what is said of a leaf cannot be read"):
        leaf_of(b'{"x": [' + b"[]," * 5_000_000 + b"0]}")


def test_a_version_of_many_lines_fills_no_log(hostile):
    (hostile.site.where / "log.txt").unlink(missing_ok=True)
    reply = hostile.site.answer(Parcel(hostile.header("hello") | {"version": "ab\n" * 300_000}))
    assert len(reply.header["error"]) < 500
    assert (hostile.site.where / "log.txt").stat().st_size < 50_000


def test_an_answer_with_more_bytes_than_its_layout_is_not_read():
    payload = torch.zeros(1000, dtype=torch.uint8)
    with pytest.raises(WireError, match="1000 bytes came, expected at most 8"):
        unpack(Parcel({"layout": [], "hash": ""}, payload), 8)
    why = reason_against(Parcel({"rows": 3, "layout": []}, payload), {"sums/rows": ("int64", [])}, 3)
    assert why == "1000 bytes came, expected at most 8"
