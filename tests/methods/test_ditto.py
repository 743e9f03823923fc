"""Ditto: a literal version of its rule, and which of its two models does what."""

from __future__ import annotations

import torch

from federations import make_task, payload, run
from fedgmi.data.rows import pack
from fedgmi.methods import METHODS
from literal import EVERYONE, SOME_AWAY, ragged_scenario, run_rounds, start_of, train_alone, weighted_mean

SCENARIO = ragged_scenario()
CLIENTS = SCENARIO.federation.clients


def task(mu: float = 1.0):
    return make_task(SCENARIO.federation.schema, method="ditto", mu=mu)


def test_equals_a_literal_version_with_some_clients_away():
    mu = 3.0
    server, states = run_rounds(METHODS["ditto"](task(mu)), SCENARIO, SOME_AWAY)
    model = start_of(task(), 0)
    personal = [model] * len(CLIENTS)
    for number, ids in enumerate(SOME_AWAY, 1):
        received = model
        for i in ids:
            personal[i] = train_alone(
                task(), CLIENTS, i, personal[i], (0, number, "personal"),
                pull=lambda v, c=received: mu / 2 * ((v - c) ** 2).sum(),
            )  # fmt: skip
        trained = [train_alone(task(), CLIENTS, i, received, (0, number, "expert")) for i in ids]
        model = weighted_mean(trained, [len(CLIENTS[i]) for i in ids])
    torch.testing.assert_close(server["expert"][0], model, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(states["personal"], torch.stack(personal), atol=2e-5, rtol=1e-4)


def test_the_global_model_and_the_bytes_are_those_of_fedavg():
    server, _, _ = run(METHODS["ditto"](task()), SCENARIO, rounds=3)
    average, _, _ = run(METHODS["fedavg"](task()), SCENARIO, rounds=3)
    assert torch.equal(server["expert"], average["expert"])
    assert payload(METHODS["ditto"](task()), SCENARIO) == payload(METHODS["fedavg"](task()), SCENARIO)


def test_the_larger_mu_the_nearer_to_the_global_model():
    """Its start is the same for all, so one round shows it."""
    start = start_of(task(), 0)
    moved = []
    for mu in (0.1, 100.0):
        _, states = run_rounds(METHODS["ditto"](task(mu)), SCENARIO, [EVERYONE])
        moved.append(float((states["personal"] - start).norm()))
    assert moved[1] < 0.7 * moved[0]


def test_the_personal_model_predicts_and_a_newcomer_gets_the_global_one():
    method = METHODS["ditto"](task())
    server, states, _ = run(method, SCENARIO)
    rows = pack(SCENARIO.federation.held_out)
    mine = rows.x[rows.client_index == 3]
    own = task().expert.log_prob(states["personal"][3][None], mine)[:, 0]
    torch.testing.assert_close(method.predictor.predict(server, states, rows)[rows.client_index == 3], own)
    assert float((own - task().expert.log_prob(server["expert"], mine)[:, 0]).abs().max()) > 1e-3
    newcomers = method.predictor.infer_client(server, rows)
    assert torch.equal(newcomers["personal"], server["expert"].expand(len(CLIENTS), -1))
