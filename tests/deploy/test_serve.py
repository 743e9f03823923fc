"""`fedgmi site serve`: a process that stays, answers as it was installed, and never runs the app that was sent."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest
import torch
from flwr.supercore.constant import TaskType
from flwr.superlink.grid import http_grid
from flwr.supernode import start_client_internal
from flwr.supernode.cli.flower_supernode import _parse_args_run_supernode
from local_supernode import LocalSuperNode, fab_that, listening
from tables import rows, write_site

import fedgmi
from fedgmi.deploy import flower_names, flower_runtime, quick
from fedgmi.deploy.commands import link_of
from fedgmi.deploy.flower import make_client_app
from fedgmi.deploy.flower_runtime import Answered, Away, Executor, check_version
from fedgmi.deploy.link import LinkSettings
from fedgmi.deploy.site import serve
from fedgmi.deploy.site.opening import Kept, guarded
from fedgmi.deploy.site.site import Site
from fedgmi.deploy.site.supernode import RECORD, SECRET, SuperNode, command, end_left_over
from fedgmi.errors import ConfigError, UserError
from fedgmi.protocol.wire import Parcel
from fedgmi.storage import files

SECRET_WORD = b"only this site's own processes know it"


def echo(request: Parcel, settings: object) -> Parcel:
    return Parcel({"asked": request.header}, torch.arange(3, dtype=torch.uint8))


def test_the_app_that_was_sent_never_runs(tmp_path, monkeypatch):
    """The coordinator submits an app that writes a file. The site answers as itself, and unpacks nothing."""
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "home"))
    written = tmp_path / "written"
    kept = Kept(write_site(tmp_path / "site", 0))
    node = LocalSuperNode(fab_that(f"open({str(written)!r}, 'w').close()\nfrom sent import app"))
    app = make_client_app(guarded(Site.answer, kept.open, tmp_path))
    with listening(node, SECRET_WORD) as address:
        executor = Executor(address, SECRET_WORD, app)
        assert executor.once() is None
        node.give(Parcel({"kind": "hello", "version": "0"}))
        done = executor.once()
    assert done is not None
    assert done.error == ""
    [reply] = node.replies()
    assert "the coordinator has fedgmi 0" in reply.header["error"]  # the site's own answer, from its own site.toml
    assert not written.exists()
    assert not (tmp_path / "home").exists()


def test_what_unpacks_apps_is_not_even_loaded():
    program = "import sys; from fedgmi.deploy.site import serve; serve.check_version(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"flwr.cli.install", "flwr.supernode.runtime.run_clientapp"} & set(done.stdout.split())


def test_a_broken_task_is_an_error_and_the_next_one_is_answered():
    secret = "patient 17"

    def app(message, context):
        if message.metadata.message_type == "query":
            raise ValueError(secret)
        return make_client_app(echo)(message, context)

    node = LocalSuperNode(fab_that(""))
    with listening(node, SECRET_WORD) as address:
        executor = Executor(address, SECRET_WORD, app)
        for kind, task in (("query", TaskType.CLIENT_APP), ("train.exchange", TaskType.AGENT_APP)):
            node.give(Parcel({"n": 1}), kind, task)
            done = executor.once()
            assert done is not None
            assert secret not in done.error
        first, second = node.replies()
    assert (first.code, first.reason) == (2, "ValueError")
    assert second.header == {"asked": {"n": 1}}
    assert second.payload.tolist() == [0, 1, 2]


def test_the_supernode_is_told_that_the_task_is_worked_at(monkeypatch):
    """A beat that fails, or is refused, ends nothing."""
    beats: list[int] = []

    def beat(client, request):
        beats.append(1)
        raise httpx.ConnectError("away") if len(beats) == 1 else RuntimeError("closed")

    def slow(request, settings):
        patience = time.monotonic() + 20
        while not beats and time.monotonic() < patience:
            time.sleep(0.01)
        return echo(request, settings)

    monkeypatch.setattr(flower_names.RuntimeHttpClient, "SendTaskHeartbeat", beat)
    monkeypatch.setattr(threading, "excepthook", lambda hook: None)
    node = LocalSuperNode(fab_that(""))
    with listening(node, SECRET_WORD) as address:
        node.give(Parcel({}))
        done = Executor(address, SECRET_WORD, make_client_app(slow)).once()
    assert done is not None
    assert done.error == ""
    assert len(node.replies()) == len(beats[:1]) == 1


@pytest.mark.parametrize(("call", "broken"), [("PushMessages", 1), ("PushObject", 2), ("PushObject", 99)])
def test_an_answer_is_handed_over_again_where_the_connection_breaks(monkeypatch, call, broken):
    """As where the machine slept. A SuperNode would wait for the rest of an answer for ever: the site is told of it."""
    done_by, left = getattr(flower_names.RuntimeHttpClient, call), [broken]

    def breaking(client, request):
        if call == "PushMessages":
            done_by(client, request)  # the request arrives, and its answer does not
        if left[0] > 0:
            left[0] -= 1
            raise httpx.ReadTimeout("asleep")
        return done_by(client, request)

    monkeypatch.setattr(flower_names.RuntimeHttpClient, call, breaking)
    monkeypatch.setattr(flower_runtime, "PUSH_AGAIN_S", 0.0)
    node = LocalSuperNode(fab_that(""))
    with listening(node, SECRET_WORD) as address:
        node.give(Parcel({"n": 1}))
        done = Executor(address, SECRET_WORD, make_client_app(echo)).once()
        assert done is not None
        if broken == 99:
            assert (done.error, done.stuck) == ("the SuperNode did not take an answer: ReadTimeout", True)
            return
        assert (done.error, done.stuck) == ("", False)
        [reply] = node.replies()
    assert reply.header == {"asked": {"n": 1}}
    assert reply.payload.tolist() == [0, 1, 2]


def test_nobody_else_on_the_machine_takes_the_sites_tasks():
    node = LocalSuperNode(fab_that(""))
    with listening(node, SECRET_WORD) as address:
        node.give(Parcel({}))
        with pytest.raises(Away, match="401"):
            Executor(address, b"guessed", make_client_app(echo)).once()
        with pytest.raises(Away):
            Executor("127.0.0.1:9", SECRET_WORD, make_client_app(echo)).once()


class Script:
    """An executor that does as it is told, then ends the loop."""

    def __init__(self, *acts: object) -> None:
        self.acts = list(acts)

    def once(self):
        act = self.acts.pop(0)
        if isinstance(act, BaseException):
            raise act
        return act


class Node:
    def keep(self) -> str:
        return ""


def test_the_loop_waits_for_a_supernode_that_is_away_and_goes_on(monkeypatch):
    naps: list[float] = []
    now = [0.0]

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(serve.time, "sleep", sleep)
    monkeypatch.setattr(serve.time, "monotonic", lambda: now[0])
    monkeypatch.delenv(serve.POLL_VARIABLE, raising=False)
    said: list[str] = []
    acts = [None, Answered("", 0.2, 0.1), None, *[Away("ConnectError")] * 400, Answered("", 0.1, 0.1)]
    with pytest.raises(KeyboardInterrupt):
        serve.work(Script(*acts, KeyboardInterrupt()), Node(), said.append)
    assert naps[:2] == [serve.IDLE_POLL_S, serve.BUSY_POLL_S]
    assert naps[-1] == serve.IDLE_POLL_S
    assert [line.partition(" (")[0] for line in said] == [
        "answered in 0.20 s, 0.10 s of CPU",
        "the SuperNode does not answer",
        "the SuperNode answers again",
        "answered in 0.10 s, 0.10 s of CPU",
    ]


def test_a_request_that_is_refused_is_told_as_such(tmp_path):
    """With what the coordinator is told; what a site only lacks yet is no refusal."""
    kept, said = Kept(write_site(tmp_path / "site", 0)), []
    answer = serve.Watched(guarded(Site.answer, kept.open, tmp_path))
    about = {"version": fedgmi.__version__, "federation": kept.open().federation.digest()}
    requests = [Parcel({"kind": "hello", "version": "0"}), Parcel({"kind": "hello"} | about)]

    class Asked(Script):
        def once(self):
            if requests:
                answer(requests.pop(0), {})
            return super().once()

    acts = [Answered("", 0.2, 0.1), Answered("", 0.2, 0.1), KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        serve.work(Asked(*acts), Node(), said.append, answer)
    assert said[0].startswith("refused: fedgmi: the coordinator has fedgmi 0, this site")
    assert said[1] == "answered in 0.20 s, 0.10 s of CPU"
    lacking = serve.Watched(lambda request, settings: Parcel({"error": "a block", "missing": ["b"]}))
    assert (lacking(Parcel({}), {}).header["error"], lacking.note) == ("a block", "")


def test_a_site_that_is_not_let_in_reads_why_in_its_own_log(tmp_path):
    """It said "answered", and its people saw nothing of it; the coordinator's words stay one line."""
    kept = Kept(write_site(tmp_path / "site", 0))
    answer = serve.Watched(guarded(Site.answer, kept.open, tmp_path))
    about = {"kind": "hello", "version": fedgmi.__version__, "federation": kept.open().federation.digest()}
    assert "error" not in answer(Parcel(about | {"turned_away": "ward is here\nalready"}), {}).header
    assert answer.note == "the coordinator does not let this site in: ward is here already"
    answer(Parcel(about), {})
    assert answer.note == ""


