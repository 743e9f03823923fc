"""One folder of a site, and two that work in it: two processes, or two runs by turns. Nothing is mixed up."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from local_post import LocalPost, federation_settings, make_sites
from test_private_sites import private

from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.deploy.settings import FederationSettings
from fedgmi.deploy.site.site import Site
from fedgmi.protocol.wire import TOKEN, Parcel

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")
METHOD = {"preset": "sketch", "n_components": 2, "codewords": 6, "kmeans_rounds": 1, "personal": False, "epsilon": 1.0}
SETTINGS = {
    "histogram with noise": federation_settings(method=METHOD, rounds=1),
    "private": private(),
}


@dataclass(frozen=True)
class Alone:
    """A run that had a site to itself: what it asked, what it was answered, and where these answers belong."""

    settings: FederationSettings
    secret: bytes
    asked: list[Parcel]
    answers: list[str]
    places: list[tuple[int, int]]

    def site(self, where: Path) -> Site:
        site = make_sites(self.settings, where)[100]
        site.where.mkdir(parents=True, exist_ok=True)
        (site.where / "secret.json").write_bytes(self.secret)
        return site


@pytest.fixture(scope="module", params=SETTINGS)
def alone(request, tmp_path_factory, no_waiting_for_the_disk) -> Alone:
    settings, where = SETTINGS[request.param], tmp_path_factory.mktemp("alone")
    sites = make_sites(settings, where / "sites")
    post = LocalPost(sites)
    Coordinator(settings, post, where / "out", echo=lambda line: None).run()
    asked = [request for name, request in post.asked if name == "client-00"]
    answers = [hash_of(reply) for name, reply in post.replied if name == "client-00"]
    return Alone(settings, (sites[100].where / "secret.json").read_bytes(), asked, answers, places(sites[100]))


def hash_of(reply: Parcel) -> str:
    assert "error" not in reply.header, reply.header
    return str(reply.header.get("hash", {key: value for key, value in reply.header.items() if key != TOKEN}))


def places(site: Site) -> list[tuple[int, int]]:
    """Where what left belongs."""
    return [(line["round"], line["number"]) for line in site.audit().lines() if line["kind"] == "step"]


def test_two_runs_by_turns_are_each_answered_as_alone(tmp_path, alone):
    site = alone.site(tmp_path)
    for request, answer in zip(alone.asked, alone.answers, strict=True):
        for run in ("a" * 16, "b" * 16):
            assert hash_of(site.answer(Parcel(request.header | {"run": run}, request.payload))) == answer
    assert site.guard().used() == 2
    assert places(site) == [place for place in alone.places for _ in range(2)]


def test_two_processes_at_once_answer_each_request_once(tmp_path, alone):
    site = alone.site(tmp_path)
    with ThreadPoolExecutor(2) as pool:
        for request, answer in zip(alone.asked, alone.answers, strict=True):
            found = pool.map(Site.answer, (site, replace(site)), (request, request))
            assert [hash_of(reply) for reply in found] == [answer, answer]
    assert site.guard().used() == 1
    assert len(site.ledger().releases()) == 1
    assert places(site) == alone.places
