"""A site's place and its diagnosis are its own: nobody else comes back under its name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from local_post import LocalPost, make_sites, settings_of
from test_coordinator import log_of

from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.deploy.coordinator.roster import Member, Roster
from fedgmi.deploy.site.site import Site
from fedgmi.errors import UserError
from fedgmi.protocol.wire import TOKEN, Parcel
from fedgmi.runs.records import Status
from fedgmi.storage import checkpoint, folder

SKETCH = settings_of("fedgmi", preset="sketch")
VICTIM, THIEF = 100, 205


@dataclass
class Stolen(LocalPost):
    """client-00 goes away in a round, and another node says its name; or it comes back itself."""

    thief: Site | None = None
    round: int = 1
    handed: list[object] = field(default_factory=list)
    gone: bool = False

    def nodes(self) -> Iterable[int]:
        return [node for node in self.sites if node != (VICTIM if self.gone else THIEF)]

    def ask(self, requests: dict[int, Parcel], deadline_s: float) -> dict[int, Parcel]:
        if any(request.header.get("round") == self.round for request in requests.values()) and self.thief:
            self.sites[THIEF], self.gone = self.thief, True
        found = requests.get(THIEF)
        if found is not None and found.header["kind"] == "finish":
            self.handed.append(found.header["diagnosis"])
        return super().ask(requests, deadline_s)


def stolen(tmp_path, **changes) -> Stolen:
    """Another site of the federation, with a folder of its own, says that it is client-00."""
    sites = make_sites(SKETCH, tmp_path / "sites")
    own = sites[105].settings.model_copy(update={"name": "client-00"})
    return Stolen(sites, thief=replace(sites[105], where=tmp_path / "thief", settings=own), **changes)


def run(post: LocalPost, tmp_path, echo=lambda line: None, **changes):
    return Coordinator(SKETCH.model_copy(update={"wait_s": 0.3} | changes), post, tmp_path / "out", echo=echo).run()


def test_another_site_gets_neither_the_place_nor_the_diagnosis(tmp_path):
    post = stolen(tmp_path)
    run(post, tmp_path)
    assert post.handed == []
    assert f"node {THIEF} is not let in: it says that it is client-00, and its token is another" in log_of(tmp_path)
    assert "another node said its name" in Status.read(tmp_path / "out").sites["client-00"].note


def test_the_site_itself_comes_back_over_another_node(tmp_path):
    post = stolen(tmp_path)
    post.thief = post.sites[VICTIM]
    run(post, tmp_path)
    assert len(post.handed) == 1
    assert "is not let in" not in log_of(tmp_path)


@pytest.mark.parametrize("named", ["client-00", "client-01"])
def test_a_site_that_lost_its_folder_comes_back_where_the_coordinator_s_people_say_so(tmp_path, named):
    post = stolen(tmp_path)
    lost = replace(post.sites[VICTIM], where=tmp_path / "new disk")
    post.thief = lost
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "readmit.txt").write_text(f"{named}\n")
    run(post, tmp_path)
    there = named == "client-00"
    assert len(post.handed) == there
    assert ("client-00 comes with another token, as readmit.txt says" in log_of(tmp_path)) == there
    assert (tmp_path / "out" / "readmit.txt").read_text() == ("" if there else "client-01\n")


def test_a_site_that_lost_its_folder_comes_back_over_its_own_supernode(tmp_path):
    """The SuperLink knows it by its key."""
    post = LocalPost(make_sites(SKETCH, tmp_path / "sites"))
    away = []

    def lose(request: Parcel, reply: Parcel) -> Parcel:
        if request.header.get("round") == 1 and not away:
            shutil.rmtree(tmp_path / "sites" / "client-00")
            away.append(post.sites.pop(VICTIM))
        return reply

    def hear(line: str) -> None:
        if "waits for client-00" in line:
            post.sites[VICTIM] = away[0]

    post.faults["client-00"] = lose
    run(post, tmp_path, hear, wait_s=5.0)
    assert "client-00 comes with another token, over the same SuperNode" in log_of(tmp_path)
    assert (tmp_path / "sites" / "client-00" / "results" / "model" / "model.json").exists()


def test_a_restarted_coordinator_knows_its_sites(tmp_path):
    post = stolen(tmp_path, round=99)
    run(post, tmp_path)
    (tmp_path / "out" / "log.txt").unlink()
    meta = checkpoint.load(tmp_path / "out" / folder.CHECKPOINTS, "fedgmi", digest=SKETCH.digest()).meta
    said = {reply.header["site"]: reply.header[TOKEN] for _, reply in post.replied if TOKEN in reply.header}
    assert len(set(said.values())) == 6
    assert not any(token in json.dumps(meta) for token in said.values())  # the checkpoint holds hashes
    post.gone, post.sites[THIEF] = True, post.thief
    with pytest.raises(UserError, match="5 of 6 sites came"):
        run(post, tmp_path)
    assert "its token is another than client-00 had" in log_of(tmp_path)
    assert post.handed == []


def test_a_checkpoint_without_tokens_takes_the_first_that_comes_and_says_so():
    lines = []
    old = {key: value for key, value in Member("ward", 40).to_json().items() if key not in ("known_by", "node_before")}
    roster = Roster(1, lines.append, members=[Member.from_json(old)], restored={"ward"})
    hello = Parcel({"kind": "hello"})

    class Post:
        node, token = 7, "a" * 32

        def nodes(self):
            return [self.node]

        def ask(self, requests, deadline_s):
            return {node: Parcel({"site": "ward", "rows": 40, TOKEN: self.token}) for node in requests}

    post = Post()
    roster.call(post, hello, 1.0)
    assert "ward is known by its token from now on" in lines[0]
    post.node, post.token = 8, "b" * 32
    roster.call(post, hello, 1.0)
    assert roster.alive == []
    post.token, roster.strangers = "7", {}
    roster.call(post, hello, 1.0)
    assert "ward sends no token" in lines[-1]


def test_no_token_stands_in_a_site_s_audit_or_is_its_secret(tmp_path):
    post = LocalPost(make_sites(SKETCH, tmp_path / "sites"))
    run(post, tmp_path)
    token = next(reply.header[TOKEN] for name, reply in post.replied if name == "client-00")
    texts = [path.read_text() for path in (tmp_path / "sites" / "client-00").glob("*.*") if path.is_file()]
    texts += [(tmp_path / "out" / name).read_text() for name in ("status.json", "log.txt", "metrics.prom")]
    assert len(texts) > 5
    assert not any(token in text for text in texts)
    run(LocalPost(post.sites), tmp_path / "again")
    assert token not in {reply.header.get(TOKEN) for _, reply in post.replied if _ != "client-00"}


@dataclass
class Nodes:
    """A post whose nodes say what is given, or nothing."""

    told: dict[int, Parcel | None]
    asked: list[list[int]] = field(default_factory=list)
    headers: list[dict[str, Any]] = field(default_factory=list)

    def nodes(self) -> Iterable[int]:
        return list(self.told)

    def ask(self, requests: dict[int, Parcel], deadline_s: float) -> dict[int, Parcel]:
        self.asked.append(sorted(requests))
        self.headers += [requests[node].header for node in sorted(requests)]
        return {node: reply for node in requests if (reply := self.told[node]) is not None}


def greeting(name: str, letter: str) -> Parcel:
    return Parcel({"site": name, "rows": 9, TOKEN: 32 * letter})


def test_a_supernode_is_one_sites(tmp_path):
    """It took one place after another, and those of whom they were found them taken."""
    readmit = tmp_path / "readmit.txt"
    readmit.write_text("a\n")
    lines: list[str] = []
    roster = Roster(3, lines.append, readmit=readmit)
    post = Nodes({1: greeting("a", "a"), 2: greeting("b", "b")})
    roster.call(post, Parcel({}), 1.0)
    post.told = {}
    roster.call(post, Parcel({}), 1.0)
    for name in ("a", "c"):
        post.told = {2: greeting(name, "d")}
        roster.call(post, Parcel({}), 1.0)
        assert lines[-1] == f"node 2 is not let in: it says that it is {name}, and came as b: a SuperNode is one site's"
        post.told, roster.strangers = {}, {}
    post.told = {3: greeting("a", "e")}
    roster.call(post, Parcel({}), 1.0)
    assert roster.members[0].node == 3
    assert not readmit.read_text()


def test_a_line_of_readmit_goes_where_the_site_comes_back_by_itself(tmp_path):
    """It stayed, and would have let in another one under its name."""
    readmit = tmp_path / "readmit.txt"
    lines: list[str] = []
    roster = Roster(3, lines.append, readmit=readmit)
    post = Nodes({1: greeting("a", "a")})
    roster.call(post, Parcel({}), 1.0)
    post.told = {}
    roster.call(post, Parcel({}), 1.0)
    readmit.write_text("a\nb\n")
    post.told = {2: greeting("a", "a")}
    roster.call(post, Parcel({}), 1.0)
    assert roster.members[0].node == 2
    assert readmit.read_text() == "b\n"
    post.told = {}
    roster.call(post, Parcel({}), 1.0)
    post.told = {3: greeting("a", "e")}
    roster.call(post, Parcel({}), 1.0)
    assert roster.members[0].node is None
    assert "its token is another than a had" in lines[-1]


UNSEEN = ["a\ufe0f", "a\u2800", "\u115fa", "a\U000e0100"]


@pytest.mark.parametrize(
    "name", [*UNSEEN, "A", "a  b", " a", "a\u00a0b", "\uff41", "a\u202eb", "a\nb", "a\u200bb", "\u0430", "\u0391"]
)
def test_names_that_read_like_others_are_refused(name):
    lines: list[str] = []
    roster = Roster(3, lines.append)
    roster.call(Nodes({1: greeting("a", "a")}), Parcel({}), 1.0)
    roster.call(Nodes({1: greeting("a", "a"), 2: greeting(name, "b")}), Parcel({}), 1.0)
    assert [member.name for member in roster.members] == ["a"]
    assert "reads like a, which is another site" in lines[-1] or "single spaces alone" in lines[-1]


def test_a_node_that_does_not_answer_its_greeting_is_told_and_costs_no_round_again():
    """It cost a deadline at every look, and no line said so."""
    lines: list[str] = []
    roster, post = Roster(2, lines.append), Nodes({1: greeting("a", "a"), 2: None})
    for _ in range(5):
        roster.call(post, Parcel({}), 100.0)
    assert post.asked == [[1, 2]]
    assert roster.turned_away == ("node 2: it does not answer the question who it is: does fedgmi run there?",)
    roster.call(post, Parcel({}), 100.0, idle=True)  # all wait anyway
    post.told[2] = greeting("b", "b")
    roster.call(post, Parcel({}), 100.0, idle=True)
    assert [member.name for member in roster.members] == ["a", "b"]
    assert not roster.turned_away


def test_a_node_that_is_not_let_in_is_told_why_once_in_a_run_and_whenever_all_wait(monkeypatch):
    """Only the coordinator's people saw it; who says itself what is wrong needs no telling."""
    roster = Roster(2, print)
    wrong = Parcel({"site": "c", "error": "another version"})
    post = Nodes({1: greeting("A", "a"), 2: greeting("a", "b"), 3: wrong})
    for _ in range(4):
        roster.call(post, Parcel({}), 100.0)
    assert post.asked == [[1, 2, 3], [2]]
    why = "a reads like A, which is another site: give it a name of its own"
    assert post.headers[-1] == {"turned_away": why}
    monkeypatch.setattr("fedgmi.deploy.coordinator.roster.AGAIN_S", 0.0)
    post.told[2] = greeting("b", "b")
    roster.call(post, Parcel({}), 100.0, idle=True)
    assert post.headers[-2:] == [{"turned_away": why}, {}]
    assert [member.name for member in roster.members] == ["A", "b"]
