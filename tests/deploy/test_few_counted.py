"""Components are made of the sites' histograms: where some are missing it is told, and too few of them are no run."""

from __future__ import annotations

import io
import json

import pytest
from local_post import LocalPost, federation_settings, make_sites
from rich.console import Console

from federations import gaussian_scenario
from fedgmi.deploy.coordinator import status
from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.deploy.settings import FederationSettings
from fedgmi.errors import UserError
from fedgmi.protocol.wire import Parcel
from fedgmi.report import picture
from fedgmi.report.numbers import beware
from fedgmi.report.tables import print_report
from fedgmi.runs.records import Status, Summary

SCENARIO = gaussian_scenario(3, 40, separation=4.0)
OWN = {"n_components": 2, "codewords": 6, "kmeans_rounds": 2, "preset": "sketch", "personal": False}
WAYS = {
    "plain": {},
    "noise": {"method": OWN | {"epsilon": 2.0}},
    "masks": {"communication": {"secure": "masks"}},
    "both": {"method": OWN | {"epsilon": 2.0}, "communication": {"secure": "masks"}},
}


def federation(way: str) -> FederationSettings:
    table = federation_settings(SCENARIO, method=OWN).model_dump(exclude_unset=True)
    return FederationSettings.model_validate(table | {"wait_s": 0.2} | WAYS[way])


def without_histogram(settings: FederationSettings):
    steps = settings.setup().method().program.prepare

    def fault(request: Parcel, reply: Parcel) -> Parcel:
        asked = request.header
        counts = asked["kind"] == "step" and asked["round"] == 0 and steps[asked["step"]].counts
        return Parcel({"error": "its own limits do not allow it"}) if counts else reply

    return fault


def run(way: str, where, silent: tuple[str, ...]):
    settings, lines = federation(way), list[str]()
    faults = dict.fromkeys(silent, without_histogram(settings))
    post = LocalPost(make_sites(settings, where / "sites", SCENARIO), faults)
    return Coordinator(settings, post, where / "out", echo=lines.append), lines


@pytest.mark.parametrize("way", WAYS)
def test_components_without_a_site_s_histogram_are_told_as_such(tmp_path, way):
    coordinator, lines = run(way, tmp_path, ("client-01",))
    summary = coordinator.run()
    told = "components come from the histograms of 2 of 3 sites, without client-01"
    assert sum(told in line for line in lines) == 1
    assert status.read(tmp_path / "out").note == told
    assert summary["counted"] == ["client-00", "client-02"]
    console = Console(width=200, record=True, file=io.StringIO())
    print_report(Summary.read(tmp_path / "out").to_json(), tmp_path / "out", console)
    assert "Components come from the histograms of 2 of 3 sites: client-00 and client-02." in console.export_text()


@pytest.mark.parametrize("way", WAYS)
def test_fewer_histograms_than_components_are_no_run(tmp_path, way):
    """They gave proportions of exactly a half each, and nobody was told."""
    coordinator, lines = run(way, tmp_path, ("client-01", "client-02"))
    why = "histograms came from 1 of 3 sites, and 2 components cannot be told apart by fewer than 2"
    with pytest.raises(UserError, match=why):
        coordinator.run()
    assert sum(why in line for line in lines) == 2, "when it is found, and when patience ends"
    assert json.loads((tmp_path / "out" / "status.json").read_text())["state"] == "failed"


@pytest.mark.parametrize(("asked", "told"), [(4, True), (3, False)])
def test_more_components_than_sites_are_told_in_log_and_report(tmp_path, asked, told):
    """With the likely fix, as `fedgmi deploy check` has it, and among the notes of status.json."""
    settings = federation_settings(SCENARIO, method=OWN | {"n_components": asked})
    lines = list[str]()
    post = LocalPost(make_sites(settings, tmp_path / "sites", SCENARIO))
    Coordinator(settings, post, tmp_path / "out", echo=lines.append).run()
    said = "4 components cannot be told apart from 3 clients: their proportions are made up."
    fix = "their proportions are made up. Likely fix: set method.n_components to the number of sites, 3, or less."
    assert sum(f"4 components cannot be told apart from 3 sites: {fix}" in line for line in lines) == told
    assert ("Likely fix: set method.n_components" in Status.read(tmp_path / "out").note) == told
    summary = Summary.read(tmp_path / "out").to_json()
    console = Console(width=200, record=True, file=io.StringIO())
    print_report(summary, tmp_path / "out", console)
    assert (said in console.export_text()) == told
    assert (said in picture.words(summary)["How to read it"]) == told


def test_a_method_without_components_has_not_too_many(tmp_path):
    scenario = gaussian_scenario(1, 20, n_components=1)
    settings = federation_settings(scenario, method={"name": "fedavg"})
    lines = list[str]()
    post = LocalPost(make_sites(settings, tmp_path / "sites", scenario))
    summary = Coordinator(settings, post, tmp_path / "out", echo=lines.append).run()
    assert beware(summary) == []
    assert not any("told apart" in line for line in lines)


def test_a_site_that_answers_later_is_in(tmp_path):
    """Sites are asked again while there are too few, and what was asked before is no other request."""
    coordinator, _ = run("plain", tmp_path, ("client-01", "client-02"))
    coordinator.settings = coordinator.settings.model_copy(update={"wait_s": 5.0})
    fault, times = coordinator.post.faults["client-01"], list[int]()

    def twice(request: Parcel, reply: Parcel) -> Parcel:
        found = fault(request, reply)
        times.extend([1] * (found is not reply))
        return reply if len(times) > 2 else found

    coordinator.post.faults = dict.fromkeys(("client-01", "client-02"), twice)
    assert coordinator.run()["counted"] == ["client-00", "client-01", "client-02"]


def test_a_run_with_all_histograms_says_nothing(tmp_path):
    coordinator, lines = run("plain", tmp_path, ())
    assert coordinator.run()["counted"] == ["client-00", "client-01", "client-02"]
    assert not any("histograms of" in line for line in lines)
    assert status.read(tmp_path / "out").note == ""
