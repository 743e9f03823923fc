"""What the coordinator counts: the ledger holds the exchanges of steps, a member's own counts hold all that travelled.

That ledgers are those of the run in process, for every method, is in test_coordinator.py.
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from local_post import LocalPost, Stopped, federation_settings, make_sites, settings_of
from test_coordinator import in_process

from fedgmi.deploy.coordinator import status
from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.protocol.ledger import Ledger
from fedgmi.protocol.wire import Parcel
from fedgmi.storage import checkpoint

AVERAGE = settings_of("fedavg")
BAD = 3  # client-03


def run(settings, where: Path, faults=None) -> LocalPost:
    """The run over sites, to its end."""
    post = LocalPost(make_sites(settings, where / "sites"), faults or {})
    Coordinator(settings, post, where / "out", echo=lambda line: None).run()
    return post


def kept(settings, where: Path) -> Ledger:
    """The ledger of the last checkpoint."""
    found = checkpoint.load(where / "out" / "checkpoints", settings.method.name, digest=settings.digest())
    assert found is not None
    return Ledger.from_tree(settings.sites, found.ledger)


def counts(where: Path) -> torch.Tensor:
    """Every member's own counts, down and up. [N, 2]"""
    sites = status.read(where / "out").sites
    return torch.tensor([[sites[name].bytes_down, sites[name].bytes_up] for name in sorted(sites)])


def travelled(post: LocalPost, kinds: tuple[str, ...]) -> torch.Tensor:
    """What really went over the post, down and up, of requests of these kinds. [N, 2]"""
    down, up = Counter[str](), Counter[str]()
    kind_of = [parcel.header["kind"] for _, parcel in post.asked]
    assert len(post.replied) == len(post.asked), "for posts without silence"
    for kind, (name, request), (_, reply) in zip(kind_of, post.asked, post.replied, strict=True):
        if kind in kinds:
            down[name] += request.n_bytes
            up[name] += reply.n_bytes
    return torch.tensor([[down[name], up[name]] for name in sorted(down)])


@pytest.mark.parametrize("name", ["fedgmi", "fedavg", "cfl"])
def test_the_ledger_holds_steps_and_the_members_all_that_travelled(tmp_path, name):
    settings = settings_of(name)
    post = run(settings, tmp_path)
    assert torch.equal(kept(settings, tmp_path).by_client(), travelled(post, ("step",)))
    assert torch.equal(counts(tmp_path), travelled(post, ("hello", "step", "finish")))


def test_a_silent_site_s_requests_count_and_nothing_comes_back(tmp_path):
    def silent(request: Parcel, reply: Parcel) -> Parcel | None:
        return None if request.header["kind"] == "step" and request.header["round"] == 1 else reply

    run(AVERAGE, tmp_path, {f"client-{BAD:02d}": silent})
    ledger, whole = kept(AVERAGE, tmp_path), in_process(AVERAGE)[1].ledger
    down, up = ledger.by_client(1)[BAD].tolist()
    assert (down, up) == (int(whole.by_client(1)[BAD, 0]), 0)
    others = [i for i in range(AVERAGE.sites) if i != BAD]
    assert torch.equal(ledger.by_client(1)[others], whole.by_client(1)[others])
    assert (counts(tmp_path) >= ledger.by_client()).all()


def test_blocks_sent_again_are_in_the_member_s_count_alone(tmp_path):
    """A site that lost its disk answers with what it misses; the second request brings everything."""
    settings = federation_settings()
    post = LocalPost(make_sites(settings, tmp_path / "sites"))
    lost: list[int] = []

    def lose(request: Parcel, reply: Parcel) -> Parcel:
        header = request.header
        if header["kind"] == "step" and (header["round"], header["number"]) == (0, 1) and not lost:
            lost.append(1)
            blocks = next((tmp_path / "sites" / "client-03" / "runs").glob("*")) / "blocks"
            shutil.rmtree(blocks)
        return reply

    post.faults["client-03"] = lose
    Coordinator(settings, post, tmp_path / "out", echo=lambda line: None).run()
    missing = [reply for name, reply in post.replied if reply.header.get("missing")]
    assert len(missing) == 1
    ledger, whole = kept(settings, tmp_path), in_process(settings)[1].ledger
    assert torch.equal(ledger.by_client()[:, 1], whole.by_client()[:, 1])
    extra = counts(tmp_path) - ledger.by_client()
    usual = [i for i in range(settings.sites) if i != BAD]
    assert extra[BAD, 1] >= missing[0].n_bytes
    assert extra[BAD, 0] > extra[usual, 0].max()
    assert torch.equal(counts(tmp_path), travelled(post, ("hello", "step", "finish")))


def test_a_resumed_coordinator_goes_on_with_its_ledger(tmp_path):
    """The rounds before the checkpoint stand as they were; blocks that the new process cannot know of go out again."""
    post = LocalPost(make_sites(AVERAGE, tmp_path / "sites"), stop_after=3)  # greeting, preparation, round 1
    with pytest.raises(Stopped):
        Coordinator(AVERAGE, post, tmp_path / "out", echo=lambda line: None).run()
    before = kept(AVERAGE, tmp_path)
    post.stop_after = None
    Coordinator(AVERAGE, post, tmp_path / "out", echo=lambda line: None).run()
    after, whole = kept(AVERAGE, tmp_path), in_process(AVERAGE)[1].ledger
    assert before.totals() != (0, 0)
    for round in (0, 1):
        assert torch.equal(after.by_client(round), before.by_client(round))
    assert torch.equal(after.by_client()[:, 1], whole.by_client()[:, 1])
    assert (counts(tmp_path) >= after.by_client()).all()
