"""The adapter on a grid in this process: records, apps, faults. Real processes are in test_real.py."""

from __future__ import annotations

import json
import logging
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import InflatableObject
from local_grid import LocalGrid
from tables import table_federation, write_site

from fedgmi import __version__, flower_app
from fedgmi.deploy.coordinator import status
from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.deploy.coordinator.log import failing_in
from fedgmi.deploy.flower import CHUNK_BYTES, GridPost, from_record, make_client_app, to_record
from fedgmi.deploy.settings import FederationSettings, read
from fedgmi.deploy.site.opening import deadline
from fedgmi.errors import UserError
from fedgmi.protocol.wire import Parcel
from fedgmi.runs.records import Summary


@pytest.mark.parametrize(("n_bytes", "n_objects"), [(0, 2), (200, 2), (CHUNK_BYTES, 2), (CHUNK_BYTES + 1, 6)])
def test_a_record_is_of_few_objects_and_reads_back(n_bytes, n_objects):
    parcel = Parcel({"round": 3, "shares": [0.5, 0.5]}, torch.arange(n_bytes).to(torch.uint8))
    record = to_record(parcel)
    assert objects(record) == n_objects  # each is pushed and pulled by a request of its own
    found = from_record(RecordDict.inflate(record.deflate(), record.children))
    assert found.header == parcel.header
    assert torch.equal(found.payload, parcel.payload)


def objects(part: InflatableObject) -> int:
    """How many objects Flower makes of one: itself and all below it."""
    return 1 + sum(objects(child) for child in (part.children or {}).values())


@pytest.mark.parametrize(
    "record",
    [
        RecordDict(),
        RecordDict({"header": ConfigRecord({"json": "{"})}),
        RecordDict({"header": ConfigRecord({"json": "[1]"})}),
        RecordDict({"header": ConfigRecord({"json": '{"x": [' + "[]," * 200_000 + "0]}"})}),
        RecordDict({"header": ConfigRecord({"other": "{}"})}),
        RecordDict({"header": ConfigRecord({"json": "{}", "payload": "text"})}),
        RecordDict({"header": ConfigRecord({"json": "{}", "payload": [1, 2]})}),
        RecordDict(
            {
                "header": ConfigRecord({"json": "{}"}),
                "payload": ArrayRecord({"payload": Array(np.zeros((2, 2), np.float32))}),
            }
        ),
        RecordDict(
            {
                "header": ConfigRecord({"json": "{}"}),
                "payload": ArrayRecord({"payload": Array("uint8", (1,), "pickle", b"cos\nsystem\n")}),
            }
        ),
    ],
    ids=["nothing", "broken json", "a list", "many lists", "another key", "a text", "numbers", "a matrix", "a pickle"],
)
def test_records_that_are_none_of_ours(record):
    assert "this is no message of fedgmi" in from_record(record).header["error"]


@pytest.fixture
def sites(tmp_path) -> dict[int, dict[str, str]]:
    """Node configurations of three sites with tables of their own."""
    return {10 + i: {"site": str(write_site(tmp_path / f"site-{i}", i))} for i in range(3)}


def failing(tmp_path: Path, federation: str) -> Path:
    """A run that fails over no sites at all → its results folder. Flower logs the error as it does."""
    (tmp_path / "wards").mkdir()
    (tmp_path / "wards" / "federation.toml").write_text(federation)
    app, out = flower_app.server_app(tmp_path / "wards"), tmp_path / "out"
    try:
        app(LocalGrid(flower_app.client_app(), {}), Context(1, 0, {}, RecordDict(), {"out": str(out)}))
    except UserError as error:
        logging.getLogger("flwr").error("%s raised an exception", "ServerApp", exc_info=error)
        logging.getLogger("flwr").error("Exit Code: 201\n\nAn unhandled exception occurred in the ServerApp.\n\nVisit")
        return out
    raise AssertionError("it does not fail")


@pytest.mark.parametrize(("federation", "why"), [
    (table_federation(rounds=0), "federation.toml: rounds is 0"),
    (table_federation().replace("n_components = 2", 'n_components = "auto"'), "federation.toml: method.n_components: "),
    (table_federation(wait_s=0.1), "0 of 3 sites came in 0.1 s"),
], ids=["a setting", "settings together", "no sites"])  # fmt: skip
def test_a_run_that_fails_says_why_in_one_line_and_leaves_a_status(tmp_path, caplog, federation, why):
    """Flower showed a traceback, and where settings were wrong there was no results folder at all."""
    out = failing(tmp_path, federation)
    [said] = [record for record in caplog.records if record.name == "flwr" and record.levelname == "ERROR"]
    assert why in said.getMessage()
    assert said.getMessage().startswith("the run has failed: ")
    assert said.exc_info is None
    assert "Traceback" not in caplog.text
    assert f"stopped: {'wards' if 'sites' in why else tmp_path}" in (out / "log.txt").read_text()
    found = status.read(out)
    assert (found.name, found.state) == ("wards", "failed")
    assert why in found.note
    assert status.trouble(found)