@pytest.mark.parametrize(("own", "level"), [(None, "WARNING"), ("INFO", "INFO")])
def test_flower_does_not_fill_the_log_unless_it_is_asked_to(tmp_path, monkeypatch, own, level):
    monkeypatch.delenv("FLWR_LOG_LEVEL", raising=False)
    if own is not None:
        monkeypatch.setenv("FLWR_LOG_LEVEL", own)
    node, seen = SuperNode(tmp_path, LinkSettings(address="127.0.0.1:1", insecure=True), 9094), tmp_path / "seen"
    program = f"import os; open({str(seen)!r}, 'w').write(os.environ['FLWR_LOG_LEVEL'])"
    monkeypatch.setattr(node, "_words", [sys.executable, "-c", program])
    node.keep()
    node._child.wait()
    assert seen.read_text() == level
    node.stop()


def test_a_supernode_that_has_a_part_of_an_answer_is_started_anew():
    class Stopped(Node):
        stops = 0

        def stop(self) -> None:
            self.stops += 1

    node, said = Stopped(), []
    acts = [Answered("", 0.2, 0.1), Answered("did not take an answer", 0.2, 0.1, stuck=True), KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        serve.work(Script(*acts), node, said.append)
    assert node.stops == 1
    assert said[1] == "did not take an answer"


def test_polling_follows_flowers_own_variable(monkeypatch):
    monkeypatch.setenv(serve.POLL_VARIABLE, "0.05")
    assert serve.poll_interval() == 0.05
    for wrong in ("0", "soon", "61", "nan"):
        monkeypatch.setenv(serve.POLL_VARIABLE, wrong)
        with pytest.raises(UserError, match="no number of seconds"):
            serve.poll_interval()


def test_rows_are_loaded_once_and_again_where_a_file_has_changed(tmp_path):
    kept = Kept(write_site(tmp_path / "site", 0))
    first = kept.open("/some/other/site.toml")
    assert kept.open() is first
    path = tmp_path / "site" / "rows.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-5]) + "\n")
    second = kept.open()
    assert len(second.train) < len(first.train)
    assert second.digest != first.digest
    assert kept.open() is second
    assert kept.opened == 2
    assert len(rows(0)[0]) == 60


def test_rows_that_are_gone_are_told_until_they_are_back(tmp_path):
    kept = Kept(write_site(tmp_path / "site", 0))
    path = tmp_path / "site" / "rows.csv"
    kept.open()
    text = path.read_text()
    path.unlink()
    answer = guarded(Site.answer, kept.open, tmp_path / "own")
    for _ in range(2):
        assert "error" in answer(Parcel({"kind": "hello"}), {}).header
    assert "rows.csv" in (tmp_path / "own" / "log.txt").read_text()
    path.write_text(text)
    assert len(kept.open().train)


def test_a_site_is_served_once_only(tmp_path):
    file = write_site(tmp_path / "site", 0)
    what = "another `fedgmi site serve` works in this folder"
    with serve.alone(file), pytest.raises(UserError, match=what), serve.alone(file):
        pass
    with serve.alone(file):
        pass


def keyed(tmp_path: Path, **more: object) -> LinkSettings:
    return LinkSettings(address="link.example.org:8000", root_certificates="/ca.crt", key="/site-1", **more)


@pytest.mark.parametrize("link", [
    LinkSettings(address="127.0.0.1:8000", insecure=True),
    LinkSettings(address="link.example.org:8000", root_certificates="/ca.crt", key="/site-1"),
])  # fmt: skip
def test_flower_knows_the_words_that_start_a_supernode(link, tmp_path, monkeypatch):
    words = command(link, 9094, tmp_path / "secret")
    assert words[0] == "flower-supernode"
    found = _parse_args_run_supernode().parse_args(words[1:])
    assert (found.isolation, found.host, found.port) == ("process", "127.0.0.1", 9094)
    assert found.superlink == link.address
    assert (found.root_certificates, found.auth_supernode_private_key) == (link.root_certificates, link.key)
    assert found.insecure is link.insecure
    assert not found.runtime_dependency_install
    soon = command(link.model_copy(update={"quick": True}), 9094, tmp_path / "secret")
    assert soon[3:] == words[1:]


def test_shorter_waits_change_nothing_else(monkeypatch):
    naps: list[float] = []
    monkeypatch.setattr(quick.time, "sleep", naps.append)
    there = vars(start_client_internal)
    for module in (there, vars(http_grid)):
        monkeypatch.setitem(module, "pull_objects", module["pull_objects"])
    monkeypatch.setitem(there, "time", there["time"])
    for _ in range(2):
        quick.shorten_supernode()
        quick.shorten_grid()
    for seconds in (3, 0.5, 7):
        there["time"].sleep(seconds)
    assert naps == [0.3, 0.05, 7]
    assert there["time"].time() == pytest.approx(time.time(), abs=5)
    for module in (there, vars(http_grid)):
        assert module["pull_objects"].keywords == {"initial_backoff": 0.1, "backoff_cap": 1.0}
        assert module["pull_objects"]([], lambda name: b"") == {}


@pytest.mark.parametrize("version", ["1.40.2", "1.43.0", "2.0", "main"])
def test_another_flower_is_refused_by_name(version):
    with pytest.raises(UserError, match=rf"flwr {version} is installed, expected 1\.41 to 1\.42"):
        check_version(version)
    assert check_version("1.41.0") == "1.41.0"


@pytest.mark.parametrize(("given", "where"), [
    ({}, "superlink.address"),
    ({"address": "nowhere"}, "superlink.address"),
    ({"address": "a:1"}, "superlink.root_certificates"),
    ({"address": "a:1", "root_certificates": __file__}, "superlink.key"),
    ({"address": "a:1", "root_certificates": "/no/file", "key": __file__}, "superlink.root_certificates"),
    ({"address": "a:1", "insecure": True, "key": __file__}, "superlink.key"),
])  # fmt: skip
def test_what_is_missing_to_reach_the_superlink_is_named(given, where):
    with pytest.raises(ConfigError, match=rf"^{where}: "):
        LinkSettings(**given).checked()


def test_site_toml_says_where_the_superlink_is_and_the_command_line_has_the_last_word(tmp_path):
    file = write_site(tmp_path / "site", 0)
    file.write_text(file.read_text() + '[superlink]\naddress = "a:1"\nroot_certificates = "ca.crt"\nkey = "keys/own"\n')
    found = link_of(file, None, None, None, insecure=False, quick=False)
    assert found.root_certificates == str(tmp_path / "site" / "ca.crt")
    assert found.key == str(tmp_path / "site" / "keys" / "own")
    assert link_of(file, "b:2", None, Path("/own"), insecure=False, quick=True) == found.model_copy(
        update={"address": "b:2", "key": "/own", "quick": True}
    )
    assert link_of(file, None, None, None, insecure=True, quick=False) == LinkSettings(address="a:1", insecure=True)


def test_a_supernode_that_ends_is_started_again_later_each_time(tmp_path, monkeypatch):
    link = LinkSettings(address="127.0.0.1:1", insecure=True)
    node = SuperNode(tmp_path, link, 9094)
    now = [0.0]
    monkeypatch.setattr("fedgmi.deploy.site.supernode.time.monotonic", lambda: now[0])
    monkeypatch.setattr(node, "_words", [sys.executable, "-c", "pass"])
    waits = []
    for _ in range(5):
        assert node.keep() == "the SuperNode starts"
        node._child.wait()
        told = node.keep()
        waits.append(float(told.rpartition(" in ")[2].removesuffix(" s")))
        assert node.keep() == ""
        now[0] += waits[-1]
    assert waits == [5, 10, 20, 40, 60]
    monkeypatch.setattr(node, "_words", [sys.executable, "-c", "raise SystemExit(2)"])
    node.keep()
    node._child.wait()
    with pytest.raises(UserError, match="does not know how it was called"):
        node.keep()
    assert oct((tmp_path / SECRET).stat().st_mode & 0o777) == "0o600"
    node.stop()
    assert not (tmp_path / SECRET).exists()


def test_a_full_disk_ends_neither_the_site_nor_its_answers(tmp_path):
    """Nothing can be written: not to the terminal's file, not into the site's folder (a file lies in its place)."""

    def full(line):
        raise OSError(errno.ENOSPC, "No space left on device")

    serve._stamped(full, "ward", "stopped")
    file = write_site(tmp_path / "site", 0)
    kept = Kept(file)
    site = kept.open()
    (file.parent / "site").write_text("in the way")
    reply = site.answer(
        Parcel({"kind": "hello", "version": fedgmi.__version__, "federation": site.federation.digest()})
    )
    assert reply.header["error"].startswith("its folder cannot be written")
    file.unlink()
    reply = guarded(Site.answer, kept.open, file.parent / "site")(Parcel({}), {})
    assert reply.header["error"].startswith("its settings cannot be used")


def test_a_supernode_is_started_once_there_is_room_on_the_disk(tmp_path, monkeypatch):
    node = SuperNode(tmp_path / "site", LinkSettings(address="127.0.0.1:1", insecure=True), 9094)
    now = [0.0]
    monkeypatch.setattr("fedgmi.deploy.site.supernode.time.monotonic", lambda: now[0])
    monkeypatch.setattr(node, "_words", [sys.executable, "-c", "import time; time.sleep(60)"])
    write, full = files.write_bytes, [RECORD, SECRET]

    def write_bytes(path, payload, **more):
        with files.writing(path):
            if path.name in full:
                raise OSError(errno.ENOSPC, "No space left on device")
        write(path, payload, **more)

    monkeypatch.setattr(files, "write_bytes", write_bytes)
    for wait in (5, 10):
        told = node.keep()
        assert re.search(rf"{full[-1]}: cannot be written .* tried again in {wait} s", told), told
        assert node._child is None
        assert node.keep() == ""
        now[0] += wait
        full.pop()
    assert node.keep() == "the SuperNode starts"
    node.stop()


def test_a_key_that_the_superlink_does_not_take_is_named(tmp_path, monkeypatch, capfd):
    """Flower's own words stay to be read; ours say whom to send what."""
    told: list[str] = []
    node = SuperNode(tmp_path, keyed(tmp_path), 9094, told.append)
    for words in ("[code: 2004] Failed to activate SuperNode.", "[code: 1] something else"):
        monkeypatch.setattr(node, "_words", [sys.executable, "-c", f"print({words!r}); raise SystemExit(1)"])
        monkeypatch.setattr(node, "_next", 0.0)
        node.keep()
        node._child.wait()
        assert "has ended (code 1)" in node.keep()
        assert words in capfd.readouterr().err
    [line] = told
    assert "the SuperLink does not take the key /site-1: it does not know it, or another SuperNode uses it" in line
    assert "send site-1.pub to the coordinator" in line


def test_a_certificate_of_another_authority_is_named(tmp_path, monkeypatch):
    told: list[str] = []
    node = SuperNode(tmp_path, keyed(tmp_path), 9094, told.append)
    words = "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate (_ssl.c:1006)"
    monkeypatch.setattr(node, "_words", [sys.executable, "-c", f"print({words!r}); raise SystemExit(1)"])
    node.keep()
    node._child.wait()
    node.keep()
    [line] = told
    assert "no secure connection to link.example.org:8000 comes about: [SSL: CERTIFICATE_VERIFY_FAILED]" in line
    assert "in place of /ca.crt" in line


def test_a_superlink_that_is_not_reached_is_told_once(tmp_path, monkeypatch):
    """Flower tries for ever, and says nothing of where."""
    node = SuperNode(tmp_path, keyed(tmp_path), 9094)
    line = "WARNING: Connection attempt failed, retrying in 0.64 seconds"
    program = f"import time; [print({line!r}, flush=True) for _ in range(9)]; time.sleep(60)"
    monkeypatch.setattr(node, "_words", [sys.executable, "-c", program])
    assert node.keep() == "the SuperNode starts"
    said, patience = "", time.monotonic() + 30
    while not said and time.monotonic() < patience:
        said = node.keep()
        time.sleep(0.05)
    again = node.keep()
    node.stop()
    assert again == ""
    assert "nothing answers at link.example.org:8000 after 3 tries; the SuperNode tries on" in said


def test_a_supernode_whose_parent_was_killed_is_ended_and_nobody_else_is(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as left:
        started = psutil.Process(left.pid).create_time()
        for record, ended in (
            ({"pid": left.pid, "started": started - 5}, False),
            ({"pid": left.pid, "started": started}, True),
        ):
            (tmp_path / RECORD).write_text(json.dumps(record))
            assert end_left_over(tmp_path) is ended
            assert (left.poll() is None) is not ended
    assert not end_left_over(tmp_path)
    (tmp_path / RECORD).write_text("[")
    assert not end_left_over(tmp_path)


def test_sigterm_is_a_good_end_and_leaves_no_child(tmp_path):
    """A SuperLink that is not there is tried for ever, and ending takes no longer for it."""
    file = write_site(tmp_path / "site", 0)
    words = [sys.executable, "-m", "fedgmi", "site", "serve", str(file), "--superlink", "127.0.0.1:9", "--insecure"]
    log = tmp_path / "log"
    with (
        log.open("wb") as said,
        subprocess.Popen(words, stdout=said, stderr=said, env=os.environ | {"PYTHONUNBUFFERED": "1"}) as site,
    ):
        record, patience = tmp_path / "site" / "site" / RECORD, time.monotonic() + 120
        while not record.exists() and site.poll() is None and time.monotonic() < patience:
            time.sleep(0.1)
        child = psutil.Process(json.loads(record.read_text())["pid"])
        site.send_signal(signal.SIGTERM)
        assert site.wait(60) == 0
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    text = log.read_text()
    assert re.search(r"site-0: \d\d rows are loaded", text)
    assert "site-0: stopped" in text
    assert not (tmp_path / "site" / "site" / SECRET).exists()
