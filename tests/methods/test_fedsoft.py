"""FedSoft: a literal version of its rule, when shares are estimated anew, and what no row prefers."""

from __future__ import annotations

import pytest
import torch

from federations import make_task, payload, transport_for
from fedgmi.data.rows import pack
from fedgmi.errors import ConfigError
from fedgmi.methods import METHODS
from fedgmi.methods.local_training import random_starts
from fedgmi.runs import config
from literal import (
    EVERYONE,
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
K = 3


def task(n_components: int = K, **settings):
    return make_task(SCENARIO.federation.schema, n_components, method="fedsoft", **settings)


def estimate(centres: list[torch.Tensor], i: int, smoother: float = 1e-4) -> list[float]:
    """u_i, row by row."""
    best = torch.stack([losses(task(), centre, CLIENTS[i]) for centre in centres]).argmin(0).tolist()
    return [best.count(s) / len(best) if s in best else smoother for s in range(len(centres))]


def literal(rounds: list[tuple[int, ...]], interval: int, strength: float):
    """Centres, own models and shares after these rounds, by the paper's sums."""
    centres = [start_of(task(), s) for s in range(K)]
    own = [start_of(task(), K)] * len(CLIENTS)
    shares, since = [[1 / K] * K] * len(CLIENTS), [interval] * len(CLIENTS)
    for number, ids in enumerate(rounds, 1):
        for i in ids:
            if since[i] >= interval:
                shares[i], since[i] = estimate(centres, i), 0

            own[i] = train_alone(
                task(), CLIENTS, i, own[i], (0, number, "expert"),
                pull=lambda w, u=shares[i], c=centres: sum(
                    strength / 2 * u[s] * ((w - c[s]) ** 2).sum() for s in range(K)
                ),
            )  # fmt: skip
        since = [n + 1 for n in since]
        models = [own[i] for i in ids]
        centres = [weighted_mean(models, [shares[i][s] * len(CLIENTS[i]) for i in ids]) for s in range(K)]
    return torch.stack(centres), torch.stack(own), torch.tensor(shares, dtype=torch.float64)


@pytest.mark.parametrize("interval", [1, 2])
def test_equals_a_literal_version_with_some_clients_away(interval):
    rounds = [*SOME_AWAY, (1, 2, 3)]
    method = METHODS["fedsoft"](task(interval=interval, strength=2.0))
    server, states = run_rounds(method, SCENARIO, rounds)
    centres, own, shares = literal(rounds, interval, 2.0)
    torch.testing.assert_close(states["importance"], shares)
    torch.testing.assert_close(states["expert"], own, atol=3e-5, rtol=1e-4)
    torch.testing.assert_close(server["expert"], centres, atol=3e-5, rtol=1e-4)
    assert float((own - literal(rounds, interval, 0.0)[1]).abs().max()) > 1e-3  # the term does something


def test_shares_are_estimated_every_interval_of_rounds_and_at_a_clients_first():
    method = METHODS["fedsoft"](task(interval=3))
    transport, server = transport_for(method, SCENARIO), method.program.init()
    seen = []
    for number, ids in enumerate([(0, 1), EVERYONE, (0, 1), EVERYONE, EVERYONE], 1):
        server = exchange(transport, server, method.program.round, ids, number)
        seen.append(transport.states["estimated"][[1, 2]].tolist())
    assert seen == [[1, 0], [1, 2], [1, 2], [4, 2], [4, 5]]


def test_what_no_row_prefers_gets_the_smoother_and_becomes_the_mean_of_all():
    method = METHODS["fedsoft"](task())
    transport, server = transport_for(method, SCENARIO), method.program.init()
    rows = pack(CLIENTS)
    right, wrong = torch.zeros(2, task().expert.size)  # a model is its last two numbers here: the classes' biases
    right[-2:], wrong[-2:] = torch.tensor([0.0, 0.0]), torch.tensor([-50.0, 50.0])
    worst = torch.stack([right, wrong, wrong])
    preferred = bool((method.predictor.responsibilities({"expert": worst}, {}, rows)[:, 2] == 0).all())
    assert preferred  # of two equal ones the first is taken
    updated = exchange(transport, server | {"expert": worst}, method.program.round, EVERYONE, 1)
    assert bool((transport.states["importance"][:, 2] == 1e-4).all())
    own, n_rows = transport.states["expert"], [len(client) for client in CLIENTS]
    torch.testing.assert_close(updated["expert"][2], weighted_mean(list(own), n_rows), atol=1e-6, rtol=1e-5)
    proportions = method.predictor.proportions(transport.states)
    torch.testing.assert_close(proportions.sum(1), torch.ones(len(CLIENTS), dtype=torch.float64))


def test_the_own_model_predicts_rows_that_it_was_not_trained_on():
    method = METHODS["fedsoft"](task())
    server, states = run_rounds(method, SCENARIO, SOME_AWAY)
    rows = pack(SCENARIO.federation.held_out)
    own = task().expert.log_prob(states["expert"][4][None], rows.x[rows.client_index == 4])[:, 0]
    torch.testing.assert_close(method.predictor.predict(server, states, rows)[rows.client_index == 4], own)
    other = {"expert": random_starts(task(), K)}
    assert torch.equal(method.predictor.predict(other, states, rows), method.predictor.predict(server, states, rows))


def test_k_models_travel_both_ways_with_a_mass_each():
    model, n = 4 * task().expert.size, len(CLIENTS)
    assert payload(METHODS["fedsoft"](task()), SCENARIO) == {"expert": (3 * n * K * model, 3 * n * K * (model + 8))}


@pytest.mark.parametrize("setting", ["strength=0", "interval=0", "smoother=0"])
def test_settings_that_disable_it_are_refused(setting):
    with pytest.raises(ConfigError, match=f"method.{setting.partition('=')[0]}"):
        config.load(None, ["method.name=fedsoft", f"method.{setting}"])
