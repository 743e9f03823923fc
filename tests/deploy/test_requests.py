"""Requests that cannot be: a site says what is wrong with them, and that the coordinator sent it, and loses nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from local_post import LocalPost, make_sites
from test_coded_sites import settings_with

from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.deploy.site.memory import Memory
from fedgmi.deploy.site.site import Site
from fedgmi.protocol.blocks import cut
from fedgmi.protocol.wire import Parcel


@pytest.fixture(scope="module")
def after_a_run(tmp_path_factory) -> tuple[Site, Parcel]:
    """A site, and the last request that it was sent for a step."""
    where = tmp_path_factory.mktemp("run")
    settings = settings_with("fedavg", {})
    post = LocalPost(make_sites(settings, where / "sites"))
    Coordinator(settings, post, where / "out", echo=lambda line: None).run()
    asked = [request for name, request in post.asked if name == "client-00" and request.header["kind"] == "step"]
    return post.sites[100], asked[-1]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"round": -1}, "the request has round = -1, expected 0 to 4"),
        ({"round": 5}, "the request has round = 5, expected 0 to 4"),
        ({"round": True}, "the request has round = True"),
        ({"round": 10**30}, "the request has round = 1000"),
        ({"number": -1}, "the request has number = -1, expected 0 to 9999"),
        ({"step": 1}, "the request has step = 1, expected 0 to 0"),
        ({"id": 6}, "the request has id = 6, expected 0 to 5"),
        ({"base": [3, 0]}, r"the request builds on exchange [3, 0], expected an earlier one than [3, 0]"),
        ({"base": "x"}, "the request builds on exchange 'x'"),
        ({"base": [-1, 0]}, "the request builds on exchange [-1, 0]"),
    ],
)
def test_a_request_that_belongs_nowhere_is_refused_and_changes_nothing(after_a_run, said, why):
    site, request = after_a_run
    memory = Memory(site.where / "runs" / request.header["run"])
    before = memory.exchanges()
    assert why in site.answer(replace(request, header=request.header | said)).header["error"]
    assert memory.exchanges() == before
    assert "error" not in site.answer(request).header


def with_expert(request: Parcel, expert: torch.Tensor) -> Parcel:
    """The same request, another model."""
    header = {name: value for name, value in request.header.items() if name not in ("layout", "sent", "sizes")}
    return cut({"expert": expert}).parcel(header)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda expert: expert[:, :-1], "the coordinator sent 'expert' as float32 [1, 89], expected float32 [1, 90]"),
        (lambda expert: expert.double(), "the coordinator sent 'expert' as float64 [1, 90], expected float32 [1, 90]"),
        (lambda expert: expert * torch.nan, "the coordinator sent 'expert', and 90 of its numbers are NaN or infinite"),
        (lambda expert: expert / 0.0, "the coordinator sent 'expert', and 90 of its numbers are NaN or infinite"),
    ],
)
def test_a_model_that_cannot_be_is_the_coordinator_s(after_a_run, change, why):
    """It is no divergence of the site's own training."""
    site, request = after_a_run
    reply = site.answer(with_expert(request, change(torch.ones(1, 90))))
    assert reply.header["error"] == why
    assert "diverged" not in reply.header
    assert why in (site.where / "log.txt").read_text()


def test_the_same_model_by_other_hands_is_taken(after_a_run):
    site, request = after_a_run
    assert "error" not in site.answer(with_expert(request, torch.ones(1, 90))).header
