"""BCFL-G: a literal version of its rule."""

from __future__ import annotations

import torch
from torch import Tensor

from federations import make_task, payload, run
from fedgmi.methods import METHODS
from literal import EVERYONE, SIZES, SOME_AWAY, losses, ragged_scenario, run_rounds, start_of, train_alone

SCENARIO = ragged_scenario()
CLIENTS = SCENARIO.federation.clients
K = 3


def task(n_components: int = K, **own):
    return make_task(SCENARIO.federation.schema, n_components, method="bcfl", **own)


def best(models: list[Tensor], i: int) -> int:
    """The cluster that client i joins."""
    return int(torch.stack([losses(task(), model, CLIENTS[i]).mean() for model in models]).argmin())


def literal_squares(model: Tensor, i: int) -> Tensor:
    """Σ_b (|b|/n) ∇F_b², batch by batch [P]."""
    client, total = CLIENTS[i], torch.zeros_like(model)
    for begin in range(0, len(client), 10):
        x, y = client.x[begin : begin + 10], client.y[begin : begin + 10]
        at = model.clone().requires_grad_()
        with torch.enable_grad():
            loss = torch.nn.functional.cross_entropy(task().expert.logits(at[None], x[None])[0], y)
            total += len(y) / len(client) * torch.autograd.grad(loss, at)[0] ** 2
    return total


def test_equals_a_literal_version_with_some_clients_away():
    strength = 0.5
    server, states = run_rounds(METHODS["bcfl"](task(strength=strength)), SCENARIO, SOME_AWAY)
    models = [start_of(task(), k) for k in range(K)]
    precisions = [torch.ones_like(model) for model in models]
    for number, ids in enumerate(SOME_AWAY, 1):
        chosen = {i: best(models, i) for i in ids}
        for k in set(chosen.values()):
            mean, sharp = models[k], precisions[k]
            group = [i for i in ids if chosen[i] == k]

            def pull(model: Tensor, mean: Tensor = mean, sharp: Tensor = sharp) -> Tensor:
                return 0.5 * strength * (sharp * (model - mean) ** 2).sum()

            own = [train_alone(task(), CLIENTS, i, mean, (0, number, "expert"), pull=pull) for i in group]
            found = [sharp + literal_squares(model, i) for model, i in zip(own, group, strict=True)]
            precisions[k] = sum(found) / len(group)
            models[k] = sum(p * w for p, w in zip(found, own, strict=True)) / sum(found)
    torch.testing.assert_close(server["expert"], torch.stack(models), atol=5e-5, rtol=1e-3)
    torch.testing.assert_close(server["precision"], torch.stack(precisions), atol=5e-5, rtol=1e-3)
    assert states["proportions"].argmax(1).tolist() == [best(models, i) for i in EVERYONE]


def test_precision_only_grows_and_weighs_clients_by_it():
    server, _, _ = run(METHODS["bcfl"](task(1)), SCENARIO, rounds=3)
    assert float(server["precision"].min()) >= 1.0
    assert float(server["precision"].max()) > 1.01


def test_models_travel_with_their_precision():
    model = 4 * task().expert.size
    down, up = payload(METHODS["bcfl"](task()), SCENARIO, rounds=2)["expert"]
    n = len(SIZES)
    assert up == 2 * n * 2 * (model + 8 * K)  # two sums of one cluster, with K masses each
    assert down <= n * (2 * 2 * K + K) * model
