"""The log of what left a site: every answer has its line, no line has a value, and refusals are told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hostile import Hostile
from local_post import LocalPost, make_sites, settings_of
from typer.testing import CliRunner

from fedgmi import __version__
from fedgmi.cli import app
from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.deploy.site import audit as audit_module
from fedgmi.deploy.site.audit import LEFT, REFUSED, Audit
from fedgmi.deploy.site.site import Site
from fedgmi.deploy.site.site_check import leaves_told
from fedgmi.errors import UserError
from fedgmi.methods.disclosing import disclosing
from fedgmi.protocol.message import flatten
from fedgmi.protocol.wire import Parcel, leaf_sizes, request, unpack


@pytest.fixture(scope="module")
def after_a_run(tmp_path_factory) -> tuple[Site, list[Parcel]]:
    """A site after a run, and what it replied with."""
    where = tmp_path_factory.mktemp("run")
    settings = settings_of("fedgmi")
    post = LocalPost(make_sites(settings, where / "sites"))
    Coordinator(settings, post, where / "out", echo=lambda line: None).run()
    return post.sites[100], [reply for name, reply in post.replied if name == "client-00"]


def test_every_answer_has_its_line_with_the_leaves_that_left(after_a_run):
    site, replies = after_a_run
    with_layout = [reply for reply in replies if "layout" in reply.header]
    [first, *lines] = list(site.audit().lines())
    assert first["kind"] == "hello"
    assert [line["hash"] for line in lines] == [reply.header["hash"] for reply in with_layout]
    assert [line["bytes"] for line in lines] == [reply.n_bytes for reply in with_layout]
    for line, reply in zip(lines, with_layout, strict=True):
        assert {leaf["name"]: leaf["bytes"] for leaf in line["leaves"]} == leaf_sizes(reply)
        assert line["tells"] or not line["leaves"], line["name"]
        assert line["data"] == site.digest
    repeats = list(site.audit().repeats())
    assert len(repeats) + 1 + len(lines) == len(replies)
    assert all(line["kind"] == "hello" or line["name"] == "blocks that are missing" for line in repeats)


def test_a_greeting_in_another_run_tells_nothing_new(after_a_run):
    """Its token is another, and tells nothing of rows: whoever greets in run after run fills no file that stays."""
    site, _ = after_a_run
    before = len(list(site.audit().lines())), len(list(site.audit().repeats()))
    for run in ("a" * 16, "b" * 16):
        about = {"federation": site.federation.digest(), "run": run, "attempt": "a"}
        site.answer(Parcel(request("hello", version=__version__, **about)))
    assert (len(list(site.audit().lines())), len(list(site.audit().repeats()))) == (before[0], before[1] + 2)


def test_no_line_has_a_value_that_is_made_of_rows(after_a_run):
    site, _ = after_a_run
    asked, told = (
        {"kind", "run", "round", "number", "step", "id", "request"},
        {"tells", "leaves", "said", "bytes", "hash"},
    )
    for line in [*site.audit().lines(), *site.audit().repeats()]:
        assert line.keys() <= asked | told | {"time", "name", "again", "data"}
        assert all(leaf.keys() == {"name", "dtype", "shape", "bytes"} for leaf in line["leaves"])
        assert line["said"].keys() <= {"rows", "site", "held_out"}


def test_what_is_told_of_steps_is_what_left(after_a_run):
    """`fedgmi site check` lists what the program's steps tell: whatever left is in the list."""
    site, _ = after_a_run
    told = leaves_told(disclosing(site.federation.setup().method()).program)
    left = {line["tells"] for line in site.audit().lines() if line["leaves"] and line["kind"] == "step"}
    assert left
    assert left <= set(told)


def test_no_leaf_that_left_has_a_row_or_the_labels_as_they_stand(after_a_run):
    """What `fedgmi site check` says of what never leaves."""
    site, replies = after_a_run
    rows, secret = site.train.x.flatten(1), site._secret()
    for reply in replies:
        assert secret not in json.dumps(reply.header)
        assert bytes.fromhex(secret) not in reply.payload.numpy().tobytes()
        for name, leaf in flatten(unpack(reply)).items() if "layout" in reply.header else ():
            assert leaf.shape[:1] != (len(rows),), f"{name} has a number a row"
            flat = leaf.double().flatten()
            windows = flat.unfold(0, rows.shape[1], 1) if len(flat) >= rows.shape[1] else flat.new_zeros(0, 1)
            assert not any((windows - row).abs().amax(1).min() < 1e-4 for row in rows.double() if len(windows)), name