def test_a_run_that_fails_before_it_begins_leaves_what_is_known_of_sites(tmp_path):
    seen = status.SiteStatus(alive=True, last_round=2, last_seen=1.0, rows=9, bytes_down=1, bytes_up=1, absent=0)
    before = status.Status(name="wards", round=2, rounds=2, state="finished", updated=1.0, sites={"a": seen})
    (tmp_path / "out").mkdir()
    status.write(tmp_path / "out", before)
    found = status.read(failing(tmp_path, table_federation(rounds=0)))
    assert (found.state, found.sites) == ("failed", before.sites)


def test_a_federation_of_tables_over_a_grid(tmp_path, sites):
    grid = LocalGrid(flower_app.client_app(), sites)
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "federation.toml").write_text(table_federation())
    app = flower_app.server_app(tmp_path / "app")
    app(grid, Context(1, 0, {}, RecordDict(), {"out": str(tmp_path / "out")}))
    summary = Summary.read(tmp_path / "out").to_json()
    assert summary["clients"] == ["site-0", "site-1", "site-2"]
    assert np.allclose(np.sum(summary["proportions"], axis=1), 1)
    for i in range(3):
        told = json.loads((tmp_path / f"site-{i}" / "site" / "results" / "proportions.json").read_text())
        assert told["proportions"] == pytest.approx(summary["proportions"][i])


def test_a_node_whose_app_raises_is_not_let_in(tmp_path, sites):
    grid = LocalGrid(flower_app.client_app(), sites, broken=[11])
    (tmp_path / "federation.toml").write_text(table_federation(wait_s=0.2))
    settings = read(FederationSettings, tmp_path / "federation.toml")
    with pytest.raises(UserError, match="2 of 3 sites came"):
        Coordinator(settings, GridPost(grid), tmp_path / "out", echo=lambda line: None).run()
    assert "Flower says: the app raised" in (tmp_path / "out" / "log.txt").read_text()


def test_rows_that_are_not_the_federation_s(tmp_path, sites):
    """Which rows are wrong is for the site's own eyes; the coordinator hears that they cannot be used."""
    path = Path(sites[11]["site"]).parent / "rows.csv"
    path.write_text(path.read_text().replace("pulse", "puls"))
    lines = Path(sites[12]["site"]).parent.joinpath("rows.csv").read_text().splitlines()
    Path(sites[12]["site"]).parent.joinpath("rows.csv").write_text("\n".join([lines[0], "1,2,3,4,comatose"]))
    post = GridPost(LocalGrid(flower_app.client_app(), sites))
    federation = read(FederationSettings, Path(sites[10]["site"]).parent / "federation.toml")
    hello = Parcel({"kind": "hello", "version": __version__, "federation": federation.digest()})
    replies = post.ask(dict.fromkeys(sites, hello), 60.0)
    assert replies[10].header["site"] == "site-0"
    for node in (11, 12):
        assert replies[node].header == {"error": "its rows cannot be used; the site's log.txt says more"}
    assert "no column 'pulse'" in (Path(sites[11]["site"]).parent / "log.txt").read_text()
    assert "comatose" in (Path(sites[12]["site"]).parent / "log.txt").read_text()


@pytest.mark.parametrize(
    ("config", "told", "message"),
    [
        ({}, "this SuperNode was started without a site", "this SuperNode was started without a site"),
        ({"site": "nowhere.toml"}, "its settings cannot be used", "nowhere.toml: there is no such file"),
    ],
)
def test_a_node_without_a_site(tmp_path, monkeypatch, config, told, message):
    monkeypatch.chdir(tmp_path)
    post = GridPost(LocalGrid(flower_app.client_app(), {1: config}))
    reply = post.ask({1: Parcel({"kind": "hello"})}, 5.0)[1]
    assert told in reply.header["error"]
    assert message in (tmp_path / "log.txt").read_text(encoding="utf-8")


def test_a_client_gives_up_before_the_coordinator_does():
    with pytest.raises(UserError, match=r"no answer within 0\.05 s"), deadline(0.05):
        time.sleep(5)


