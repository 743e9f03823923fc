"""How good a predictor is on rows held out is an exact function of these: who is told, and of which predictor."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from hostile import Hostile
from local_post import LocalPost, federation_settings, make_sites
from test_coordinator import settings_of

from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.deploy.settings import FederationSettings, tells_metrics
from fedgmi.deploy.site.site import Site
from fedgmi.protocol.wire import unpack

SMALL = {"name": "fedgmi", "preset": "sketch", "n_components": 3, "codewords": 6, "kmeans_rounds": 1, "personal": False}


def told(site: Site, settings: FederationSettings, answered: int) -> set[str]:
    """The names of what a site tells of a predictor after it has answered the step of one round."""
    hostile, leaves = Hostile(site), {"expert": torch.zeros(1, 90)}
    assert hostile.step("train", 0, leaves, round=answered), hostile.errors
    reply = hostile.ask(hostile.header("finish", round=settings.rounds + 1, id=0, base=None, diagnosis=None), leaves)
    assert reply is not None
    return set(unpack(reply).replies)


def test_no_run_without_steps_counts_rows_held_out(tmp_path):
    """A predictor that always says class 1 told how many rows of it are held out: under masks and noise, too."""
    settings = federation_settings(method=SMALL | {"epsilon": 1.0}, rounds=1)
    sites = make_sites(settings, tmp_path / "sites")
    told = Coordinator(settings, LocalPost(sites), tmp_path / "out", echo=lambda line: None).run()
    assert told["metrics"] is None, "noise covers no metrics, and they stay"
    results = sites[100].where / "results"
    assert json.loads((results / "metrics.json").read_text())["metrics"]["accuracy"] > 0
    kept = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    hostile = Hostile(sites[100])
    header = hostile.header("finish", run="a" * 16, round=2, id=0, base=None, diagnosis=None)
    assert hostile.ask(header, {"expert": torch.zeros(3, 90)}) is None
    assert "no step of this run was answered here" in hostile.errors[-1]
    assert {path: path.read_bytes() for path in results.rglob("*") if path.is_file()} == kept


@pytest.mark.parametrize(("own", "answered", "n"), [(None, 2, True), (None, 1, False), (False, 2, False)])
def test_metrics_are_told_by_who_answered_the_last_round_and_tells_them(tmp_path, own, answered, n):
    settings = settings_of("fedavg")
    site = make_sites(settings, tmp_path)[100]
    site = replace(site, settings=site.settings.model_copy(update={"tell_metrics": own}))
    found = told(site, settings, answered)
    assert ("accuracy" in found) is n
    assert n or not found
    assert json.loads((site.where / "results" / "metrics.json").read_text())["metrics"], "its own eyes see them"
    [line] = [line for line in site.audit().lines() if line["name"] == "finish"]
    assert bool(line["tells"]) is n


def test_where_noise_is_asked_for_a_site_has_to_say_that_it_tells_metrics(tmp_path):
    noisy, exact = (federation_settings(method=SMALL | {"epsilon": epsilon}) for epsilon in (1.0, None))
    site = make_sites(exact, tmp_path)[100].settings
    assert tells_metrics(site, exact)
    assert not tells_metrics(site, noisy)
    assert tells_metrics(site.model_copy(update={"tell_metrics": True}), noisy)
