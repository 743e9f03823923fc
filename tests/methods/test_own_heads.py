"""FedPer and FedRep: literal versions of their rules, and what stays with a client."""

from __future__ import annotations

import pytest
import torch

from federations import make_task, payload, run
from fedgmi.data.rows import pack
from fedgmi.errors import ConfigError
from fedgmi.methods import METHODS
from fedgmi.methods.local_training import all_rows, plan
from fedgmi.models.training import draw_batches
from literal import EVERYONE, SOME_AWAY, ragged_scenario, run_rounds, start_of, train_alone, weighted_mean

SCENARIO = ragged_scenario()
CLIENTS = SCENARIO.federation.clients


def task(method: str, **settings):
    return make_task(SCENARIO.federation.schema, method=method, **settings)


def trunk_of(made) -> int:
    return made.expert.trunk


def part_alone(made, i: int, start: torch.Tensor, purpose: str, number: int, epochs: int, moving: slice):
    """torch's own Adam on some of the parameters, on the batches that the packed version draws."""
    made = made.replace(training=made.training.model_copy(update={"epochs": epochs}))
    rows = pack(CLIENTS, [i])
    mine = start[moving].clone().requires_grad_()
    optimiser = torch.optim.Adam([mine], lr=made.lr)
    batches, _ = draw_batches(plan(made, rows, all_rows(rows)), 0, rows, 0, (0, number, purpose))
    for index in batches:
        model = start.clone()
        model[moving] = mine
        optimiser.zero_grad()
        made.expert.loss(model[None], rows.x[index][None], rows.y[index][None]).mean().backward()
        optimiser.step()
    model = start.clone()
    model[moving] = mine.detach()
    return model


def literal_run(made, train) -> tuple[torch.Tensor, torch.Tensor]:
    """Two rounds, some away in the second → the shared layers and the heads."""
    cut = trunk_of(made)
    trunk, heads = start_of(made, 0)[:cut], [start_of(made, 0)[cut:]] * len(CLIENTS)
    for number, ids in enumerate(SOME_AWAY, 1):
        sent = []
        for i in ids:
            model = train(i, torch.cat([trunk, heads[i]]), number)
            heads[i] = model[cut:]
            sent.append(model[:cut])
        trunk = weighted_mean(sent, [len(CLIENTS[i]) for i in ids])
    return trunk, torch.stack(heads)


def test_fedper_equals_a_literal_version_with_some_clients_away():
    made = task("fedper")
    server, states = run_rounds(METHODS["fedper"](made), SCENARIO, SOME_AWAY)
    trunk, heads = literal_run(
        made, lambda i, model, number: train_alone(made, CLIENTS, i, model, (0, number, "expert"))
    )
    torch.testing.assert_close(server["expert"][0], trunk, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(states["expert"], heads, atol=2e-5, rtol=1e-4)


def test_fedrep_equals_a_literal_version_with_some_clients_away():
    made = task("fedrep", head_epochs=3)
    cut = trunk_of(made)

    def train(i, model, number):
        model = part_alone(made, i, model, "head", number, 3, slice(cut, None))
        return part_alone(made, i, model, "expert", number, made.training.epochs, slice(cut))

    server, states = run_rounds(METHODS["fedrep"](made), SCENARIO, SOME_AWAY)
    trunk, heads = literal_run(made, train)
    torch.testing.assert_close(server["expert"][0], trunk, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(states["expert"], heads, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["fedper", "fedrep"])
def test_heads_stay_with_their_clients(name):
    made = task(name)
    shared = len(EVERYONE) * 3 * trunk_of(made) * 4
    masses = len(EVERYONE) * 3 * 8
    assert payload(METHODS[name](made), SCENARIO) == {"expert": (shared, shared + masses)}


@pytest.mark.parametrize("name", ["fedper", "fedrep"])
def test_a_client_predicts_with_the_shared_layers_and_its_own_head(name):
    made = task(name)
    method = METHODS[name](made)
    server, states, _ = run(method, SCENARIO)
    rows = pack(SCENARIO.federation.held_out)
    found = method.predictor.predict(server, states, rows)
    for i in EVERYONE:
        model = torch.cat([server["expert"][0], states["expert"][i]])
        mine = rows.client_index == i
        torch.testing.assert_close(found[mine], made.expert.log_prob(model[None], rows.x[mine])[:, 0])


@pytest.mark.parametrize("name", ["fedper", "fedrep"])
def test_an_expert_without_a_trunk_is_refused(name):
    with pytest.raises(ConfigError, match=f"{name} shares all layers but the last.*has no such trunk"):
        METHODS[name](make_task(SCENARIO.federation.schema, method=name, shared="none"))
