"""kNN-Per: a literal version of its memories and of its choice, and who gets which."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from federations import make_task, payload, run
from fedgmi.data.rows import Client, Rows, pack
from fedgmi.errors import ConfigError
from fedgmi.methods import METHODS
from fedgmi.models.experts import expert_from_module
from fedgmi.protocol.in_process import InProcess
from literal import EVERYONE, SIZES, ragged_scenario

SCENARIO = ragged_scenario()
CLIENTS, HELD = SCENARIO.federation.clients, SCENARIO.federation.validation
PAIRS = [(share / 10, k) for k in (1, 3) for share in range(10)]


def task(**own):
    return make_task(SCENARIO.federation.schema, method="knn-per", **({"neighbours": [3, 1]} | own))


def ended(made, validation=HELD):
    """All rounds with everyone, on clients that have these rows for validation → method, server and client states."""
    method = METHODS["knn-per"](made)
    transport = InProcess(CLIENTS, method.program, validation=validation)
    server, states, _ = run(method, SCENARIO, transport=transport)
    return method, server, states


def hidden(made, model: Tensor, x: Tensor) -> Tensor:
    """What the MLP's second layer is given [n, 8]."""
    weight, bias = model[:64].view(8, 8), model[64:72]
    assert made.expert.trunk == 72
    return (x @ weight + bias).relu().double()


def literal_mix(made, model: Tensor, known: Client, x: Tensor, share: float, k: int) -> Tensor:
    """p(y | x) of each row [n, L], neighbour by neighbour."""
    logits = made.expert.logits(model[None], x[None])[0].double()
    memory, found = hidden(made, model, known.x), []
    for row, own in zip(hidden(made, model, x), logits.softmax(1), strict=True):
        squares = ((memory - row) ** 2).sum(1) / 8
        votes = torch.zeros(2, dtype=torch.float64)
        for j in squares.argsort()[:k].tolist():
            votes[known.y[j]] += (-squares[j]).exp()
        found.append((1 - share) * own + share * votes / votes.sum())
    return torch.stack(found)


def literal_likelihoods(made, model: Tensor, i: int) -> Tensor:
    """The log likelihood of client i's validation rows under each pair."""
    held = HELD[i]
    mixes = [literal_mix(made, model, CLIENTS[i], held.x, share, k) for share, k in PAIRS]
    return torch.stack([mix[torch.arange(len(held)), held.y].log().sum() for mix in mixes])


def test_equals_a_literal_version():
    made = task()
    method, server, states = ended(made)
    model = server["expert"][0]
    average, _, _ = run(METHODS["fedavg"](make_task(SCENARIO.federation.schema, method="fedavg")), SCENARIO)
    assert torch.equal(server["expert"], average["expert"])
    found = torch.stack([literal_likelihoods(made, model, i) for i in EVERYONE])
    chosen = [PAIRS[int(best)] for best in found.argmax(1)]
    assert len(set(chosen)) > 1
    assert states["share"].tolist() == [share for share, _ in chosen]
    assert states["neighbours"].tolist() == [k for _, k in chosen]
    pooled = PAIRS[int(found.sum(0).argmax())]
    assert (float(server["memory/share"]), int(server["memory/neighbours"])) == pooled
    rows = pack(SCENARIO.federation.held_out)
    logs = method.predictor.predict(server, states, rows)
    for i in EVERYONE:
        expected = literal_mix(made, model, CLIENTS[i], SCENARIO.federation.held_out[i].x, *chosen[i])
        torch.testing.assert_close(logs[rows.client_index == i].exp(), expected, atol=1e-5, rtol=0)


def test_who_has_no_validation_rows_takes_what_is_best_for_all():
    none = replace(HELD[2], x=HELD[2].x[:0], y=HELD[2].y[:0])
    _, server, states = ended(task(), validation=(*HELD[:2], none, *HELD[3:]))
    assert float(states["share"][2]) == float(server["memory/share"])
    assert int(states["neighbours"][2]) == int(server["memory/neighbours"])


def test_without_validation_rows_both_count_alike():
    _, _, states = ended(task(), validation=())
    assert states["share"].tolist() == [0.5] * len(SIZES)
    assert states["neighbours"].tolist() == [3] * len(SIZES)


def test_newcomers_remember_their_labelled_rows_and_without_labels_have_fedavgs_model():
    method, server, _ = ended(task(capacity=10))
    rows: Rows = pack(CLIENTS)
    states = method.predictor.welcome(server, {}, rows)
    assert [int(n) for n in (states["labels"] >= 0).sum(1)] == [min(n, 10) for n in SIZES]
    assert set(states["share"].tolist()) == {float(server["memory/share"])}
    blind = replace(rows, y=None, cache={})
    shared = task().expert.log_prob(server["expert"], rows.x)[:, 0].double()
    found = method.predictor.predict(server, method.predictor.welcome(server, {}, blind), blind)
    torch.testing.assert_close(found, shared, atol=1e-6, rtol=0)
    assert float((method.predictor.predict(server, states, blind) - shared).abs().max()) > 0.1


def test_the_rounds_cost_what_fedavgs_do():
    average = METHODS["fedavg"](make_task(SCENARIO.federation.schema, method="fedavg"))
    model = 4 * task().expert.size
    down, up = payload(METHODS["knn-per"](task()), SCENARIO)["expert"]
    assert (down - len(SIZES) * model, up) == payload(average, SCENARIO)["expert"]  # the last model, to remember by


def test_an_expert_without_a_last_layer_apart_is_refused():
    made = task()
    alone = expert_from_module(lambda: nn.Linear(8, 2), made.schema)
    with pytest.raises(ConfigError, match="knn-per needs what the last layer is given"):
        METHODS["knn-per"](made.replace(expert=alone))
