"""pFedMe: a literal version of its rule, and which of its two models does what."""

from __future__ import annotations

from dataclasses import replace

import torch

from federations import make_task, payload, run
from fedgmi.data.rows import pack
from fedgmi.methods import METHODS
from fedgmi.methods.local_training import all_rows, plan
from fedgmi.models.training import draw_batches
from literal import EVERYONE, SOME_AWAY, ragged_scenario, run_rounds, start_of, weighted_mean

SCENARIO = ragged_scenario()
CLIENTS = SCENARIO.federation.clients


def task(**settings):
    made = make_task(SCENARIO.federation.schema, method="pfedme", **({"inner_steps": 2} | settings))
    return made.replace(training=made.training.model_copy(update={"epochs": 2}))


def round_alone(made, i: int, start: torch.Tensor, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Client i's local rounds by torch's own Adam → its copy of the global model, and its personal model."""
    rows, settings = pack(CLIENTS, [i]), made.settings
    jobs = plan(made, rows, all_rows(rows))
    left, local, copy, theta = int(jobs.steps), 0, start, start
    while left > 0:
        steps = min(left, settings.inner_steps)
        theta = theta.clone().requires_grad_()
        optimiser = torch.optim.Adam([theta], lr=made.lr)
        key = (0, number, f"expert, local round {local}")
        batches, _ = draw_batches(replace(jobs, steps=torch.tensor([steps])), 0, rows, 0, key)
        for index in batches:
            optimiser.zero_grad()
            loss = made.expert.loss(theta[None], rows.x[index][None], rows.y[index][None]).mean()
            (loss + settings.strength / 2 * ((theta - copy) ** 2).sum()).backward()
            optimiser.step()
        theta = theta.detach()
        copy = copy - settings.outer_step * (copy - theta)
        left, local = left - steps, local + 1
    return copy, theta


def test_equals_a_literal_version_with_some_clients_away():
    made = task(strength=3.0, outer_step=0.5)
    server, states = run_rounds(METHODS["pfedme"](made), SCENARIO, SOME_AWAY)
    model = start_of(made, 0)
    personal = [model] * len(CLIENTS)
    for number, ids in enumerate(SOME_AWAY, 1):
        copies = []
        for i in ids:
            copy, personal[i] = round_alone(made, i, model, number)
            copies.append(copy)
        model = weighted_mean(copies, [len(CLIENTS[i]) for i in ids])
    torch.testing.assert_close(server["expert"][0], model, atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(states["personal"], torch.stack(personal), atol=2e-4, rtol=1e-3)


def test_the_larger_lambda_the_nearer_to_the_global_model():
    moved = []
    for strength in (0.1, 100.0):
        made = task(strength=strength, outer_step=0.01)
        _, states = run_rounds(METHODS["pfedme"](made), SCENARIO, [EVERYONE])
        moved.append(float((states["personal"] - start_of(made, 0)).norm()))
    assert moved[1] < 0.7 * moved[0]


def test_the_personal_model_predicts_and_a_newcomer_gets_the_global_one():
    made = task()
    method = METHODS["pfedme"](made)
    server, states, _ = run(method, SCENARIO)
    rows = pack(SCENARIO.federation.held_out)
    mine = rows.client_index == 3
    own = made.expert.log_prob(states["personal"][3][None], rows.x[mine])[:, 0]
    torch.testing.assert_close(method.predictor.predict(server, states, rows)[mine], own)
    assert torch.equal(method.predictor.infer_client(server, rows)["personal"], server["expert"].expand(5, -1))


def test_bytes_are_those_of_fedavg():
    average = METHODS["fedavg"](make_task(SCENARIO.federation.schema, method="fedavg"))
    assert payload(METHODS["pfedme"](task()), SCENARIO) == payload(average, SCENARIO)
