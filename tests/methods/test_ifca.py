"""IFCA: a literal version of its rule, its starts, and who chooses by what."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from federations import make_task, payload, run, transport_for
from fedgmi.data.rows import pack
from fedgmi.errors import ConfigError
from fedgmi.methods import METHODS
from fedgmi.randomness import generator
from fedgmi.runs import config
from literal import (
    EVERYONE,
    SIZES,
    SOME_AWAY,
    exchange,
    losses,
    ragged_scenario,
    run_rounds,
    start_of,
    train_alone,
    weighted_mean,
)

SCENARIO = ragged_scenario()
CLIENTS = SCENARIO.federation.clients
N, K = len(CLIENTS), 3
STARTS = ("random", "balanced", "farthest")


def task(init: str = "random", n_components: int = K, draws: int = 6, seed: int = 0, **own):
    return make_task(SCENARIO.federation.schema, n_components, method="ifca", seed=seed, init=init, draws=draws, **own)


def best(models: list[torch.Tensor], i: int) -> int:
    """The cluster that client i joins."""
    return int(torch.stack([losses(task(), model, CLIENTS[i]).mean() for model in models]).argmin())


def started(init: str, seed: int = 0) -> torch.Tensor:
    """The models as the first round finds them [K, P]."""
    method = METHODS["ifca"](task(init, seed=seed))
    server = exchange(transport_for(method, SCENARIO), method.program.init(), method.program.prepare, EVERYONE, 0)
    return server["expert"]


def one_hot(chosen: list[int]) -> torch.Tensor:
    return torch.eye(K, dtype=torch.float64)[chosen]


def test_equals_a_literal_version_with_some_clients_away():
    spread = "farthest"  # from here clients do not all choose the same
    server, states = run_rounds(METHODS["ifca"](task(spread)), SCENARIO, SOME_AWAY)
    models, sizes = list(started(spread)), []
    for number, ids in enumerate(SOME_AWAY, 1):
        chosen = {i: best(models, i) for i in ids}
        trained = {
            i: train_alone(task(), CLIENTS, i, models[k], (0, number, "expert"), component=k) for i, k in chosen.items()
        }
        members = [[i for i in ids if chosen[i] == k] for k in range(K)]
        sizes.append(sum(map(bool, members)))
        models = [
            weighted_mean([trained[i] for i in group], [SIZES[i] for i in group]) if group else models[k]
            for k, group in enumerate(members)
        ]
    assert max(sizes) > 1
    torch.testing.assert_close(server["expert"], torch.stack(models), atol=3e-5, rtol=1e-4)
    assert torch.equal(states["proportions"], one_hot([best(models, i) for i in EVERYONE]))


def test_one_cluster_is_fedavg():
    alone, _, _ = run(METHODS["ifca"](task(n_components=1)), SCENARIO, rounds=3)
    average, _, _ = run(METHODS["fedavg"](task()), SCENARIO, rounds=3)
    assert torch.equal(alone["expert"], average["expert"])


def test_a_cluster_that_nobody_chose_stays_as_it_was():
    method = METHODS["ifca"](task())
    server = method.program.init()
    wrong = torch.zeros(task().expert.size)
    wrong[-2:] = torch.tensor([-50.0, 50.0])  # the classes' biases: certain, and wrong about a half
    server = server | {"expert": torch.stack([server["expert"][0], wrong, server["expert"][2]])}
    updated = exchange(transport_for(method, SCENARIO), server, method.program.round, [2, 3, 4], 1)
    assert torch.equal(updated["expert"][1], wrong)
    assert not torch.equal(updated["expert"], server["expert"])


def test_random_is_the_tasks_draws_as_they_are():
    assert torch.equal(started("random"), torch.stack([start_of(task(), k) for k in range(K)]))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_balanced_keeps_the_first_draw_whose_smallest_cluster_is_largest(seed):
    drawn = [[start_of(task(seed=seed), 3 * d + k) for k in range(K)] for d in range(6)]
    chosen = [[best(models, i) for i in EVERYONE] for models in drawn]
    smallest = [min(numbers.count(k) for k in range(K)) for numbers in chosen]
    kept = smallest.index(max(smallest))
    assert torch.equal(started("balanced", seed), torch.stack(drawn[kept]))


@pytest.mark.parametrize("seed", [0, 1])
def test_farthest_takes_the_model_of_the_client_that_those_before_fit_worst(seed):
    models = list(started("farthest", seed))
    made = {
        (i, k): train_alone(task(seed=seed), CLIENTS, i, start_of(task(seed=seed), 0), (seed, 0, f"start {k}"))
        for i in EVERYONE
        for k in range(K)
    }
    for k in range(1, K):
        fit = [min(float(losses(task(), model, CLIENTS[i]).mean()) for model in models[:k]) for i in EVERYONE]
        torch.testing.assert_close(models[k], made[fit.index(max(fit)), k], atol=1e-5, rtol=1e-4)
    assert any(torch.allclose(models[0], made[i, 0], atol=1e-5) for i in EVERYONE)


@pytest.mark.parametrize("init", STARTS)
def test_starts_repeat_with_the_seed_alone(init):
    assert torch.equal(started(init), started(init))
    assert not torch.equal(started(init), started(init, seed=1))


def test_bytes_are_those_that_a_hand_counts():
    """Up goes the model of the one cluster, with K masses; a start by draws sends no model at all."""
    model, masses = 4 * task().expert.size, 8 * K
    found = {init: payload(METHODS["ifca"](task(init)), SCENARIO, 2, participation=0.6)["expert"] for init in STARTS}
    assert found["random"][1] == found["balanced"][1] == 2 * 3 * (model + masses)
    assert found["farthest"][1] == 2 * 3 * (model + masses) + K * model + K * N * 8
    assert found["random"][0] % model == 0
    assert found["random"][0] <= (2 * 3 + N) * K * model


def test_newcomers_choose_by_their_labels_and_without_get_the_largest_cluster():
    method = METHODS["ifca"](task("farthest"))
    server, states, _ = run(method, SCENARIO)
    rows = pack(CLIENTS)
    inferred = method.predictor.infer_client(server, rows)
    assert torch.equal(inferred["proportions"], states["proportions"])
    assert bool(inferred["identified"].all())
    blind = method.predictor.infer_client(server, replace(rows, y=None, cache={}))
    held = states["proportions"].T @ torch.tensor(SIZES, dtype=torch.float64)
    assert blind["proportions"].argmax(1).tolist() == [int(held.argmax())] * N
    assert not bool(blind["identified"].any())


def test_a_warm_start_is_fedavg_and_then_clusters_around_its_model():
    """One round of each, with some clients away in the second."""
    made = task(warm_rounds=1, warm_spread=0.5)
    server, states = run_rounds(METHODS["ifca"](made), SCENARIO, SOME_AWAY)
    alone = [train_alone(made, CLIENTS, i, start_of(made, 0), (0, 1, "expert")) for i in EVERYONE]
    joint = weighted_mean(alone, SIZES)
    torch.testing.assert_close(server["joint"][0], joint, atol=2e-5, rtol=1e-4)
    noise = [torch.randn(len(joint), generator=generator(0, "apart", k)) for k in range(K)]
    size = 0.5 * joint.norm() / len(joint) ** 0.5
    models = [joint + size * (one - sum(noise) / K) for one in noise]
    chosen = {i: best(models, i) for i in SOME_AWAY[1]}
    assert len(set(chosen.values())) > 1
    for k in range(K):
        group = [i for i in SOME_AWAY[1] if chosen[i] == k]
        trained = [train_alone(made, CLIENTS, i, models[k], (0, 2, "expert"), component=k) for i in group]
        if group:
            models[k] = weighted_mean(trained, [SIZES[i] for i in group])
    torch.testing.assert_close(server["expert"], torch.stack(models), atol=5e-5, rtol=1e-4)
    assert torch.equal(states["proportions"], one_hot([best(models, i) for i in EVERYONE]))


def test_one_warm_cluster_is_fedavg_and_costs_no_more():
    made = METHODS["ifca"](task(n_components=1, warm_rounds=2))
    average = METHODS["fedavg"](task())
    torch.testing.assert_close(
        run(made, SCENARIO, rounds=3)[0]["expert"], run(average, SCENARIO, rounds=3)[0]["expert"], atol=1e-6, rtol=0
    )
    model = 4 * made.program.init()["joint"].shape[1]
    warm = payload(METHODS["ifca"](task(warm_rounds=2)), SCENARIO, 3)["expert"]
    assert warm[1] == N * (2 * (model + 8) + model + 8 * K)
    assert warm[0] <= N * (2 + 2 * K) * model  # the joint model twice, K models once, and for the choice at the end


@pytest.mark.parametrize(
    ("own", "where"),
    [
        (("warm_rounds=2", "init=farthest"), "init"),
        (("warm_spread=0.2",), "warm_spread"),
        (("warm_rounds=4",), "warm_rounds"),
    ],
)
def test_a_warm_start_that_contradicts_is_refused(own, where):
    with pytest.raises(ConfigError, match=rf"method\.{where}"):
        config.load(None, ["method.name=ifca", "rounds=4", *(f"method.{setting}" for setting in own)])


def test_an_unknown_start_is_refused():
    with pytest.raises(ConfigError, match=r"method\.init"):
        config.load(None, ["method.name=ifca", "method.init=kmeans"])
