"""FL+HC: a literal version of its rule, and clients that were away when the clusters were formed."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from federations import make_task, run, transport_for
from fedgmi.data.rows import pack
from fedgmi.errors import ConfigError
from fedgmi.methods import METHODS
from fedgmi.methods.baselines.clusters import UNKNOWN
from fedgmi.runs import config
from literal import EVERYONE, SIZES, exchange, ragged_scenario, run_rounds, start_of, train_alone, weighted_mean

SCENARIO = ragged_scenario()
CLIENTS = SCENARIO.federation.clients
N = len(CLIENTS)


def task(n_components: int = 2, joint_rounds: int = 1, distance_threshold: float | None = None):
    own = {"joint_rounds": joint_rounds, "distance_threshold": distance_threshold}
    return make_task(SCENARIO.federation.schema, n_components, method="flhc", **own)


def update(i: int, start: Tensor, number: int) -> Tensor:
    return train_alone(task(), CLIENTS, i, start, (0, number, "expert")) - start


def tightest_halves(updates: list[Tensor]) -> list[list[int]]:
    """Into two by merging, of all pairs of groups, the one whose farthest updates are nearest."""
    groups = [[i] for i in range(len(updates))]
    while len(groups) > 2:
        width = {
            (a, b): max(float((updates[i] - updates[j]).norm()) for i in groups[a] for j in groups[b])
            for a, b in itertools.combinations(range(len(groups)), 2)
        }
        a, b = min(width, key=width.__getitem__)
        groups = [group for g, group in enumerate(groups) if g not in (a, b)] + [groups[a] + groups[b]]
    return sorted(sorted(group) for group in groups)


def weighted(updates: list[Tensor], ids: list[int]) -> Tensor:
    return weighted_mean([updates[i] for i in ids], [SIZES[i] for i in ids])


def test_equals_a_literal_version():
    server, states = run_rounds(METHODS["flhc"](task()), SCENARIO, [EVERYONE] * 3)
    joint = start_of(task(), 0)
    joint = joint + weighted([update(i, joint, 1) for i in EVERYONE], list(EVERYONE))
    first = [update(i, joint, 2) for i in EVERYONE]
    clusters = tightest_halves(first)
    models = [joint + weighted(first, members) for members in clusters]
    for c, members in enumerate(clusters):
        second = {i: update(i, models[c], 3) for i in members}
        models[c] = models[c] + weighted_mean([second[i] for i in members], [SIZES[i] for i in members])
    torch.testing.assert_close(server["expert"], torch.stack(models), atol=3e-5, rtol=1e-4)
    torch.testing.assert_close(server["joint"][0], joint, atol=3e-5, rtol=1e-4)
    assert [(states["cluster"] == c).nonzero().flatten().tolist() for c in range(2)] == clusters


@pytest.mark.parametrize("joint_rounds", [1, 9])
def test_one_cluster_is_fedavg(joint_rounds):
    """With K = 1, and for as long as nobody has been clustered."""
    n_components = 1 if joint_rounds == 1 else 2
    server, _, _ = run(METHODS["flhc"](task(n_components, joint_rounds)), SCENARIO, rounds=3)
    average, _, _ = run(METHODS["fedavg"](task()), SCENARIO, rounds=3)
    torch.testing.assert_close(server["expert"], average["expert"], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("threshold", "n_clusters"), [(1e-6, N), (1e6, 1)])
def test_a_distance_decides_how_many_clusters_there_are(threshold, n_clusters):
    server, _, _ = run(METHODS["flhc"](task(distance_threshold=threshold)), SCENARIO)
    assert len(server["expert"]) == n_clusters


def test_who_was_away_joins_the_cluster_with_the_nearest_update():
    """And only then trains in it: an update from the joint model is no step from the cluster's."""
    method = METHODS["flhc"](task())
    transport, server = transport_for(method, SCENARIO), method.program.init()
    for number, ids in enumerate([EVERYONE, (0, 1, 4)], 1):
        server = exchange(transport, server, method.program.round, ids, number)
    assert server["cluster"][2:4].tolist() == [UNKNOWN] * 2
    back = update(3, server["joint"][0], 3)
    nearest = int((server["centres"] - back).norm(dim=1).argmin())
    before = server["expert"]
    server = exchange(transport, server, method.program.round, [3], 3)
    assert server["cluster"][2:4].tolist() == [UNKNOWN, nearest]
    assert torch.equal(server["expert"], before)
    server = exchange(transport, server, method.program.round, [3], 4)
    moved = (server["expert"] != before).any(1)
    assert moved.tolist() == [c == nearest for c in range(len(before))]


def test_who_never_came_back_takes_the_model_of_least_loss():
    method = METHODS["flhc"](task())
    server, states = run_rounds(method, SCENARIO, [EVERYONE, (0, 1, 2), (0, 2)])
    rows = pack(CLIENTS)
    loss = -task().expert.log_prob(server["expert"], rows.x)[torch.arange(len(rows)), :, rows.y]
    best = torch.stack([part.sum(0) for part in loss.split(list(SIZES))]).argmin(1)
    assert torch.equal(states["cluster"][3:], best[3:])
    assert torch.equal(states["cluster"][:3], server["cluster"][:3])
    assert torch.equal(method.predictor.infer_client(server, rows)["cluster"], best)
    largest = int(server["cluster"][:3].bincount().argmax())
    assert method.predictor.infer_client(server, replace(rows, y=None))["cluster"].tolist() == [largest] * N


def test_fewer_clients_than_clusters():
    server, _ = run_rounds(METHODS["flhc"](task(n_components=4)), SCENARIO, [EVERYONE, (3,), EVERYONE])
    assert len(server["expert"]) == 1
    server, _ = run_rounds(METHODS["flhc"](task(n_components=4)), SCENARIO, [EVERYONE, (1, 3), EVERYONE])
    assert len(server["expert"]) == 2
    assert UNKNOWN not in server["cluster"].tolist()


def test_rounds_that_never_reach_the_clustering_are_refused():
    with pytest.raises(ConfigError, match=r"method\.joint_rounds"):
        config.load(None, ["method.name=flhc", "rounds=10", "method.joint_rounds=10"])
    config.load(None, ["method.name=flhc", "rounds=11", "method.joint_rounds=10"])
    config.load(None, ["method.name=fedavg", "rounds=3"])
