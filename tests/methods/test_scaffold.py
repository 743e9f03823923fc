"""SCAFFOLD: a literal version of its rule, and what control variates are for."""

from __future__ import annotations

import torch

from federations import make_task, payload, run
from fedgmi.data.rows import pack
from fedgmi.methods import METHODS
from fedgmi.methods.local_training import all_rows, plan
from fedgmi.models.training import draw_batches
from literal import EVERYONE, SOME_AWAY, losses, ragged_scenario, run_rounds, start_of, weighted_mean

SCENARIO = ragged_scenario()
CLIENTS = SCENARIO.federation.clients
ROWS = sum(len(client) for client in CLIENTS)


def task():
    return make_task(SCENARIO.federation.schema, method="scaffold")


def gradient_of(made, model: torch.Tensor, i: int) -> torch.Tensor:
    """∇F_i at a model, over all of client i's rows."""
    model = model.clone().requires_grad_()
    return torch.autograd.grad(losses(made, model, CLIENTS[i]).mean(), model)[0]


def train_corrected(made, i: int, start: torch.Tensor, correction: torch.Tensor, number: int) -> torch.Tensor:
    """Client i's passes by torch's own Adam, with a constant added to every gradient."""
    rows, params = pack(CLIENTS, [i]), start.clone().requires_grad_()
    optimiser = torch.optim.Adam([params], lr=made.lr)
    batches, _ = draw_batches(plan(made, rows, all_rows(rows)), 0, rows, 0, (0, number, "expert"))
    for index in batches:
        optimiser.zero_grad()
        made.expert.loss(params[None], rows.x[index][None], rows.y[index][None]).mean().backward()
        params.grad += correction
        optimiser.step()
    return params.detach()


def test_equals_a_literal_version_with_some_clients_away():
    made, who = task(), (*SOME_AWAY, SOME_AWAY[0])
    server, states = run_rounds(METHODS["scaffold"](made), SCENARIO, who)
    model = start_of(made, 0)
    common, own = torch.zeros_like(model), [torch.zeros_like(model)] * len(CLIENTS)
    for number, ids in enumerate(who, 1):
        trained = [train_corrected(made, i, model, common - own[i], number) for i in ids]
        for i in ids:
            new = gradient_of(made, model, i)
            common = common + len(CLIENTS[i]) / ROWS * (new - own[i])
            own[i] = new
        model = weighted_mean(trained, [len(CLIENTS[i]) for i in ids])
    torch.testing.assert_close(server["expert"][0], model, atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(server["control"][0], common, atol=2e-5, rtol=1e-3)
    torch.testing.assert_close(states["control"], torch.stack(own), atol=2e-5, rtol=1e-3)


def test_the_first_round_is_fedavg():
    server, _ = run_rounds(METHODS["scaffold"](task()), SCENARIO, [EVERYONE])
    average = METHODS["fedavg"](make_task(SCENARIO.federation.schema, method="fedavg"))
    other, _ = run_rounds(average, SCENARIO, [EVERYONE])
    torch.testing.assert_close(server["expert"], other["expert"], atol=1e-6, rtol=1e-5)


def test_the_common_control_is_the_mean_of_all_clients_own():
    server, states, _ = run(METHODS["scaffold"](task()), SCENARIO, rounds=4, participation=0.5)
    sizes = torch.tensor([float(len(client)) for client in CLIENTS])
    expected = (states["control"] * sizes[:, None]).sum(0) / sizes.sum()
    torch.testing.assert_close(server["control"][0], expected, atol=1e-5, rtol=1e-4)
    assert float(expected.abs().max()) > 1e-3


def test_bytes_are_twice_those_of_fedavg():
    average = METHODS["fedavg"](make_task(SCENARIO.federation.schema, method="fedavg"))
    found, other = (payload(method, SCENARIO)["expert"] for method in (METHODS["scaffold"](task()), average))
    assert found == (2 * other[0], 2 * other[1])