def test_who_is_silent_is_absent():
    class Silent(LocalGrid):
        def pull_messages(self, message_ids):
            return [reply for reply in super().pull_messages(message_ids) if reply.metadata.src_node_id != 2]

    app = make_client_app(lambda request, settings: Parcel({"here": True}))
    answers = GridPost(Silent(app, {1: {}, 2: {}})).ask({1: Parcel({}), 2: Parcel({})}, 0.5)
    assert list(answers) == [1]


def test_without_flower(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "fedgmi.deploy.flower", None)
    with pytest.raises(UserError, match=r"pip install 'fedgmi\[flower\]'"):
        flower_app.client_app()


def test_the_path_of_a_federation_that_is_none(tmp_path):
    app = flower_app.server_app(tmp_path)
    with pytest.raises(UserError, match=r"federation\.toml: there is no such file"):
        app(LocalGrid(flower_app.client_app(), {}), Context(1, 0, {}, RecordDict(), {"out": str(tmp_path / "out")}))


def test_out_is_where_the_superlink_was_started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "federation.toml").write_text(table_federation(wait_s=0.1))
    app = flower_app.server_app(tmp_path)
    with pytest.raises(UserError, match="0 of 3 sites came"):
        app(LocalGrid(flower_app.client_app(), {}), Context(1, 0, {}, RecordDict(), {}))
    assert Path("results/status.json").exists()


class Unreadable(LocalGrid):
    """Flower raises for all replies where one cannot be inflated."""

    error: type[Exception] = ValueError
    bad = 11

    def pull_messages(self, message_ids):
        ids = list(message_ids)
        if any(name in self._replies and self._replies[name].metadata.src_node_id == self.bad for name in ids):
            raise self.error("not an object")
        return super().pull_messages(ids)


def test_an_answer_that_flower_cannot_read_is_one_site_s(sites):
    grid = Unreadable(flower_app.client_app(), sites)
    answers = GridPost(grid).ask(dict.fromkeys(sites, Parcel({"kind": "none"})), deadline_s=5.0)
    assert answers.keys() == sites.keys()
    said = {node: "Flower cannot read its answer (ValueError)" in answers[node].header["error"] for node in sites}
    assert said == {10: False, 11: True, 12: False}


def test_a_superlink_that_is_away_is_no_site_s_fault(sites):
    grid = Unreadable(flower_app.client_app(), sites)
    grid.error = ConnectionError
    with pytest.raises(ConnectionError):
        GridPost(grid).ask(dict.fromkeys(sites, Parcel({"kind": "none"})), deadline_s=5.0)


def test_a_reply_that_never_comes_to_its_end_holds_up_nobody(sites):
    """Flower waits for minutes for what a site has announced and does not send."""
    held, released = threading.Event(), threading.Event()

    class Held(LocalGrid):
        def pull_messages(self, message_ids):
            [name] = message_ids
            if self._replies[name].metadata.src_node_id == 10:
                held.set()
                released.wait(60.0)
            elif not held.is_set():
                return []  # the others' come later
            return super().pull_messages([name])

    try:
        answers = GridPost(Held(flower_app.client_app(), sites)).ask(dict.fromkeys(sites, Parcel({"kind": "x"})), 3.0)
    finally:
        released.set()
    assert answers.keys() == {11, 12}


def test_a_message_that_answers_nothing_is_no_sites_reply(sites):
    """A SuperLink hands what a node has made up to whoever pulls next: one site answered in all others' names."""

    class Forged(LocalGrid):
        def pull_messages(self, message_ids):
            made_up = Message(
                to_record(Parcel({"error": "training has diverged"})), dst_node_id=1, message_type="train"
            )
            made_up.metadata.__dict__["_src_node_id"] = 10
            [name] = message_ids
            stolen = Message(to_record(Parcel({"error": "in another's name"})), reply_to=self.asked[name])
            stolen.metadata.__dict__["_src_node_id"] = 10
            own = super().pull_messages(message_ids)
            return [made_up, *([stolen] if self.asked[name].metadata.dst_node_id != 10 else []), *own]

        def push_messages(self, messages):
            messages = list(messages)
            names = super().push_messages(messages)
            self.asked = dict(zip(names, messages, strict=True))
            return names

    answers = GridPost(Forged(flower_app.client_app(), sites)).ask(dict.fromkeys(sites, Parcel({"kind": "x"})), 5.0)
    assert answers.keys() == sites.keys()
    assert not [node for node in sites if "diverged" in answers[node].header["error"]]
    assert not [node for node in sites if "another's name" in answers[node].header["error"]]


def test_a_run_that_is_asked_to_end_says_so(tmp_path):
    with pytest.raises(KeyboardInterrupt), failing_in(tmp_path / "out", (said := []).append, said.append):
        raise KeyboardInterrupt
    assert said == ["stopped: its process was asked to end", "its process was asked to end"]
