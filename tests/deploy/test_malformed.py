"""A site whose answers cannot be what they say is absent. The others go on, and the ledger believes nothing of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from local_post import log_of, settings_of
from test_coordinator import deployed

from fedgmi.deploy.coordinator.closing import quality_told
from fedgmi.protocol.message import Message
from fedgmi.protocol.wire import Parcel, pack, unpack

Change = Callable[[Parcel], Parcel]


def in_layout(**changes: object) -> Change:
    """The first entry of the layout says something else."""

    def change(reply: Parcel) -> Parcel:
        first, *rest = reply.header["layout"]
        return replace(reply, header=reply.header | {"layout": [first | changes, *rest]})

    return change


def in_histogram(change: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    """Another histogram, well packed; every other answer as it is."""

    def changed(reply: Parcel) -> Parcel:
        message = unpack(reply)
        if "histogram" not in message.replies:
            return reply
        return pack(
            Message(replies={"histogram": change(message.replies["histogram"])}), {"rows": reply.header["rows"]}
        )

    return changed


MALFORMED: dict[str, tuple[str, Change, str]] = {
    "endless axis": ("fedavg", in_layout(shape=[math.inf]), "expected float"),
    "axis beyond 64 bits": ("fedavg", in_layout(shape=[2**62, 8]), "expected float"),
    "axis below zero": ("fedavg", in_layout(shape=[-8]), "expected float"),
    "rows of a number": ("fedgmi", in_layout(shape=[], rows=[0]), ""),
    "rows that there are not": ("fedavg", in_layout(rows=[99]), "it names rows that a leaf does not have"),
    "a leaf twice": (
        "fedavg",
        lambda reply: replace(
            reply, header=reply.header | {"layout": [*reply.header["layout"], *reply.header["layout"]]}
        ),
        "it names a leaf twice",
    ),
    "no layout": ("fedavg", lambda reply: replace(reply, header=reply.header | {"layout": 7}), "there is no layout"),
    "too many counts": ("fedgmi", in_histogram(lambda leaf: 1000 * leaf), "counts 40000 rows, and the site has 40"),
    "counts below zero": ("fedgmi", in_histogram(lambda leaf: -leaf), "expected 0 or more"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_the_run_of_the_others_goes_on(tmp_path, case):
    method, change, said = MALFORMED[case]

    def wrong(request: Parcel, reply: Parcel) -> Parcel:
        return change(reply) if request.header["kind"] == "step" and reply.header.get("layout") else reply

    own = {"preset": "sketch", "personal": False} if method == "fedgmi" else {}  # all that has a histogram
    summary, _ = deployed(settings_of(method, **own), tmp_path, {"client-03": wrong})
    line = next(line for line in log_of(tmp_path).splitlines() if "client-03 is absent" in line)
    assert said in line
    assert [i for i, n in enumerate(summary["rounds_absent"]) if n] == [3]
    assert all(0 <= both[1] < 10**9 for both in summary["bytes"].values())


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"rows": True}, "how many rows"),
        ({"rows": 10**400}, "how many rows"),
        ({"site": "a" * 10_000}, "its name is no line of at most 200 letters"),
        ({"site": "ward\n2026-01-01 00:00:00 all is well"}, "its name is no line of at most 200 letters"),
    ],
)
def test_who_does_not_say_who_it_is_is_not_let_in(tmp_path, said, why):
    def wrong(request: Parcel, reply: Parcel) -> Parcel:
        return replace(reply, header=reply.header | said) if request.header["kind"] == "hello" else reply

    settings = settings_of("fedavg")
    summary, _ = deployed(settings.model_copy(update={"min_sites": settings.sites - 1}), tmp_path, {"client-03": wrong})
    assert why in log_of(tmp_path)
    assert "client-03" not in summary["clients"]
    assert not any(line.startswith("2026-01-01") for line in log_of(tmp_path).splitlines())


@pytest.mark.parametrize(
    "entry", [{"shape": [4 * 10**8], "rows": []}, {"shape": [math.inf]}, {"shape": [1], "rows": [0]}]
)
def test_an_accuracy_takes_no_more_memory_than_a_number(entry):
    layout = [{"name": "replies/accuracy", "dtype": "float32"} | entry]
    assert quality_told(Parcel({"layout": layout, "hash": ""})) == {}


def test_an_accuracy_is_told():
    assert quality_told(pack(Message(replies={"accuracy": torch.tensor([0.5])}), {})) == {"accuracy": 0.5}
