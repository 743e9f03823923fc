"""FedEM: a literal version of its rule, the weights of its mean, and who holds how much of each model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from federations import dirichlet, make_task, payload, run, transport_for
from fedgmi.data.rows import Client, pack
from fedgmi.data.scenarios.truth import Scenario
from fedgmi.methods import METHODS
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


def task(n_components: int = K, **own):
    return make_task(SCENARIO.federation.schema, n_components, method="fedem", **own)


def literal_e_step(models: list[Tensor], proportions: Tensor, client: Client) -> Tensor:
    """q [n, K] ∝ π_k exp(−CE_k)."""
    likelihood = torch.stack([(-losses(task(), model, client).double()).exp() for model in models], 1)
    joint = likelihood * proportions
    return joint / joint.sum(1, keepdim=True)


@pytest.mark.parametrize(("weighting", "by"), [("weight", "count"), ("draw", "share")])
def test_equals_a_literal_version_with_some_clients_away(weighting, by):
    server, states = run_rounds(METHODS["fedem"](task(weighting=weighting)), SCENARIO, SOME_AWAY)
    models = [start_of(task(), k) for k in range(K)]
    proportions = [torch.full((K,), 1 / K, dtype=torch.float64) for _ in CLIENTS]
    for number, ids in enumerate(SOME_AWAY, 1):
        resp = {i: literal_e_step(models, proportions[i], CLIENTS[i]) for i in ids}
        for i in ids:
            proportions[i] = resp[i].mean(0)
        trained = {
            (i, k): train_alone(
                task(), CLIENTS, i, models[k], (0, number, "expert"), component=k, **{by: resp[i][:, k]}
            )
            for i in ids
            for k in range(K)
        }
        models = [weighted_mean([trained[i, k] for i in ids], [SIZES[i] for i in ids]) for k in range(K)]
    torch.testing.assert_close(server["expert"], torch.stack(models), atol=3e-4, rtol=1e-3)
    torch.testing.assert_close(states["proportions"], torch.stack(proportions), atol=1e-5, rtol=0)


@pytest.mark.parametrize("weighting", ["weight", "draw"])
def test_one_model_is_fedavg(weighting):
    alone, _, _ = run(METHODS["fedem"](task(1, weighting=weighting)), SCENARIO, rounds=3, participation=0.6)
    average, _, _ = run(METHODS["fedavg"](task(1)), SCENARIO, rounds=3, participation=0.6)
    torch.testing.assert_close(alone["expert"], average["expert"], atol=1e-5, rtol=1e-4)


def test_the_mean_is_by_rows_and_not_by_mass():
    """A client that holds nothing of a model sends it back as it came, and that counts."""
    method = METHODS["fedem"](task(2, weighting="draw"))
    transport, server = transport_for(method, SCENARIO), method.program.init()
    held = torch.tensor([[1.0, 0.0]] * 4 + [[0.0, 1.0]], dtype=torch.float64)
    transport.states = {"proportions": held}
    updated = exchange(transport, server, method.program.round, [2, 4], 1)
    start = server["expert"]
    own = [train_alone(task(), CLIENTS, i, start[k], (0, 1, "expert"), component=k) for i, k in ((2, 0), (4, 1))]
    share = torch.tensor([SIZES[2], SIZES[4]]) / (SIZES[2] + SIZES[4])
    torch.testing.assert_close(
        updated["expert"], start + share[:, None] * (torch.stack(own) - start), atol=1e-5, rtol=1e-4
    )
    assert torch.equal(transport.states["proportions"].argmax(1), held.argmax(1))


@pytest.mark.parametrize(("weighting", "slip"), [("weight", 1e-4), ("draw", 0.0)])
def test_a_model_that_nobody_holds_stays_as_it_was(weighting, slip):
    """But for what a share of 1e-12 in a weighted loss is to Adam."""
    method = METHODS["fedem"](task(weighting=weighting))
    transport, server = transport_for(method, SCENARIO), method.program.init()
    transport.states = {"proportions": torch.tensor([[0.5, 0.5, 0.0]] * N, dtype=torch.float64)}
    updated = exchange(transport, server, method.program.round, EVERYONE, 1)
    torch.testing.assert_close(updated["expert"][2], server["expert"][2], atol=slip, rtol=0)
    assert float((updated["expert"] - server["expert"])[:2].abs().amax(1).min()) > 0.005


def test_a_share_of_zero_can_grow_again():
    """Where all other models are certain, and wrong."""
    method = METHODS["fedem"](task(2))
    wrong = torch.zeros(task().expert.size)
    wrong[-2:] = torch.tensor([-50.0, 50.0])
    zeros = tuple(replace(client, y=torch.zeros_like(client.y)) for client in CLIENTS)
    transport = transport_for(method, Scenario(replace(SCENARIO.federation, clients=zeros)))
    transport.states = {"proportions": torch.tensor([[1.0, 0.0]] * N, dtype=torch.float64)}
    server = {"expert": torch.stack([wrong, torch.zeros_like(wrong)])}
    exchange(transport, server, method.program.round, EVERYONE, 1)
    assert float(transport.states["proportions"][:, 1].min()) > 0.999


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999))
def test_predictions_are_mixtures_of_probabilities(seed):
    method, server = METHODS["fedem"](task()), METHODS["fedem"](task()).program.init()
    proportions = dirichlet(N, K, seed=seed)
    rows = replace(pack(CLIENTS), y=None)
    expected = torch.einsum(
        "rk,rkl->rl", proportions[rows.client_index], task().expert.log_prob(server["expert"], rows.x).double().exp()
    )
    found = method.predictor.predict(server, {"proportions": proportions}, rows)
    torch.testing.assert_close(found.exp(), expected, atol=1e-7, rtol=1e-6)


def test_a_newcomer_infers_its_proportions_to_the_end_and_without_labels_has_none():
    method = METHODS["fedem"](task())
    server, _, _ = run(method, SCENARIO, rounds=4)
    inferred = method.predictor.infer_client(server, pack(CLIENTS))
    for i, client in enumerate(CLIENTS):
        again = literal_e_step(list(server["expert"]), inferred["proportions"][i], client).mean(0)
        torch.testing.assert_close(inferred["proportions"][i], again, atol=1e-3, rtol=0)
    assert bool(inferred["identified"].all())
    blind = method.predictor.infer_client(server, replace(pack(CLIENTS), y=None))
    assert blind["proportions"].flatten().tolist() == pytest.approx([1 / K] * N * K)
    assert not bool(blind["identified"].any())


def test_all_models_travel_both_ways_whoever_holds_them():
    """In float64 on the way up, with a mass each."""
    number = 3 * 3 * K * task().expert.size
    expected = {"expert": (4 * number, 8 * number + 3 * 3 * K * 8)}
    assert payload(METHODS["fedem"](task()), SCENARIO, participation=0.6) == expected
