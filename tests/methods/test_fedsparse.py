"""FedSparse: a literal version of its rule, its gates, and what closes them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from federations import make_task, payload, run
from fedgmi.data.rows import pack
from fedgmi.methods import METHODS
from fedgmi.methods.baselines import hard_concrete
from fedgmi.methods.local_training import all_rows, plan
from fedgmi.models import training
from literal import SIZES, SOME_AWAY, ragged_scenario, run_rounds, start_of, weighted_mean

SCENARIO = ragged_scenario()
CLIENTS = SCENARIO.federation.clients
OWN = {"strength": 0.7, "sparsity": 0.3, "open_first": 0.8}


def task(**own):
    return make_task(SCENARIO.federation.schema, method="fedsparse", **(OWN | own))


def literal_client(i: int, centre: Tensor, gates: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Client i's φ and π after its passes from w and θ, row after row and term after term."""
    made, rows, size = task(), pack(CLIENTS, [i]), len(centre)
    shift = 2 / 3 * math.log(0.1 / 1.1)

    def loss(params: Tensor, batch: training.Batch) -> Tensor:
        model, location = params[0, :size], params[0, size:]
        seed = int(batch.noise[0, 0, 0].view(torch.int32)) & 0xFFFFFFFF
        u = torch.rand(size, generator=torch.Generator().manual_seed(seed))
        s = torch.sigmoid((torch.log(u / (1 - u)) + location) / (2 / 3))
        z = torch.clamp(s * 1.2 - 0.1, 0, 1)
        logits = made.expert.logits((model * z)[None], batch.x)[0]
        entropy = torch.nn.functional.cross_entropy(logits, batch.y[0], reduction="none")
        share = torch.sigmoid(location - shift)
        open_gate, closed = torch.distributions.Bernoulli(share), torch.distributions.Bernoulli(gates)
        rest = 0.7 / 2 * (share * (model - centre) ** 2).sum() + 0.3 * share.sum()
        rest = rest + torch.distributions.kl_divergence(open_gate, closed).sum()
        return (entropy + rest / len(rows))[None]

    start = torch.cat([centre, torch.log(gates / (1 - gates)) + shift])
    jobs = plan(made, rows, all_rows(rows))
    objective, key = training.Objective(loss), (0, number, "expert")
    found = training.fit(objective, start[None], jobs, rows, settings=made.training, lr=made.lr, key=key, noise_size=1)[
        0
    ]
    return found[:size], torch.sigmoid(found[size:] - shift)


def test_equals_a_literal_version_with_some_clients_away():
    server, _ = run_rounds(METHODS["fedsparse"](task()), SCENARIO, SOME_AWAY)
    centre, gates = start_of(task(), 0), torch.full((task().expert.size,), 0.8)
    for number, ids in enumerate(SOME_AWAY, 1):
        found = {i: literal_client(i, centre, gates, number) for i in ids}
        sizes = [SIZES[i] for i in ids]
        gates = weighted_mean([found[i][1] for i in ids], sizes)
        centre = weighted_mean([found[i][0] * found[i][1] for i in ids], sizes) / gates
    torch.testing.assert_close(server["gates"][0], gates, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(server["expert"][0], centre, atol=2e-4, rtol=2e-3)


def test_predictions_are_those_of_the_gated_model():
    method = METHODS["fedsparse"](task())
    server, states, _ = run(method, SCENARIO)
    gates = server["gates"][0]
    location = torch.log(gates / (1 - gates)) + 2 / 3 * math.log(0.1 / 1.1)
    model = server["expert"][0] * torch.clamp(torch.sigmoid(location) * 1.2 - 0.1, 0, 1)
    rows = pack(SCENARIO.federation.held_out)
    found = method.predictor.predict(server, states, rows)
    torch.testing.assert_close(found, task().expert.log_prob(model[None], rows.x)[:, 0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_so_many_gates_are_open_as_their_share_says(share):
    location = hard_concrete.location_of(torch.full((1, 20_000), share))
    z = hard_concrete.drawn(location, hard_concrete.uniform_draws(torch.tensor([0.3]), 20_000))
    assert float((z > 0).float().mean()) == pytest.approx(share, abs=0.015)
    assert 0.0 <= float(z.min()) <= float(z.max()) <= 1.0


def test_costly_gates_close():
    mild, dear = (run(METHODS["fedsparse"](task(sparsity=cost)), SCENARIO)[0]["gates"] for cost in (1e-3, 300.0))
    assert float(dear.max()) < float(mild.min())


def test_model_and_gates_travel():
    model = 4 * task().expert.size
    n = 3 * len(SIZES)
    assert payload(METHODS["fedsparse"](task()), SCENARIO) == {"expert": (n * 2 * model, n * 2 * (model + 8))}
