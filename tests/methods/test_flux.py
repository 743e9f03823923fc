"""FLUX: a literal version of its rule, its descriptors and clusters, and who joins which later."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from sklearn.cluster import DBSCAN
from torch import Tensor, nn

from federations import make_task, payload, run, transport_for
from fedgmi.data.rows import Client, Rows, pack
from fedgmi.errors import ConfigError
from fedgmi.methods import METHODS
from fedgmi.methods.baselines.clusters import UNKNOWN
from fedgmi.methods.baselines.descriptors import alike, bend, describe, turn
from fedgmi.models.experts import expert_from_module
from fedgmi.runs import config
from literal import EVERYONE, SIZES, exchange, ragged_scenario, run_rounds, start_of, train_alone, weighted_mean

SCENARIO = ragged_scenario()
CLIENTS = SCENARIO.federation.clients
N, L = len(CLIENTS), 2


def task(**own):
    return make_task(SCENARIO.federation.schema, method="flux", **({"joint_rounds": 1, "reach": 1.0} | own))


def literal_descriptor(model: Tensor, client: Client) -> tuple[list[float], list[float], list[float], list[float]]:
    """Means and deviations of the two numbers to which a row comes down, of all rows and label by label."""
    hidden = (client.x @ model[:64].view(8, 8) + model[64:72]).relu().double()
    z = hidden @ turn(task(), 8)
    blocks: tuple[list[float], ...] = (z.mean(0).tolist(), z.std(0, correction=0).tolist(), [], [])
    for label in range(L):
        own = z[client.y == label]
        blocks[2].extend(own.mean(0).tolist() if len(own) > 1 else [-1.0, -1.0])
        blocks[3].extend(own.std(0, correction=0).tolist() if len(own) > 1 else [-1.0, -1.0])
    return blocks


def scaled(model: Tensor) -> Tensor:
    """All clients' descriptors, each label's moments to [0, 1] over all clients, as those of all [N, 2·L + 2·L·L]."""
    found = [literal_descriptor(model, client) for client in CLIENTS]
    blocks = [torch.tensor([one[b] for one in found]) for b in range(4)]
    blocks = [*blocks[:2], *blocks[2].split(L, 1), *blocks[3].split(L, 1)]
    return torch.cat([(block - block.min()) / (block.max() - block.min()) for block in blocks], 1).double()


def literal_clusters(points: Tensor) -> list[list[int]]:
    """Members of each, by scikit-learn's DBSCAN; those whom it takes for noise are alone."""
    distances = torch.stack([(points - point).norm(dim=1) for point in points])
    reach = bend(torch.stack([row[row > 0].min() for row in distances]))
    labels = DBSCAN(eps=reach + 1e-9, min_samples=2).fit(points.numpy()).labels_
    alone = [[i] for i in EVERYONE if labels[i] < 0]
    return sorted(alone + [[i for i in EVERYONE if labels[i] == c] for c in set(labels) if c >= 0])


def test_equals_a_literal_version():
    server, states = run_rounds(METHODS["flux"](task()), SCENARIO, [EVERYONE] * 3)
    trained = [train_alone(task(), CLIENTS, i, start_of(task(), 0), (0, 1, "expert")) for i in EVERYONE]
    joint = weighted_mean(trained, SIZES)
    torch.testing.assert_close(server["joint"][0], joint, atol=2e-5, rtol=1e-4)
    clusters = literal_clusters(scaled(joint))
    assert 1 < len(clusters) < N
    assert [(states["cluster"] == c).nonzero().flatten().tolist() for c in range(len(clusters))] == clusters
    models = [joint] * len(clusters)
    for number in (2, 3):
        for c, group in enumerate(clusters):
            own = [train_alone(task(), CLIENTS, i, models[c], (0, number, "expert"), component=c) for i in group]
            models[c] = weighted_mean(own, [SIZES[i] for i in group])
    torch.testing.assert_close(server["expert"], torch.stack(models), atol=5e-5, rtol=1e-3)


@pytest.mark.parametrize(
    ("lengths", "found"),
    [
        ([1.0, 1.1, 1.2, 1.3, 9.0], 1.3),  # one leap
        ([1.0, 1.1, 1.2, 5.0, 5.1, 5.2, 5.3, 9.0], 5.3),  # two: the upper one comes first
        ([1.0, 1.1, 1.2, 1.3, 1.4, 4.0, 9.0], 1.4),  # a leap in two steps
        ([2.0, 2.0], 2.0),
    ],
)
def test_who_is_near_is_told_by_where_distances_bend(lengths, found):
    """The first three as the package `kneed` has them, whose rule the code takes."""
    assert bend(torch.tensor(lengths, dtype=torch.float64)) == found


