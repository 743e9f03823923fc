"""CFL: a literal version of its rule, which clusters split, and who belongs where."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from federations import gaussian_scenario, make_task, run, transport_for
from fedgmi.data.rows import pack
from fedgmi.data.scenarios.truth import Scenario
from fedgmi.errors import ConfigError
from fedgmi.methods import METHODS
from fedgmi.methods.baselines.cfl import CflSettings
from fedgmi.methods.baselines.clusters import UNKNOWN
from fedgmi.protocol.message import Message
from fedgmi.runs import config
from fedgmi.tree import Tree
from literal import exchange, losses, run_rounds, start_of, train_alone, weighted_mean

EAGER = CflSettings(mean_below=0.8, largest_above=0.1)
NEVER = CflSettings(mean_below=1e-9)


def federation() -> Scenario:
    """Nine clients of 2 to 20 rows, nearly pure, whose labels depend on x in three ways."""
    scenario = gaussian_scenario(9, 20, alpha=0.05)
    clients = tuple(
        replace(client, x=client.x[: 20 - 2 * i], y=client.y[: 20 - 2 * i])
        for i, client in enumerate(scenario.federation.clients)
        if client.y is not None
    )
    return Scenario(replace(scenario.federation, clients=clients))


SCENARIO = federation()
CLIENTS = SCENARIO.federation.clients
SIZES = [len(client) for client in CLIENTS]
N = len(CLIENTS)


def task(settings: CflSettings = EAGER, **others):
    own = settings.model_dump(exclude_unset=True)
    return make_task(SCENARIO.federation.schema, method="cfl", **own, **others)


def halves(updates: dict[int, Tensor], members: list[int]) -> tuple[list[int], list[int]]:
    """Merge those whose least similar members are most similar, until two are left; the first holds the lowest id."""

    def similarity(a: list[int], b: list[int]) -> float:
        return min(float(torch.cosine_similarity(updates[i], updates[j], dim=0)) for i in a for j in b)

    groups = [[i] for i in members]
    while len(groups) > 2:
        pairs = [(a, b) for a in groups for b in groups if a < b]
        left, right = max(pairs, key=lambda pair: similarity(*pair))
        groups = [group for group in groups if group not in (left, right)] + [sorted(left + right)]
    return min(groups), max(groups)


def literal_cfl(settings: CflSettings, rounds: int) -> tuple[list[Tensor], list[list[int]]]:
    models, clusters, scale = [start_of(task(), 0)], [list(range(N))], 0.0
    for number in range(1, rounds + 1):
        trained = {
            i: train_alone(task(), CLIENTS, i, models[c], (0, number, "expert"))
            for c, members in enumerate(clusters)
            for i in members
        }
        updates = {i: trained[i] - models[c] for c, members in enumerate(clusters) for i in members}
        scale = scale or max(float(update.norm()) for update in updates.values())
        for c in range(len(clusters)):
            members = clusters[c]
            mean = weighted_mean([updates[i] for i in members], [SIZES[i] for i in members])
            longest = max(float(updates[i].norm()) for i in members)
            at_rest = float(mean.norm()) < settings.mean_below * scale
            if at_rest and longest > settings.largest_above * scale and len(members) > 2:
                clusters[c], other = halves(updates, members)
                clusters.append(other)
                models.append(models[c])
        models = [
            models[c] + weighted_mean([updates[i] for i in members], [SIZES[i] for i in members])
            for c, members in enumerate(clusters)
        ]
    return models, clusters


@pytest.mark.parametrize("mean_below", [0.8, 0.6])
def test_equals_a_literal_version(mean_below):
    settings = CflSettings(mean_below=mean_below, largest_above=0.1)
    server, states = run_rounds(METHODS["cfl"](task(settings)), SCENARIO, [range(N)] * 3)
    models, clusters = literal_cfl(settings, 3)
    assert len(clusters) > 2
    torch.testing.assert_close(server["expert"], torch.stack(models), atol=1e-4, rtol=1e-3)
    for c, members in enumerate(clusters):
        assert (server["cluster"] == c).nonzero().flatten().tolist() == sorted(members)
    assert torch.equal(states["cluster"], server["cluster"])


def test_without_a_split_it_is_fedavg():
    server, _, _ = run(METHODS["cfl"](task(NEVER)), SCENARIO, rounds=3, participation=0.5)
    average, _, _ = run(METHODS["fedavg"](task()), SCENARIO, rounds=3, participation=0.5)
    torch.testing.assert_close(server["expert"], average["expert"], atol=1e-5, rtol=1e-4)


def answered(updates: Tensor, ids: list[int], settings: CflSettings = EAGER, known: int = 8) -> Tree:
    """The server after these updates [C, P] of clients of its first cluster, whose scale is 1; `known` are in it."""
    method = METHODS["cfl"](task(settings))
    server = {
        "expert": torch.zeros(1, updates.shape[1]),
        "cluster": torch.zeros(known, dtype=torch.long),
        "scale": torch.tensor(1.0, dtype=torch.float64),
    }
    replies = {
        "client": torch.tensor(ids),
        "cluster": torch.zeros(len(ids), dtype=torch.long),
        "rows": torch.ones(len(ids), dtype=torch.long),
        "update": updates,
    }
    return method.program.round[0].server(server, Message(replies=replies), 5)


TWO_WAYS = torch.ones(100) / 10, -torch.ones(100) / 10  # of length 1, and no coordinate above 0.1


def test_lengths_are_those_of_the_whole_update():
    """Not of its largest coordinate (as in a widely used port), by which no client here would be far from rest."""
    ahead, back = TWO_WAYS
    strict = CflSettings(mean_below=0.2, largest_above=0.9)
    server = answered(torch.stack([ahead, back, ahead, back]), [0, 1, 2, 3], strict)
    assert server["cluster"][:4].tolist() == [0, 1, 0, 1]
    torch.testing.assert_close(server["expert"], torch.stack([ahead, back]))


@pytest.mark.parametrize(
    ("updates", "why"),
    [
        ([TWO_WAYS[0]] * 4, "they still move together"),
        ([TWO_WAYS[0] / 20, TWO_WAYS[1] / 20] * 2, "none of them wants to move"),
        ([*TWO_WAYS], "there are two of them"),
    ],
)
def test_a_cluster_stays_whole_when(updates, why):
    server = answered(torch.stack(updates), list(range(len(updates))), CflSettings(mean_below=0.2, largest_above=0.1))
    assert len(server["expert"]) == 1, why
    assert server["cluster"].tolist() == [0] * 8
    torch.testing.assert_close(server["expert"][0], torch.stack(updates).mean(0))


def test_clients_are_known_by_their_ids_and_who_is_away_at_a_split_by_none():
    ahead, back = TWO_WAYS
    server = answered(torch.stack([back, ahead, ahead, back]), [7, 1, 4, 9])
    assert server["cluster"].tolist() == [UNKNOWN, 0, UNKNOWN, UNKNOWN, 0, UNKNOWN, UNKNOWN, 1, UNKNOWN, 1]


def test_who_was_away_takes_the_model_of_least_loss():
    method = METHODS["cfl"](task())
    good = [train_alone(task(), CLIENTS, i, start_of(task(), 0), (0, 1, "expert")) for i in (0, 4)]
    server = {
        "expert": torch.stack(good),
        "cluster": torch.tensor([0, UNKNOWN, 1]),
        "scale": torch.tensor(1.0, dtype=torch.float64),
    }
    best = [int(torch.stack([losses(task(), model, client).sum() for model in good]).argmin()) for client in CLIENTS]
    assert len(set(best[1:2] + best[3:])) == 2
    transport = transport_for(method, SCENARIO)
    exchange(transport, server, method.program.finish, range(N), 9)
    assert transport.states["cluster"].tolist() == [0, best[1], 1, *best[3:]]
    newcomers = method.predictor.infer_client(server, pack(CLIENTS))
    assert newcomers["cluster"].tolist() == best
    blind = server | {"cluster": torch.tensor([0, UNKNOWN, 1, 1])}
    assert method.predictor.infer_client(blind, replace(pack(CLIENTS), y=None))["cluster"].tolist() == [1] * N


def test_a_client_predicts_with_its_clusters_model():
    method = METHODS["cfl"](task())
    server, states, _ = run(method, SCENARIO, rounds=3)
    assert len(server["expert"]) > 1
    rows = pack(CLIENTS)
    own = task().expert.log_prob(server["expert"], rows.x)
    expected = own[torch.arange(len(rows)), states["cluster"][rows.client_index]]
    torch.testing.assert_close(method.predictor.predict(server, states, replace(rows, y=None)), expected)


def test_bytes_are_those_that_a_hand_counts():
    """One model down whenever it has changed; one update up, and three numbers (client, cluster, rows)."""
    model, numbers = 4 * task().expert.size, 3 * 8
    share = math.ceil(0.5 * N)
    transport = transport_for(METHODS["cfl"](task(NEVER)), SCENARIO)
    run(METHODS["cfl"](task(NEVER)), SCENARIO, rounds=3, participation=0.5, transport=transport)
    for number in (1, 2, 3):
        down, up = transport.ledger.by_kind(number)["expert"]
        header = up - share * (model + numbers)
        assert 0 < header < share * 600
        assert share * model < down < share * (model + 1200)


@pytest.mark.parametrize("setting", ["mean_below=0", "mean_below=1.5", "largest_above=1", "largest_above=-1"])
def test_thresholds_that_would_never_or_always_hold_are_refused(setting):
    with pytest.raises(ConfigError, match=r"method\.(mean|largest)"):
        config.load(None, ["method.name=cfl", f"method.{setting}"])
