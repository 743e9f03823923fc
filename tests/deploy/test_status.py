"""`fedgmi deploy status`: what the coordinator wrote, as a table, and who has gone silent."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest
from local_post import LocalPost, federation_settings
from rich.console import Console

from fedgmi import cli
from fedgmi.deploy.coordinator import status
from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.deploy.coordinator.status import SiteStatus, Status
from fedgmi.errors import UserError
from fedgmi.runs.records import Summary

NOW = 1_800_000_000.0


def site(alive: bool = True, **changes: object) -> SiteStatus:
    usual = {"last_round": 4, "last_seen": NOW - 5, "rows": 1234, "bytes_down": 2_340_000, "bytes_up": 1_500}
    return SiteStatus.model_validate({"alive": alive, "absent": 0} | usual | changes)


def standing(state: str = "running", updated: float = NOW - 5, **sites: SiteStatus) -> Status:
    about = {"name": "wards", "round": 4, "rounds": 10, "state": state, "updated": updated, "deadline_s": 60.0}
    return Status.model_validate(about | {"sites": sites})


def shown(found: Status) -> str:
    text = io.StringIO()
    status.print_status(found, Console(width=120, file=text), now=NOW)
    return text.getvalue()


def test_what_is_written_is_read(tmp_path):
    found = standing(north=site(), south=site(False, note="late"))
    status.write(tmp_path, found)
    assert status.read(tmp_path) == found


def test_the_table_shows_who_is_alive_and_what_they_sent():
    lines = shown(standing(north=site(), south=site(False, absent=2, note="told: [NaN] in θ"))).splitlines()
    north, south = (next(line for line in lines if line.startswith(name)) for name in ("north", "south"))
    assert north.split() == ["north", "yes", "4", "5", "s", "ago", "1,234", "2.3", "MB", "1.5", "kB", "0"]
    assert south.split()[:3] == ["south", "no", "4"]
    assert south.endswith("2")
    assert "south: told: [NaN] in θ" in lines
    assert "wards: running, round 4 of 10, 1 of 2 sites alive; written 5 s ago." in lines


@pytest.mark.parametrize(("state", "when"), [("running", "while the run goes on"), ("finished", "at the end")])
def test_a_site_that_is_connected_and_answers_nothing_of_use_is_trouble(state, when):
    """It stood as alive, and the code was 0."""
    south = site(note="its own limits do not allow it").model_copy(update={"missing": True})
    found = standing(state, north=site(), south=south)
    assert next(line for line in shown(found).splitlines() if line.startswith("south")).split()[1] == "absent"
    assert when in status.trouble(found, now=NOW)
    assert "south" in status.trouble(found, now=NOW)
    assert not status.trouble(standing(state, north=site(), south=site(note="long ago")), now=NOW)


def test_a_note_has_a_line_of_its_own_however_long_it_is():
    """It had a column of ten characters over twenty lines."""
    why = "the coordinator's federation.toml is another than this site's. " * 4
    found = standing("waiting", north=site(note=why)).model_copy(update={"turned_away": (f"node 7: {why}",)})
    lines = shown(found).splitlines()
    assert f"north: {why.strip()}" in lines
    assert f"not let in: node 7: {why.strip()}" in lines


def test_nodes_that_are_not_let_in_are_trouble_while_sites_are_waited_for():
    found = standing("waiting").model_copy(update={"turned_away": ("node 7: it is another",)})
    assert status.trouble(found, now=NOW)
    assert not status.trouble(standing("waiting"), now=NOW)


@pytest.mark.parametrize(
    ("state", "there", "waited", "trouble"),
    [
        ("waiting", 0, 0.0, False),  # an older fedgmi does not say since when
        ("waiting", 0, 59.0, False),
        ("waiting", 0, 61.0, True),
        ("waiting", 1, 61.0, False),
        ("running", 2, 0.0, True),
        ("running", 3, 0.0, False),
        ("finished", 0, 0.0, False),
    ],
)
def test_sites_that_never_came_are_counted_and_are_trouble_where_they_are_missed(state, there, waited, trouble):
    sites = {f"site-{i}": site() for i in range(there)}
    more = {"expected": 3, "waiting_since": NOW - waited if waited else 0.0}
    found = standing(state, **sites).model_copy(update=more)
    assert bool(status.trouble(found, now=NOW)) is trouble
    never = f", {3 - there} never came" if there < 3 else ""
    assert f"round 4 of 10, {there} of 3 sites alive{never}; written" in shown(found)


def test_a_site_that_is_known_and_away_is_none_that_came_to_a_run_that_waits():
    found = standing("waiting", north=site(False)).model_copy(update={"waiting_since": NOW - 61})
    assert status.trouble(found, now=NOW)


def test_a_coordinator_that_nobody_comes_to_says_since_when_it_waits_and_for_how_many(tmp_path, monkeypatch):
    written: list[Status] = []
    monkeypatch.setattr(status, "write", lambda out, found: written.append(found))
    began = time.time()
    with pytest.raises(UserError, match="0 of 6 sites came"):
        Coordinator(federation_settings(wait_s=0.1), LocalPost({}), tmp_path, echo=lambda line: None).run()
    waiting = [found for found in written if found.state == "waiting"]
    assert waiting
    assert {found.expected for found in written} == {6}
    assert {found.waiting_since for found in waiting} == {waiting[0].waiting_since}
    assert began <= waiting[0].waiting_since <= time.time()
    assert status.trouble(waiting[-1], now=began + status.SOON_S + 5)


def test_a_site_that_never_answered_has_no_last_round():
    assert "never" in shown(standing(east=site(last_round=-1, last_seen=0.0)))


@pytest.mark.parametrize(
    ("state", "age", "gone"),
    [("running", 61, True), ("waiting", 61, True), ("running", 59, False), ("finished", 9e5, False)],
)
def test_a_coordinator_that_is_silent_beyond_the_deadline_is_probably_gone(state, age, gone):
    assert ("probably gone" in shown(standing(state, NOW - age, north=site()))) is gone


def test_before_any_site_has_come_there_is_an_empty_table():
    assert "0 of 0 sites alive" in shown(standing("waiting"))


def test_a_folder_without_status_is_told_so(tmp_path):
    with pytest.raises(UserError, match="no deployment writes its status there"):
        status.read(tmp_path)
    with pytest.raises(UserError, match="no deployment writes its status there"):
        status.read(tmp_path / "nowhere")


def test_a_broken_status_is_told_so(tmp_path):
    path = tmp_path / status.STATUS
    whole = standing(north=site()).model_dump()
    for text in ('{"name": ', "[]", json.dumps({"name": "wards"}), json.dumps(whole | {"state": "asleep"})):
        path.write_text(text)
        with pytest.raises(UserError, match=r"status\.json: "):
            status.read(tmp_path)


def test_the_command_prints_it(tmp_path, capsys):
    status.write(tmp_path, standing(north=site()))
    with pytest.raises(SystemExit) as raised:
        cli.main(["deploy", "status", str(tmp_path)])
    assert not raised.value.code
    assert "round 4 of 10" in " ".join(capsys.readouterr().out.split())


def test_the_command_fails_with_one_message(tmp_path, capsys):
    with pytest.raises(SystemExit) as raised:
        cli.main(["deploy", "status", str(Path(tmp_path))])
    assert raised.value.code == 2
    assert capsys.readouterr().err.count("error:") == 1


def test_a_report_of_a_deployment_that_goes_on_says_where_it_stands(tmp_path):
    status.write(tmp_path, standing())
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(UserError, match=r"is not finished\. Likely fix: see where it stands: fedgmi deploy status"):
        Summary.read(tmp_path)


def test_an_exit_code_has_its_reason(tmp_path, capsys):
    """`--strict` ended with 1 and said nothing."""
    now = time.time()
    running = {"updated": now, "expected": 3}
    cases = {
        "2 of 3 sites alive while the run goes on (1 never came)": standing(north=site(), south=site()),
        "1 of 3 sites alive while the run goes on (away: south; 1 never came)": standing(
            north=site(), south=site(False)
        ),
        "the run has failed": standing("failed"),
        "no site has come in 2 min": standing("waiting").model_copy(update={"waiting_since": now - 130}),
    }
    for why, found in cases.items():
        status.write(tmp_path, found.model_copy(update=running))
        with pytest.raises(SystemExit) as raised:
            cli.main(["deploy", "status", str(tmp_path), "--strict"])
        assert raised.value.code == 1
        assert capsys.readouterr().err == f"exit code 1: {why}\n"