def test_as_long_as_nobody_is_clustered_it_is_fedavg():
    alone, _, _ = run(METHODS["flux"](task(joint_rounds=2)), SCENARIO)
    average, _, _ = run(METHODS["fedavg"](make_task(SCENARIO.federation.schema, method="fedavg")), SCENARIO)
    assert torch.equal(alone["expert"], average["expert"])


@pytest.mark.parametrize(("reach", "n_clusters"), [(1e-6, N), (1e6, 1)])
def test_reach_says_who_is_alike(reach, n_clusters):
    server, _, _ = run(METHODS["flux"](task(reach=reach)), SCENARIO)
    assert len(server["expert"]) == n_clusters


def test_clusters_are_chains_of_neighbours_and_clones_are_one():
    assert alike(torch.tensor([[0.0], [9.0], [1.0], [2.0], [3.0]])).tolist() == [0, 1, 0, 0, 0]
    assert alike(torch.zeros(3, 2)).tolist() == [0, 0, 0]
    assert alike(torch.zeros(1, 2)).tolist() == [0]


def test_who_was_away_joins_the_cluster_that_is_nearest():
    method = METHODS["flux"](task())
    transport, server = transport_for(method, SCENARIO), method.program.init()
    for number, ids in enumerate([EVERYONE, (0, 1, 2)], 1):
        server = exchange(transport, server, method.program.round, ids, number)
    assert UNKNOWN not in server["cluster"].tolist()
    found = (describe(task(), server["joint"], pack(CLIENTS)) - server["low"]) / server["span"]
    nearest = [int((server["centres"] - point).norm(dim=1).argmin()) for point in found]
    before = server
    server = exchange(transport, server, method.program.round, [1, 4], 3)
    assert server["cluster"].tolist() == [*before["cluster"].tolist(), UNKNOWN, nearest[4]]
    for name in ("centres", "low", "span"):
        assert torch.equal(server[name], before[name])
    server = exchange(transport, server, method.program.finish, EVERYONE, 4)
    assert transport.states["cluster"].tolist() == [*before["cluster"].tolist(), nearest[3], nearest[4]]


def test_newcomers_without_labels_go_by_what_their_rows_look_like():
    method = METHODS["flux"](task(reach=1e-6))  # everybody is a cluster, and nearest to itself
    server, _, _ = run(method, SCENARIO)
    rows: Rows = pack(CLIENTS)
    for seen in (rows, replace(rows, y=None, cache={})):
        assert method.predictor.infer_client(server, seen)["cluster"].tolist() == list(EVERYONE)
    swapped = replace(rows, y=1 - rows.y)
    assert method.predictor.infer_client(server, swapped)["cluster"].tolist() != list(EVERYONE)


def test_bytes_are_those_that_a_hand_counts():
    """Descriptors, and the scale by which newcomers find their cluster, are sketches."""
    made = task(reach=1e6)  # one cluster
    model, mass = 4 * made.expert.size, 8
    found = payload(METHODS["flux"](made), SCENARIO, rounds=3)
    assert found["expert"][1] == N * 3 * (model + mass)
    told = 8 * (2 * L + 2 * L * L) + 8  # a descriptor and a number, beside headers
    assert N * 2 * told <= found["sketch"][1] <= N * 2 * (told + 250)


@pytest.mark.parametrize("rounds", [3, 4])
def test_rounds_that_never_reach_the_clustering_are_refused(rounds):
    with pytest.raises(ConfigError, match=r"method\.joint_rounds"):
        config.load(None, ["method.name=flux", f"rounds={rounds}", "method.joint_rounds=4"])
    config.load(None, ["method.name=flux", "rounds=5", "method.joint_rounds=4"])


def test_an_expert_without_a_last_layer_apart_is_refused():
    made = task()
    alone = expert_from_module(lambda: nn.Linear(8, 2), made.schema)
    with pytest.raises(ConfigError, match="flux needs what the last layer is given"):
        METHODS["flux"](made.replace(expert=alone))
