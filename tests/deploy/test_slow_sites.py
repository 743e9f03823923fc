"""Sites that say that they make a part of their local steps: the stragglers of the simulation, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from local_post import SCENARIO, LocalPost, as_pictures, federation_settings, make_sites
from tables import write_site

from federations import SMALL
from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.deploy.settings import FederationSettings, SiteSettings, read
from fedgmi.errors import ConfigError
from fedgmi.methods import METHODS
from fedgmi.methods.disclosing import disclosing
from fedgmi.models.stragglers import parts_done
from fedgmi.protocol import in_process
from fedgmi.protocol.rounds import Progress, run_rounds
from fedgmi.storage import checkpoint
from fedgmi.tree import Tree

SHARE = 0.5
TRAINING = {"epochs": 4, "batch_size": 10, "lr": 1e-2}


def settings_for(name: str) -> FederationSettings:
    k = {"n_components": 3} if METHODS[name].has_components else {}
    return federation_settings(method=SMALL.get(name, {}) | k | {"name": name}, rounds=1, training=TRAINING)


def deployed(settings: FederationSettings, where: Path, parts: list[float]) -> Tree:
    """The server's state after a run over sites that make these parts of their steps."""
    sites = {
        node: replace(site, settings=site.settings.model_copy(update={"part_of_steps": part}))
        for (node, site), part in zip(make_sites(settings, where / "sites").items(), parts, strict=True)
    }
    Coordinator(settings, LocalPost(sites), where / "out", echo=lambda line: None).run()
    found = checkpoint.load(where / "out" / "checkpoints", settings.method.name, digest=settings.digest())
    assert found is not None
    return found.server


def simulated(settings: FederationSettings, share: float) -> Tree:
    """The server's state after the same run in one process, with stragglers."""
    setup = settings.setup()
    training = setup.config.training.model_copy(update={"stragglers": share})
    setup = replace(setup, config=setup.config.model_copy(update={"training": training}))
    method = disclosing(setup.method())
    clients = tuple(as_pictures(client) for client in SCENARIO.federation.clients)
    held = tuple(as_pictures(client) for client in SCENARIO.federation.validation)
    transport = in_process.InProcess(clients, method.program, validation=held)
    start = Progress(method.program.init())
    return run_rounds(method.name, method.program, transport, start, n_clients=6, rounds=1, seed=settings.seed).server


@pytest.mark.parametrize("name", ["fedgmi", "fedavg", "pfedme", "fedavg-ft"])
def test_a_slow_site_is_the_simulations_straggler(tmp_path, name, monkeypatch):
    """What sites have of their own at the end is trained whole on both sides."""
    monkeypatch.setattr(in_process, "chunks", lambda clients, ids: [(i,) for i in ids])  # as sites work
    settings = settings_for(name)
    parts = parts_done(SHARE, range(6), (settings.seed, 1, "any")).tolist()
    assert 1 < sum(part < 1 for part in parts) < 6
    server = deployed(settings, tmp_path / "slow", parts)
    expected = simulated(settings, SHARE)
    assert server.keys() == expected.keys()
    assert all(torch.equal(server[leaf], value) for leaf, value in expected.items())
    assert not torch.equal(server["expert"], simulated(settings, 0.0)["expert"])


def test_a_slow_site_answers_the_same_when_it_is_asked_twice(tmp_path):
    settings = settings_for("fedavg")
    once, again = (deployed(settings, tmp_path / run, [0.3] * 6) for run in ("once", "again"))
    assert torch.equal(once["expert"], again["expert"])


@pytest.mark.parametrize(("part", "bound"), [("0", "greater than 0"), ("1.5", "1 or less")])
def test_a_part_beyond_all_steps_or_of_none_is_refused(tmp_path, part, bound):
    site = write_site(tmp_path / "site", 0)
    site.write_text(f"part_of_steps = {part}\n{site.read_text()}")
    with pytest.raises(ConfigError, match=rf"part_of_steps is {part}.*, expected {bound}"):
        read(SiteSettings, site)
