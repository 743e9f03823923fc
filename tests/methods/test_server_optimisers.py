"""FedAdam, FedYogi and FedAdagrad: literal versions of their rules."""

from __future__ import annotations

import math

import pytest
import torch

from federations import make_task, payload, run
from fedgmi.errors import DivergedError
from fedgmi.methods import METHODS
from literal import SOME_AWAY, ragged_scenario, run_rounds, start_of, train_alone, weighted_mean

SCENARIO = ragged_scenario()
CLIENTS = SCENARIO.federation.clients
RATE = 0.02


def task(name: str, **settings):
    return make_task(SCENARIO.federation.schema, method=name, **settings)


def second_moment(name: str, v: float, square: float) -> float:
    """v after one round, for one parameter."""
    if name == "fedadagrad":
        return v + square
    if name == "fedadam":
        return 0.99 * v + 0.01 * square
    return v - 0.01 * square * (0 if v == square else math.copysign(1.0, v - square))


@pytest.mark.parametrize("name", ["fedadam", "fedyogi", "fedadagrad"])
def test_equals_a_literal_version_with_some_clients_away(name):
    """Parameter by parameter, in float64."""
    made, beta = task(name, server_lr=RATE), 0.0 if name == "fedadagrad" else 0.9
    who = (*SOME_AWAY, SOME_AWAY[0])
    server, _ = run_rounds(METHODS[name](made), SCENARIO, who)
    model = start_of(made, 0)
    m, v = [0.0] * len(model), [1e-6] * len(model)
    for number, ids in enumerate(who, 1):
        trained = [train_alone(made, CLIENTS, i, model, (0, number, "expert")) for i in ids]
        moved = (weighted_mean(trained, [len(CLIENTS[i]) for i in ids]) - model).double().tolist()
        m = [beta * old + (1 - beta) * delta for old, delta in zip(m, moved, strict=True)]
        v = [second_moment(name, old, delta**2) for old, delta in zip(v, moved, strict=True)]
        step = [RATE * a / (math.sqrt(b) + 1e-3) for a, b in zip(m, v, strict=True)]
        model = (model.double() + torch.tensor(step, dtype=torch.float64)).float()
    torch.testing.assert_close(server["expert"][0], model, atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(server["second"][0].double(), torch.tensor(v, dtype=torch.float64), atol=1e-9, rtol=2e-3)


def test_decays_and_tau_can_be_set():
    """After one round with β₁ = β₂ = 0 and a tiny τ every parameter that moved moves by the server's rate."""
    made = task("fedadam", server_lr=RATE, beta_1=0.0, beta_2=0.0, tau=1e-9)
    method = METHODS["fedadam"](made)
    start = method.program.init()["expert"]
    end = run(method, SCENARIO, rounds=1)[0]["expert"]
    moved = (end - start).abs()
    assert float(moved[moved > 0].min()) == pytest.approx(RATE, rel=1e-2)
    assert float(moved.max()) == pytest.approx(RATE, rel=1e-2)


def test_adagrad_never_forgets():
    one, two = (run(METHODS["fedadagrad"](task("fedadagrad")), SCENARIO, rounds=n)[0]["second"] for n in (1, 2))
    assert bool((two >= one).all())


@pytest.mark.parametrize("name", ["fedadam", "fedyogi", "fedadagrad"])
def test_bytes_are_those_of_fedavg(name):
    average = METHODS["fedavg"](make_task(SCENARIO.federation.schema, method="fedavg"))
    assert payload(METHODS[name](task(name)), SCENARIO) == payload(average, SCENARIO)


@pytest.mark.parametrize(("server_lr", "words"), [(1e30, "lower method.server_lr"), (0.01, "training.lr")])
def test_what_runs_away_is_told_with_the_rate_that_is_far_too_high(server_lr, words):
    made = task("fedadam", server_lr=server_lr)
    method = METHODS["fedadam"](made if server_lr > 1 else made.replace(lr=1e38))
    with pytest.raises(DivergedError, match=words):
        run(method, SCENARIO, rounds=4)
