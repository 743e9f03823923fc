"""FedProx: a literal version of its rule, and what its term is for."""

from __future__ import annotations

import pytest
import torch

from federations import make_task, payload, run
from fedgmi.errors import ConfigError
from fedgmi.methods import METHODS
from fedgmi.runs import config
from literal import EVERYONE, SOME_AWAY, ragged_scenario, run_rounds, start_of, train_alone, weighted_mean

SCENARIO = ragged_scenario()
CLIENTS = SCENARIO.federation.clients


def task(mu: float = 1.0):
    return make_task(SCENARIO.federation.schema, method="fedprox", mu=mu)


def moved(mu: float) -> float:
    """How far the first round takes the model."""
    server, _ = run_rounds(METHODS["fedprox"](task(mu)), SCENARIO, [EVERYONE])
    return float((server["expert"][0] - start_of(task(), 0)).norm())


def test_equals_a_literal_version_with_some_clients_away():
    mu = 3.0
    server, _ = run_rounds(METHODS["fedprox"](task(mu)), SCENARIO, SOME_AWAY)
    model = start_of(task(), 0)
    for number, ids in enumerate(SOME_AWAY, 1):
        received = model
        trained = [
            train_alone(
                task(),
                CLIENTS,
                i,
                received,
                (0, number, "expert"),
                pull=lambda w, c=received: mu / 2 * ((w - c) ** 2).sum(),
            )
            for i in ids
        ]
        model = weighted_mean(trained, [len(CLIENTS[i]) for i in ids])
    torch.testing.assert_close(server["expert"][0], model, atol=2e-5, rtol=1e-4)


def test_a_term_next_to_nothing_is_fedavg():
    held, _, _ = run(METHODS["fedprox"](task(1e-12)), SCENARIO)
    average, _, _ = run(METHODS["fedavg"](task()), SCENARIO)
    torch.testing.assert_close(held["expert"], average["expert"], atol=1e-6, rtol=0)


def test_the_larger_mu_the_nearer_the_model_stays():
    assert moved(100.0) < 0.7 * moved(10.0) < 0.7 * moved(0.1)


def test_bytes_are_those_of_fedavg():
    held, average = (payload(METHODS[name](task()), SCENARIO, participation=0.5) for name in ("fedprox", "fedavg"))
    assert held == average


@pytest.mark.parametrize(("name", "mu"), [("fedprox", 0), ("fedprox", -1.0), ("ditto", 0)])
def test_a_term_of_nothing_is_refused(name, mu):
    with pytest.raises(ConfigError, match=r"method\.mu"):
        config.load(None, [f"method.name={name}", f"method.mu={mu}"])
