"""Texts of a request's header, however long and of many lines, leave a short line at a site and in its answer."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostile import RUN, Hostile
from local_post import few_exchanges, make_sites

from fedgmi.protocol import wire

KINDS = {
    "hello": {"plan": None},
    "step": {"round": 0, "number": 0, "step": 0, "id": 0, "base": None},
    "finish": {"round": 2, "number": 0, "id": 0, "base": None, "diagnosis": None},
    "masks": {"round": 0, "number": 0, "id": 0, "masks": {"ask": "keys", "epoch": "00" * 8, "slots": 2}},
}
LONG = "ab\n\x1b[2J" * 200_000
CASES = [
    (kind, key)
    for kind, own in KINDS.items()
    for key in ("kind", "run", "version", "federation", "attempt", "layout", "sent", "forms", "sizes", "hash", *own)
]


def grown(where: Path) -> int:
    names = ("log.txt", "audit.jsonl", "refused.jsonl", "repeated.jsonl")
    return sum((where / name).stat().st_size for name in names if (where / name).exists())


@pytest.mark.parametrize(("kind", "key"), CASES, ids=lambda value: value)
@pytest.mark.parametrize("text", [LONG, [LONG], {LONG: LONG}], ids=["text", "list", "table"])
def test_a_long_text_is_cut(tmp_path, kind, key, text):
    site = make_sites(few_exchanges(communication={"secure": "masks"}), tmp_path)[100]
    hostile = Hostile(site)
    header = hostile.header(kind, RUN, **KINDS[kind])
    parcel = wire.Parcel(header | {key: text})
    reply = site.answer(parcel)
    error = reply.header.get("error", "")
    assert len(error) < 1000
    assert error.isprintable()
    assert grown(site.where) < 10_000
    lines = (site.where / "log.txt").read_text(encoding="utf-8").splitlines() if error else []
    assert all(line.isprintable() for line in lines)
