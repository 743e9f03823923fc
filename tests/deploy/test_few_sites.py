"""Federations of one, two and three sites: they run, and next to nothing is asked without effect."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from local_post import LocalPost, as_pictures, federation_settings, make_sites

from federations import gaussian_scenario
from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.methods.disclosing import disclosing
from fedgmi.protocol.in_process import InProcess
from fedgmi.protocol.rounds import Progress, run_rounds
from fedgmi.protocol.step import Step
from fedgmi.tree import Tree

OWN = {
    "n_components": 2,
    "codewords": 6,
    "kmeans_rounds": 2,
    "calibration_steps": 2,
    "judge_turns": 2,
    "warm_up_rounds": 1,
}


def small(n_sites: int, **own: object):
    """Of so many sites with 60 rows, of two kinds."""
    scenario = gaussian_scenario(n_sites, 60, separation=4.0)
    few = {key: value for key, value in OWN.items() if key != "judge_turns" or own.get("judges") != "density"}
    return scenario, federation_settings(scenario, method=few | own)


@pytest.mark.parametrize("n_sites", [1, 2, 3])
def test_so_few_sites_run(tmp_path, n_sites):
    scenario, settings = small(n_sites, personal=False)
    post = LocalPost(make_sites(settings, tmp_path / "sites", scenario))
    summary = Coordinator(settings, post, tmp_path / "out", echo=lambda line: None).run()
    found = torch.tensor(summary["proportions"])
    assert found.shape == (n_sites, 2)
    assert torch.allclose(found.sum(1), torch.ones(n_sites), atol=1e-4)
    assert summary["rounds_absent"] == [0] * n_sites
    asked = [request.header for name, request in post.asked if name == "client-00" and request.header["kind"] == "step"]
    steps = settings.setup().method().program.finish
    ends = [steps[header["step"]].name for header in asked if header["round"] == 3 and header["step"] < len(steps)]
    assert ("calibrate gate" in ends) == ("switch" in ends) == (n_sites > 1)


def without_effect(n_clients: int, **own: object) -> list[str]:
    """Which exchanges left the server's state and those of all clients as they were."""
    scenario, settings = small(n_clients, **own)
    method, idle = disclosing(settings.setup().method()), []

    def same(left: Tree, right: Tree) -> bool:
        return left.keys() == right.keys() and all(torch.equal(leaf, right[name]) for name, leaf in left.items())

    def watched(step: Step) -> Step:
        stays: list[bool] = []

        def client(server: Tree, states: Tree, *rest: object):
            after, message = step.client(server, states, *rest)
            stays.append(same(states, after))
            return after, message

        def take(server: Tree, *rest: object) -> Tree:
            after = step.server(server, *rest)
            if all(stays) and same(server, after):
                idle.append(step.name)
            stays.clear()
            return after

        return replace(step, client=client, server=take)

    program, made = method.program, dict[int, Step]()

    def every(steps: tuple[Step, ...]) -> tuple[Step, ...]:
        return tuple(made.setdefault(id(step), watched(step)) for step in steps)

    program = replace(program, prepare=every(program.prepare), round=every(program.round), finish=every(program.finish))
    clients = tuple(as_pictures(client) for client in scenario.federation.clients)
    held = tuple(as_pictures(client) for client in scenario.federation.validation)
    start = Progress(program.init())
    transport = InProcess(clients, program, validation=held)
    run_rounds(method.name, program, transport, start, n_clients=n_clients, rounds=2, participation=1.0, seed=0)
    return idle


@pytest.mark.parametrize(("n_clients", "judges"), [(1, "closed"), (2, "closed"), (3, "closed"), (2, "density")])
def test_nothing_to_speak_of_is_asked_without_effect(n_clients, judges):
    """A temperature of 1, or shares that have settled, may come out as they were. Before, one client was asked ten
    times for what a gate of two or more would learn from."""
    idle = without_effect(n_clients, judges=judges)
    assert len(idle) <= 2, idle
    assert not {"gate shares", "calibrate gate", "switch", "judges", "calibrate", "scale evidence"} & set(idle)