def test_hundreds_of_hostile_requests_leave_a_line_each_and_no_more_than_so_many_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(audit_module, "ROTATED_BYTES", 20_000)
    site = make_sites(settings_of("fedavg"), tmp_path)[100]
    hostile = Hostile(site)
    for n in range(300):
        place = {"round": n + 50, "number": 0, "step": 0, "id": 0, "base": None}
        assert hostile.ask(hostile.header("step", **place)) is None
    newest = list(site.audit().refusals())
    assert newest[-1]["round"] == 349
    assert "the request has round = 349" in newest[-1]["why"]
    assert [line["round"] for line in newest] == list(range(newest[0]["round"], 350))
    assert len(newest) > 100
    assert sum(path.stat().st_size for path in site.where.glob("refused*.jsonl")) < 45_000
    assert not (site.where / LEFT).exists()


@pytest.mark.parametrize("value", ["\n\x1b[31m", "\ud800", 10**4000, {"deep": [[[]]]}, None, "x" * 10_000])
def test_what_somebody_else_chose_is_a_short_line(tmp_path, value):
    audit = Audit(tmp_path)
    audit.refused({"kind": "step", "run": value, "round": value}, "no")
    [text] = (tmp_path / REFUSED).read_text(encoding="ascii").splitlines()
    assert len(text) < 700
    assert json.loads(text)["why"] == "no"


def test_an_answer_that_cannot_be_noted_does_not_leave(tmp_path):
    site = make_sites(settings_of("fedavg"), tmp_path)[100]
    (site.where / LEFT).mkdir(parents=True)
    hostile = Hostile(site)
    expert = {"expert": torch.ones(1, 90)}
    place = {"round": 1, "number": 0, "step": 0, "id": 0, "base": None}
    assert hostile.ask(hostile.header("step", **place), expert) is None
    assert "cannot be written" in (site.where / "log.txt").read_text(encoding="utf-8")
    assert hostile.errors[-1] == "its folder cannot be written; the site's log.txt says more"


def test_site_audit_shows_what_left_and_ends_with_1_where_something_was_refused(tmp_path):
    site = make_sites(settings_of("fedavg"), tmp_path)[100]
    (tmp_path / "site.toml").write_text(
        f'name = "client-00"\nfolder = "{site.where.name}"\nmax_epsilon = 2.0\n[data]\npath = "rows.csv"\n'
    )
    assert site.where.parent == tmp_path
    hostile = Hostile(replace(site))
    place = {"round": 1, "number": 0, "step": 0, "id": 0, "base": None}
    assert hostile.ask(hostile.header("step", **place), {"expert": torch.ones(1, 90)})
    site.ledger().charge("one", 0.5, 0.0, "its histogram of words")
    found = CliRunner().invoke(app, ["site", "audit", str(tmp_path / "site.toml")])
    assert found.exit_code == 0, found.output
    for words in ("models/expert/total", "its histogram of words", "0.5", "1 of 5 runs"):
        assert words in found.output
    assert not hostile.ask(hostile.header("step", **place | {"round": 99}))
    found = CliRunner().invoke(app, ["site", "audit", str(tmp_path / "site.toml")])
    assert found.exit_code == 1
    assert "round = 99" in " ".join(found.output.split())
    assert CliRunner().invoke(app, ["site", "audit", str(tmp_path / "site.toml"), "--days", "0"]).exit_code == 0


def test_lines_that_a_crash_cut_short_are_left_out(tmp_path):
    audit = Audit(tmp_path)
    audit.refused({"kind": "step"}, "first")
    with (tmp_path / REFUSED).open("a") as file:
        file.write('{"time": 1, "why\n[1]\n{"time": "x"}\n')
    audit.refused({"kind": "step"}, "last")
    assert [line["why"] for line in audit.refusals()] == ["first", "last"]


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        Audit(tmp_path / "file").refused({}, "no")
