"""Requests with random damage, as a site gets them: a line, or an answer. The honest request is answered as ever."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import cheap, damaged, damaged_bytes, text_of
from local_post import LocalPost, few_exchanges, make_sites

from federations import gaussian_scenario
from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.deploy.site.site import Site
from fedgmi.protocol.wire import Parcel, hash_of, to_tensor

CASES = 150
SCENARIO = gaussian_scenario(3, 40, separation=4.0)
PLACE = "kind", "round", "step"
COMMUNICATION = ({"precision": 4}, {"secure": "masks"})


@dataclass(frozen=True)
class Asked:
    """A request as a coordinator sent it, what the site answered, and the site with its folder as it was before."""

    site: Site
    request: Parcel
    reply: Parcel

    def again(self) -> Site:
        """The site in a folder of its own, as it was before the request."""
        where = self.site.where.with_name("now")
        shutil.rmtree(where, ignore_errors=True)
        shutil.copytree(self.site.where, where)
        return replace(self.site, where=where)


@pytest.fixture(scope="module", params=COMMUNICATION, ids=["4 bits", "masks"])
def every(request, tmp_path_factory) -> Iterator[list[Asked]]:
    """What one site is asked in a run: its greeting, and each step of the program once."""
    where = tmp_path_factory.mktemp("requests")
    settings = few_exchanges(SCENARIO, communication=request.param)
    found: dict[str, Asked] = {}

    class Watched(LocalPost):
        def ask(self, requests: dict[int, Parcel], deadline_s: float) -> dict[int, Parcel]:
            site, asked = self.sites[100], requests.get(100)
            key = "" if asked is None else " ".join(map(str, (*map(asked.header.get, PLACE), _ask_of(asked))))
            if asked is None or key in found:
                return super().ask(requests, deadline_s)
            before = where / f"before {len(found)}" / "site"
            site.where.mkdir(parents=True, exist_ok=True)
            shutil.copytree(site.where, before)
            answers = super().ask(requests, deadline_s)
            header = json.loads(json.dumps(asked.header))
            found[key] = Asked(replace(site, where=before), Parcel(header, asked.payload), answers[100])
            return answers

    sites = make_sites(settings, where / "sites", SCENARIO)
    Coordinator(settings, Watched(sites), where / "out", echo=lambda line: None).run()
    yield list(found.values())
    shutil.rmtree(where)


def _ask_of(request: Parcel) -> str:
    masks = request.header.get("masks")
    return str(masks.get("ask")) if isinstance(masks, dict) else ""


def spoilt(request: Parcel, draws: random.Random) -> Parcel | None:
    """Another header, other bytes, or both; None where the bridge to Flower would not let it through."""
    how = draws.randrange(4)
    header: Any = request.header if how == 0 else damaged(request.header, draws)
    payload = request.payload.numpy().tobytes()
    if how in (0, 3):
        payload = damaged_bytes(payload or b"\x00", draws)
        header = header | {"hash": hash_of(payload)} if isinstance(header, dict) and "hash" in header else header
    try:
        read_again = json.loads(text_of(header))
    except (ValueError, RecursionError):
        return None
    if not isinstance(read_again, dict):
        return None
    return Parcel(read_again, to_tensor([payload]))


def same(asked: Asked, now: Parcel) -> bool:
    """Whether the site answers as it did. Keys and what seals shares are drawn for each answer; a site made anew has
    another secret, and so another token."""
    if asked.request.header["kind"] == "masks":
        return now.header.keys() == asked.reply.header.keys()
    ours, theirs = (json.loads(json.dumps(reply.header)) | {"token": ""} for reply in (now, asked.reply))
    return ours == theirs and torch.equal(now.payload, asked.reply.payload)


def test_requests(every):
    """A refusal changes nothing for the honest request that follows."""
    answered = refused = 0
    with cheap() as case:
        for place, at in enumerate(every):
            site = at.again()
            for seed in range(place, CASES, len(every)):
                case()
                bad = spoilt(at.request, random.Random(seed))
                if bad is None:
                    continue
                reply = site.answer(bad)
                error = reply.header.get("error")
                if error is None:
                    answered, site = answered + 1, at.again()
                    continue
                assert isinstance(error, str)
                assert error.isprintable()
                refused += 1
            assert same(at, site.answer(at.request)), f"{at.request.header['kind']} {at.request.header.get('step')}"
    assert refused > CASES / 4
    assert answered > CASES / 100


def test_what_is_written_stays_small(every):
    """A site's folder does not grow with what is refused beyond lines of its logs."""
    at = every[-1]
    site = at.again()
    before = _size(site.where)
    for seed in range(50):
        bad = spoilt(at.request, random.Random(10_000 + seed))
        if bad is not None and site.answer(bad).header.get("error") is None:
            site = at.again()
    assert _size(site.where) - before < 2_000_000


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
