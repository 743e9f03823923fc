"""A file that changes in mid-run: the run goes on with the rows that it began with, and one line says so."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import torch
from clinic import federation, reopening, settings_of, write_site

from fedgmi import __version__
from fedgmi.data.rows import Client
from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.deploy.site import snapshot
from fedgmi.deploy.site.snapshot import Snapshot
from fedgmi.errors import CheckpointError
from fedgmi.flower_app import open_site
from fedgmi.protocol import wire
from fedgmi.protocol.wire import Parcel
from fedgmi.storage import tensors as store


def run(where: Path, before=lambda request: None):
    """Three sites, their messages answered by what lies on disk when they come."""
    sites = [where / f"site-{i}" / "site.toml" for i in range(3)]
    for i, site in enumerate(sites):
        if not site.exists():
            write_site(site.parent, i, federation(rounds=1))
    post = reopening(*sites, before=before)
    return Coordinator(settings_of(sites[0]), post, where / "out", echo=lambda line: None).run()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return run(tmp_path_factory.mktemp("quiet"))


def appended(path: Path) -> None:
    path.write_text(path.read_text() + "P9999,50,f,A,120,ill\n" * 5)


def altered(path: Path) -> None:
    path.write_text(path.read_text().replace("P0000,", "P0000,9"))


def broken(path: Path) -> None:
    path.write_text(path.read_text().replace(",ill", ",sick"))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (appended, "the rows have changed (65 now)"),
        (altered, "the rows have changed (60 now)"),
        (broken, "the rows cannot be used any more"),
    ],
)
def test_a_file_that_changes_in_mid_run(tmp_path, undisturbed, change, line):
    """Nothing of the result changes, nobody is absent, and one line tells; the next run has the rows of that time."""
    rows = tmp_path / "site-1" / "rows.csv"

    def before(request: Parcel) -> None:
        if request.header.get("round") == 1 and not (tmp_path / "done").exists():
            (tmp_path / "done").touch()
            change(rows)

    found = run(tmp_path, before)
    assert (tmp_path / "done").exists()
    assert found["proportions"] == undisturbed["proportions"]
    assert found["rounds_absent"] == [0, 0, 0]
    log = (tmp_path / "site-1" / "site" / "log.txt").read_text()
    assert log.count(line) == 1
    assert len(log.splitlines()) == 1
    assert not (tmp_path / "site-0" / "site" / "log.txt").exists()


def test_the_next_run_begins_with_the_rows_of_its_time(tmp_path):
    path = write_site(tmp_path / "site-1", 1, federation())
    settings = settings_of(path)

    def rows(run: str) -> int:
        hello = wire.request("hello", version=__version__, federation=settings.digest(), run=run, attempt="0")
        reply = open_site(str(path), run).answer(Parcel(hello)).header
        return int(reply["rows"]) + int(reply["held_out"])

    first, second = "00" * 8, "11" * 8
    before = rows(first)
    appended(tmp_path / "site-1" / "rows.csv")
    assert rows(first) == before
    assert before < rows(second) <= before + 5  # some of them are for validation
    assert len((tmp_path / "site-1" / "site" / "log.txt").read_text().splitlines()) == 1


ROWS = Snapshot(
    Client("a", torch.tensor([[1.0, torch.nan]]), torch.tensor([1])), None, Client("a", torch.ones(2, 2)), "00ff"
)


def test_what_is_kept_is_read_and_is_for_the_owner_alone(tmp_path):
    assert snapshot.digest_of(tmp_path) is None
    snapshot.keep(tmp_path, ROWS)
    assert snapshot.digest_of(tmp_path) == "00ff"
    assert snapshot.load(tmp_path) == ROWS
    for name in (snapshot.ROWS, snapshot.TENSORS):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_a_snapshot_that_was_changed_is_refused(tmp_path):
    snapshot.keep(tmp_path, ROWS)
    payload = (tmp_path / snapshot.TENSORS).read_bytes()
    (tmp_path / snapshot.TENSORS).write_bytes(payload[:-1] + bytes([payload[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="its hash differs"):
        snapshot.load(tmp_path)
    store.save(tmp_path / snapshot.ROWS, {}, {"digest": "1"}, file=snapshot.TENSORS)
    (tmp_path / snapshot.ROWS).write_text((tmp_path / snapshot.ROWS).read_text().replace('"1"', '"2"'))
    with pytest.raises(CheckpointError, match="its check differs"):
        snapshot.digest_of(tmp_path)


@pytest.mark.parametrize("name", [None, 7, "../../etc", "0123456789abcdeg", "01234567"])
def test_a_run_that_has_not_begun_here_has_none(tmp_path, name):
    assert snapshot.of_run(tmp_path, name) is None
