"""`fedgmi deploy check` says before the run what a run would find in its results folder."""

from __future__ import annotations

import json
import time

import pytest
from clinic import federation, post_of, write_site

from fedgmi.deploy.coordinator import status
from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.deploy.settings import FederationSettings, read
from fedgmi.deploy.setup.check_results import check_results
from fedgmi.deploy.setup.init import init
from fedgmi.errors import FedgmiWarning
from fedgmi.storage import folder

ANEW = "flwr run . fedgmi --run-config 'out=\"results-2\"'"


@pytest.fixture
def app(tmp_path):
    where = tmp_path / "wards"
    init(where, sites=3)
    (where / "federation.toml").write_text(federation(rounds=1))
    return where


def settings(app) -> FederationSettings:
    return read(FederationSettings, app / "federation.toml")


def run(app):
    """The run to its end → what sites were asked."""
    sites = [app.parent / f"site-{i}" for i in range(3)]
    paths = [write_site(site, i, (app / "federation.toml").read_text()) for i, site in enumerate(sites)]
    post = post_of(*paths)
    Coordinator(settings(app), post, app / "results", echo=lambda line: None).run()
    return {request.header["kind"] for _, request in post.asked}


def test_a_folder_that_is_not_there_is_begun_in_and_not_made(app):
    assert check_results(app, settings(app)) == "results: no results yet, a run begins there"
    assert not (app / "results").exists()
    text = (app / "pyproject.toml").read_text()
    (app / "pyproject.toml").write_text(text.replace('out = "results"', 'out = "elsewhere"'))
    assert check_results(app, settings(app)).startswith("elsewhere: ")


def test_a_finished_run_is_told_before_it_is_asked_for_once_more(app):
    assert "step" in run(app)
    with pytest.warns(FedgmiWarning, match=r"finished run of these settings.* would train nothing more") as told:
        check_results(app, settings(app))
    assert ANEW in str(told[0].message)
    assert run(app) == {"hello", "finish"}, "what is told is what happens"
    (app / "results-2").mkdir()
    with pytest.warns(FedgmiWarning, match="results-3"):
        check_results(app, settings(app))


def test_an_unfinished_run_is_gone_on_with(app):
    run(app)
    (app / "results" / folder.SUMMARY).unlink()
    assert (
        check_results(app, settings(app))
        == f"results: flwr run goes on there after round 1 of 1. For a run from the beginning: {ANEW}"
    )


def test_a_run_of_other_settings_is_refused_with_what_to_do(app):
    run(app)
    (app / "federation.toml").write_text(federation(rounds=3))
    with pytest.warns(FedgmiWarning, match="would be refused there.*belongs to another configuration") as told:
        check_results(app, settings(app))
    assert "or give another folder with --run-config 'out=\"results-2\"'" in str(told[0].message)


def test_what_is_no_run_is_refused(app):
    (app / "results").mkdir()
    (app / "results" / folder.DIAGNOSIS).write_text("{}")
    with pytest.warns(FedgmiWarning, match="would be refused there.*already holds a diagnosis"):
        check_results(app, settings(app))


def test_a_run_that_goes_on_is_left_alone(app):
    (app / "results").mkdir()
    found = {"name": "clinics", "round": 1, "rounds": 2, "state": "running", "updated": time.time(), "sites": {}}
    status.write(app / "results", status.Status(**found, deadline_s=600))
    assert check_results(app, settings(app)).startswith("results: a run goes on there (running)")
    old = json.loads((app / "results" / status.STATUS).read_text()) | {"updated": 1.0}
    (app / "results" / status.STATUS).write_text(json.dumps(old))
    assert "goes on there (" not in check_results(app, settings(app))
