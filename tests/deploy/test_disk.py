"""A site's disk: what left is never lost, and nobody fills it by asking."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from hostile import RUN, Hostile
from local_post import federation_settings, make_sites, settings_of
from test_masked_attacks import ALL, SCALE, spied

from fedgmi.deploy.settings import SLOTS
from fedgmi.deploy.site import audit as audit_module
from fedgmi.deploy.site import own_log
from fedgmi.deploy.site.audit import LEFT, REPEATED, Audit
from fedgmi.errors import RequestError
from fedgmi.protocol.message import Message
from fedgmi.protocol.wire import Parcel, WireError, pack


def size(where: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in where.glob(pattern))


def keys_of(hostile: Hostile, run: str, epoch: str = "0" * 16) -> Parcel:
    asked = {"ask": "keys", "epoch": epoch, "slots": SLOTS}
    return hostile.site.answer(Parcel(hostile.header("masks", run=run, round=0, number=0, id=0, masks=asked)))


def test_masks_are_for_runs_that_have_greeted_or_begun(tmp_path):
    """A hundred names of runs made a hundred folders, and 14 MB of log."""
    site = make_sites(federation_settings(communication={"secure": "masks"}), tmp_path)[100]
    hostile = Hostile(site)
    for n in range(20):
        assert "has not greeted this site" in keys_of(hostile, f"{n:016x}").header["error"]
    assert not list((site.where / "runs").glob("*"))
    assert hostile.ask(hostile.header("hello"))
    assert "keys" in keys_of(hostile, RUN).header


def test_of_what_masks_need_there_are_hash_and_size_in_the_log(tmp_path):
    site = make_sites(federation_settings(communication={"secure": "masks"}), tmp_path)[100]
    hostile = Hostile(site)
    assert hostile.ask(hostile.header("hello"))
    for n in range(10):
        reply = keys_of(hostile, RUN, f"{n:016x}")
        assert len(json.dumps(reply.header)) > 2_000
    [*_, line] = site.audit().repeats()
    assert line["name"] == "masks: keys"
    assert line["said"].keys() == {"keys"}
    assert line["said"]["keys"].keys() == {"bytes", "hash"}
    assert line["bytes"] > line["said"]["keys"]["bytes"] > 2_000
    assert size(site.where, "*.jsonl") < 8_000


def test_what_opens_a_sum_is_in_the_log_of_what_left_once(tmp_path):
    spy = spied(tmp_path)
    agreement = spy.agree(ALL)
    spy.sum("features", 0, {}, ALL, agreement)
    again = spy.agree(ALL)
    spy.sum("features", 0, {}, ALL, again)
    spy.sum("spread", 1, SCALE, ALL, again)
    site = spy.sites[0]
    opened = [line for line in site.audit().lines() if line["name"] == "masks: unmask"]
    assert [line["number"] for line in opened] == [0, 1]
    assert all("out of its masks" in line["tells"] for line in opened)
    repeated = [line["name"] for line in site.audit().repeats()]
    assert repeated.count("masks: unmask") == 1
    assert repeated.count("masks: keys") == repeated.count("masks: shares") == 2


def test_what_left_goes_on_in_numbered_files_and_is_read_together(tmp_path, monkeypatch):
    monkeypatch.setattr(audit_module, "ROTATED_BYTES", 2_000)
    audit = Audit(tmp_path)
    for n in range(100):
        asked = {"kind": "step", "run": RUN, "round": n, "number": 0, "step": 0, "id": 0}
        audit.left(asked, pack(Message(), {"rows": n}), None)
    assert [line["round"] for line in audit.lines()] == list(range(100))
    numbered = sorted(tmp_path.glob("audit.*.jsonl"))
    assert len(numbered) >= 10
    assert all(path.stat().st_size < 3_000 for path in numbered)
    (tmp_path / "audit.x.jsonl").write_text("no\n")
    assert len(list(audit.lines())) == 100


def test_writers_that_come_at_once_lose_no_line(tmp_path, monkeypatch):
    monkeypatch.setattr(audit_module, "ROTATED_BYTES", 3_000)

    def write(who: int) -> None:
        for n in range(30):
            asked = {"kind": "step", "run": RUN, "round": n, "number": who}
            Audit(tmp_path).left(asked, Parcel({"rows": 1}), None)

    threads = [threading.Thread(target=write, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [(line["number"], line["round"]) for line in Audit(tmp_path).lines()]
    assert sorted(found) == [(who, n) for who in range(4) for n in range(30)]


def test_repeated_answers_stay_within_bounds(tmp_path, monkeypatch):
    monkeypatch.setattr(audit_module, "ROTATED_BYTES", 5_000)
    site = make_sites(settings_of("fedavg"), tmp_path)[100]
    hostile = Hostile(site)
    for _ in range(60):
        assert hostile.ask(hostile.header("hello"))
    assert size(site.where, "repeated*.jsonl") < 12_000
    assert [line["kind"] for line in site.audit().lines()] == ["hello"], "the first one is told for good"


@pytest.mark.parametrize("error", [WireError("a\nb"), RequestError("x", where="y")])
def test_an_error_that_explains_itself_is_one_line_of_the_log(tmp_path, error):
    own_log.log(tmp_path, error)
    [line] = (tmp_path / "log.txt").read_text().splitlines()
    assert " ".join(str(error).split()) in line
    own_log.log(tmp_path, RuntimeError("\n" * 10_000))
    assert 1 < len((tmp_path / "log.txt").read_text().splitlines()) < 300


def test_the_log_stays_within_bounds(tmp_path, monkeypatch):
    monkeypatch.setattr(own_log, "ROTATED_BYTES", 2_000)
    for n in range(500):
        own_log.note(tmp_path, f"line {n}")
    assert size(tmp_path, "log*.txt") < 4_500
    assert (tmp_path / "log.txt").read_text().splitlines()[-1].endswith("line 499")


def test_blocks_that_are_asked_for_again_leave_a_line(tmp_path):
    site = make_sites(settings_of("fedavg"), tmp_path)[100]
    hostile = Hostile(site)
    place = {"round": 1, "number": 0, "step": 0, "id": 0, "base": None}
    layout = {"layout": [f"{7:032x}"], "sent": [], "sizes": []}
    reply = site.answer(Parcel(hostile.header("step", **place) | layout))
    assert reply.header["missing"]
    [line] = site.audit().repeats()
    assert line["name"] == "blocks that are missing"
    assert line["said"]["missing"].keys() == {"bytes", "hash"}
    assert not (site.where / LEFT).exists()
    (site.where / REPEATED).unlink()
    (site.where / REPEATED).mkdir()
    reply = site.answer(Parcel(hostile.header("step", **place) | layout))
    assert "missing" not in reply.header, "what cannot be noted does not leave"
