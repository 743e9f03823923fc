"""A site is killed at any point of an answer: whatever leaves after the restart is charged, noted and counted."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

import pytest
import torch
from hostile import Hostile
from local_post import make_sites
from spying import Refusal, Spy
from test_privacy_attacks import codebook, with_epsilon
from test_private_sites import MASKS, private

from fedgmi.deploy.masks.unmasking import Agreement
from fedgmi.deploy.site.audit import Audit
from fedgmi.deploy.site.site import Site
from fedgmi.protocol.wire import Parcel
from fedgmi.storage import files

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")


class Killed(BaseException):
    """As SIGKILL: nobody catches it."""


@dataclass
class Disk:
    """Counts what is written, and is the end of the process before or after one of these."""

    at: int | None = None
    after: bool = False
    written: list[str] = field(default_factory=list)

    def wrapped(self, write: Callable[..., None], name: Callable[..., str]) -> Callable[..., None]:
        def writing(*given: object, **named: object) -> None:
            now = len(self.written) == self.at
            self.written.append(name(*given))
            if now and not self.after:
                raise Killed
            write(*given, **named)
            if now:
                raise Killed

        return writing


@contextmanager
def watched(disk: Disk) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_replace", disk.wrapped(files._replace, lambda path, *rest: path.name))
        patch.setattr(Audit, "_append", disk.wrapped(Audit._append, lambda audit, name, line: name))
        yield


def every_crash(site: Site, ask: Callable[[Site], object]) -> Iterator[Site]:
    """The site after each crash that there can be, with a folder of its own."""
    disk = Disk()

    def copied(name: str) -> Site:
        where = site.where.parent / name
        if site.where.exists():
            shutil.copytree(site.where, where)
        return replace(site, where=where)

    with watched(disk):
        assert ask(copied("whole"))
    assert {"ledger.json", "audit.jsonl", "guard.json"} <= set(disk.written)
    for at in range(len(disk.written)):
        for after in (False, True):
            crashed = copied(f"crashed-{at}-{after}")
            with watched(Disk(at, after)), pytest.raises(Killed):
                ask(crashed)
            yield replace(crashed)


def noted(site: Site) -> set[str]:
    """The hashes of the answers that its log has."""
    return {line["hash"] for line in site.audit().lines()}


def test_a_histogram_leaves_only_once_it_is_charged(tmp_path):
    site = make_sites(with_epsilon(1.0), tmp_path)[100]
    crashes = 0
    for again in every_crash(site, lambda site: Hostile(site).step("histograms", 0, codebook())):
        hostile, left = Hostile(again), set[str]()
        for seed, run in ((1, "a" * 16), (0, "b" * 16), (0, "0123456789abcdef"), (2, "0123456789abcdef")):
            reply = hostile.step("histograms", 0, codebook(seed), run=run)
            if reply is not None:
                left.add(str(reply.header["hash"]))
            assert len(left) <= len(again.ledger().releases()), "each noise is charged before it leaves"
            assert left <= noted(again)
        assert len(left) >= 2
        assert again.guard().used() >= 2
        crashes += 1
    assert crashes >= 10


@pytest.mark.parametrize("first", [0.0, 1e-6])
def test_a_private_message_leaves_only_once_it_is_charged(tmp_path, first):
    """After the restart the same is asked, and another question in its place, in either order."""
    site = make_sites(private(), tmp_path)[100]

    def asked(site: Site, shift: float) -> Parcel | None:
        hostile = Hostile(site)
        return hostile.step("train", 0, {"expert": torch.full(expert_shape(site), shift)}, round=1)

    for again in every_crash(site, lambda site: asked(site, 0.0)):
        left: set[str] = set()
        for shift in (first, 1e-6, 0.0):
            reply = asked(again, shift)
            assert reply is not None
            left.add(str(reply.header["hash"]))
            assert len(left) <= len(again.ledger().releases())
            assert left <= noted(again)
        assert len(left) == 2


def test_a_masked_message_leaves_only_once_it_is_charged(tmp_path):
    """After the restart it is asked under other keys of masks, where its noise is another, and under the first."""
    sites = make_sites(private(changes=MASKS), tmp_path)
    first, spy = sites[100], Spy({i: sites[100 + i] for i in range(3)})
    agreed = spy.agree(range(3), round=1)
    index = next(n for n, step in enumerate(first.method().program.round) if step.name == "train")

    def asked(site: Site, agreement: Agreement) -> str:
        there = replace(spy, sites={0: site})
        table = {"epoch": agreement.epoch, "slot": 0, "among": [0, 1, 2]}
        place = {"round": 1, "number": 0, "step": index, "base": None}
        reply = there.ask(0, "step", {"expert": torch.zeros(expert_shape(site))}, masks=table, **place)
        return str(reply.header["hash"])

    messages = []
    for again in every_crash(first, lambda site: asked(site, agreed)):
        spy.sites[0], left = again, set[str]()
        for keys in ("first", "other", "first"):
            with suppress(Refusal):  # keys that were used up, or are no longer kept
                left.add(asked(again, agreed if keys == "first" else spy.agree(range(3), round=1)))
            assert len(left) <= len(again.ledger().releases())
            assert left <= noted(again)
        messages.append(len(left))
    assert set(messages) == {1, 2}


def expert_shape(site: Site) -> torch.Size:
    return site.method().program.init()["expert"].shape


@pytest.mark.parametrize("torn", ['{"time": 1', '{"time": 1, "name": "x"}', ""])
def test_a_line_that_a_crash_cut_short_takes_no_other_with_it(tmp_path, torn):
    (tmp_path / "audit.jsonl").write_text(torn)
    for n in range(2):
        Audit(tmp_path).left({"kind": "step", "round": n}, Parcel({"rows": 1}), None)
    assert [line["round"] for line in Audit(tmp_path).lines() if "round" in line] == [0, 1]


def test_what_has_to_last_is_safe_from_a_power_cut_with_its_name(tmp_path, monkeypatch):
    """A renamed file is there after a power cut only if its folder was written, too."""
    synced: list[bool] = []
    monkeypatch.setattr("os.fsync", lambda handle: synced.append(stat.S_ISDIR(os.fstat(handle).st_mode)))
    files.write_json(tmp_path / "ledger.json", {})
    assert synced == [False, True]
    synced.clear()
    Audit(tmp_path).left({"kind": "step"}, Parcel({"rows": 1}), None)
    assert synced == [False, True]
    Audit(tmp_path).left({"kind": "step", "round": 1}, Parcel({"rows": 1}), None)
    assert synced == [False, True, False], "the name of the file stands already"
