"""APFL: a literal version of its rule, and what its α is for."""

from __future__ import annotations

import torch

from federations import make_task, payload, run
from fedgmi.data.rows import pack
from fedgmi.methods import METHODS
from fedgmi.methods.local_training import all_rows, plan
from fedgmi.models.training import draw_batches
from literal import SOME_AWAY, losses, ragged_scenario, run_rounds, start_of, weighted_mean

SCENARIO = ragged_scenario()
CLIENTS = SCENARIO.federation.clients


def task(**settings):
    return make_task(SCENARIO.federation.schema, method="apfl", **settings)


def round_alone(made, i: int, w: torch.Tensor, v: torch.Tensor, alpha: float, number: int):
    """Client i's round by torch's own Adam: α first, then w and v in turn on every batch."""
    share = torch.tensor(alpha, requires_grad=True)
    losses(made, share * v + (1 - share) * w, CLIENTS[i]).mean().backward()
    alpha = min(max(alpha - made.settings.alpha_rate * float(share.grad), 0.0), 1.0)
    rows = pack(CLIENTS, [i])
    w, v = w.clone().requires_grad_(), v.clone().requires_grad_()
    first, second = torch.optim.Adam([w], lr=made.lr), torch.optim.Adam([v], lr=made.lr)
    batches, _ = draw_batches(plan(made, rows, all_rows(rows)), 0, rows, 0, (0, number, "expert"))
    for index in batches:
        x, y = rows.x[index][None], rows.y[index][None]
        mixture = alpha * v + (1 - alpha) * w.detach()
        own = made.expert.loss(mixture[None], x, y).mean()
        shared = made.expert.loss(w[None], x, y).mean()
        v.grad, w.grad = *torch.autograd.grad(own, v), *torch.autograd.grad(shared, w)
        first.step()
        second.step()
    return w.detach(), v.detach(), alpha


def test_equals_a_literal_version_with_some_clients_away():
    made = task(alpha_rate=2.0)
    server, states = run_rounds(METHODS["apfl"](made), SCENARIO, (*SOME_AWAY, SOME_AWAY[0]))
    w = start_of(made, 0)
    v, alpha = [w] * len(CLIENTS), [0.5] * len(CLIENTS)
    for number, ids in enumerate((*SOME_AWAY, SOME_AWAY[0]), 1):
        sent = []
        for i in ids:
            model, v[i], alpha[i] = round_alone(made, i, w, v[i], alpha[i], number)
            sent.append(model)
        w = weighted_mean(sent, [len(CLIENTS[i]) for i in ids])
    assert len({round(a, 4) for a in alpha}) > 1
    torch.testing.assert_close(states["alpha"], torch.tensor(alpha), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(server["expert"][0], w, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(states["personal"], torch.stack(v), atol=2e-4, rtol=1e-3)


def test_the_global_model_and_the_bytes_are_those_of_fedavg():
    average = make_task(SCENARIO.federation.schema, method="fedavg")
    server, _, _ = run(METHODS["apfl"](task()), SCENARIO, rounds=3)
    other, _, _ = run(METHODS["fedavg"](average), SCENARIO, rounds=3)
    torch.testing.assert_close(server["expert"], other["expert"], atol=1e-5, rtol=1e-5)
    assert payload(METHODS["apfl"](task()), SCENARIO) == payload(METHODS["fedavg"](average), SCENARIO)


def test_alpha_follows_its_gradient_and_stays_a_share():
    _, states, _ = run(METHODS["apfl"](task(alpha_rate=100.0)), SCENARIO, rounds=4)
    assert float(states["alpha"].min()) >= 0.0
    assert float(states["alpha"].max()) <= 1.0
    assert float((states["alpha"] - 0.5).abs().max()) > 0.1


def test_the_mixture_predicts_and_a_newcomer_gets_the_global_model():
    made = task()
    method = METHODS["apfl"](made)
    server, states, _ = run(method, SCENARIO)
    rows = pack(SCENARIO.federation.held_out)
    found = method.predictor.predict(server, states, rows)
    mine = rows.client_index == 3
    alpha = states["alpha"][3]
    model = alpha * states["personal"][3] + (1 - alpha) * server["expert"][0]
    torch.testing.assert_close(found[mine], made.expert.log_prob(model[None], rows.x[mine])[:, 0], atol=1e-5, rtol=1e-5)
    new = method.predictor.infer_client(server, rows)
    expected = made.expert.log_prob(server["expert"], rows.x)[:, 0]
    torch.testing.assert_close(method.predictor.predict(server, new, rows), expected)
