"""A post without a network: sites in this process, and what can go wrong with them, to order."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from federations import SMALL, gaussian_scenario
from fedgmi.data.rows import Client
from fedgmi.data.scenarios.truth import Scenario
from fedgmi.deploy.settings import FederationSettings, SiteSettings
from fedgmi.deploy.site.site import Site
from fedgmi.methods import METHODS
from fedgmi.methods.fedgmi.settings import UNUSED
from fedgmi.protocol.wire import Parcel


class Stopped(Exception):
    """The coordinator's machine goes down."""


Fault = Callable[[Parcel, Parcel], Parcel | None]  # (request, reply) → another reply; None: silence

SCENARIO = gaussian_scenario(6, 40, separation=4.0)
FOUR = gaussian_scenario(4, 40, separation=4.0)  # for what is tried with every method


def federation_settings(scenario: Scenario = SCENARIO, **changes: object) -> FederationSettings:
    """Small models, few exchanges."""
    schema = scenario.federation.schema
    table = {
        "name": "wards",
        "sites": len(scenario.federation.clients),
        "wait_s": 5.0,
        "deadline_s": 5.0,
        "rounds": 2,
        "rows": {"kind": "image", "shape": [1, 1, schema.n_features], "classes": ["sick", "well"]},
        "method": {
            "n_components": 3, "codewords": 6, "kmeans_rounds": 2, "calibration_steps": 1, "judge_turns": 2,
            "warm_up_rounds": 1, "personal": False,  # seven exchanges more, which `test_equals_the_run_in_process` has
        },
        "density": {"hidden": 8, "latent": 2, "likelihood": "gaussian"},
        "expert": {"hidden": 8},
        "training": {"epochs": 1, "batch_size": 10, "lr": 1e-2},
    }  # fmt: skip
    return FederationSettings.model_validate(table | changes)


def few_exchanges(scenario: Scenario = SCENARIO, **changes: object) -> FederationSettings:
    """One round, in which each step is there and none comes often: what a run costs goes by its exchanges."""
    method = {"n_components": 3, "codewords": 6, "kmeans_rounds": 1, "calibration_steps": 1, "warm_up_rounds": 1}
    method |= {"judge_turns": 1, "reference_rounds": 1, "personal": False}
    return federation_settings(scenario, rounds=1, method=method, **changes)


def settings_of(name: str = "fedgmi", scenario: Scenario = SCENARIO, **own: object) -> FederationSettings:
    """The same with another method, or other settings of its own."""
    k = {"n_components": 3} if METHODS[name].has_components else {}
    few = SMALL.get(name, {}) | ({"kmeans_rounds": 2, "calibration_steps": 1} if name == "fedgmi" else {})
    small = {key: value for key, value in few.items() if key not in UNUSED.get(own.get("preset"), ())}
    return federation_settings(scenario, method=small | k | {"name": name} | own)


def as_pictures(client: Client) -> Client:
    """Rows of a table as pictures of one line, which nobody standardises, in [0, 1]."""
    return Client(client.name, client.x.div(4).sigmoid()[:, None, None, :], client.y)


@dataclass
class LocalPost:
    """Calls in place of a network; header and payload pass through JSON and a copy, as they would there."""

    sites: dict[int, Site]
    faults: dict[str, Fault] = field(default_factory=dict)
    asked: list[tuple[str, Parcel]] = field(default_factory=list)
    replied: list[tuple[str, Parcel]] = field(default_factory=list)
    stop_after: int | None = None  # exchanges, whereupon the coordinator's machine goes down

    def nodes(self) -> Iterable[int]:
        return self.sites

    def ask(self, requests: dict[int, Parcel], deadline_s: float) -> dict[int, Parcel]:
        if self.stop_after is not None:
            self.stop_after -= 1
            if self.stop_after < 0:
                raise Stopped
        answers = {}
        for node, request in requests.items():
            site = self.sites[node]
            request = Parcel(json.loads(json.dumps(request.header)), request.payload.clone())
            self.asked.append((site.settings.name, request))
            reply: Parcel | None = site.answer(request)
            assert reply is not None
            reply = Parcel(json.loads(json.dumps(reply.header)), reply.payload.clone())
            if site.settings.name in self.faults:
                reply = self.faults[site.settings.name](request, reply)
            if reply is not None:
                self.replied.append((site.settings.name, reply))
                answers[node] = reply
        return answers


def make_sites(settings: FederationSettings, where: Path, scenario: Scenario = SCENARIO) -> dict[int, Site]:
    """One site per client, its held-out rows included."""
    sites = {}
    for i, client in enumerate(scenario.federation.clients):
        own = SiteSettings.model_validate({"name": client.name, "data": {"path": "rows.csv"}})
        held_out = as_pictures(scenario.federation.held_out[i])
        rows = (as_pictures(client), held_out, f"{i:032x}", as_pictures(scenario.federation.validation[i]))
        sites[100 + i] = Site(own, settings, where / client.name, *rows)
    return sites


def max_difference(left: torch.Tensor, right: torch.Tensor) -> float:
    return float((left - right).abs().max())


def log_of(where: Path) -> str:
    """What the coordinator of a run under `where` has told."""
    return (where / "out" / "log.txt").read_text()


def parts_of(site: Site) -> dict[str, Any]:
    """What a site is made of, for one that is opened anew."""
    return {field.name: getattr(site, field.name) for field in fields(site) if field.init}
