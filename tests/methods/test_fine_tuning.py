"""Fine-tuning after the last round: a literal version of its rule, and who gets which model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from federations import gaussian_scenario, make_task, run
from fedgmi.data.rows import pack
from fedgmi.methods import METHODS
from fedgmi.methods.baselines.fine_tuning import BETA, CHOSEN, NOBODY, fine_tuned
from fedgmi.methods.own_models import BETAS
from fedgmi.methods.standardising import standardised
from fedgmi.protocol.in_process import InProcess
from literal import EVERYONE, ragged_scenario, train_alone

SCENARIO = ragged_scenario()
CLIENTS, HELD = SCENARIO.federation.clients, SCENARIO.federation.validation
LAST = 3  # the number of the end, after two rounds
UNLIKE = gaussian_scenario(8, 60, name="gaussian", alpha=0.05)


def task(method: str = "fedavg-ft", **settings):
    return make_task(SCENARIO.federation.schema, method=method, **({"passes": [3, 1], "rates": [0.3, 1.0]} | settings))


def ended(method, scenario=SCENARIO, validation=HELD):
    """All rounds with everyone, on clients that have these rows for validation → server and client states."""
    transport = InProcess(scenario.federation.clients, method.program, validation=validation)
    server, states, _ = run(method, scenario, transport=transport)
    return server, states


def tuned_alone(made, i: int, model: torch.Tensor, stops: list[int], rate: float) -> torch.Tensor:
    """Client i's model after the last stop, by one call of training after another."""
    done = 0
    for stop in stops:
        stretch = made.training.model_copy(update={"epochs": stop - done})
        key = (0, LAST, f"tuning to {stop} at {rate!r}")
        model = train_alone(made.replace(lr=rate * made.lr, training=stretch), CLIENTS, i, model, key)
        done = stop
    return model


def log_likelihood(made, models: list[torch.Tensor], beta: float) -> float:
    """Of all clients' validation rows, client by client."""
    total = 0.0
    for model, client in zip(models, HELD, strict=True):
        logits = made.expert.logits(model[None], client.x[None])[0].double()
        total -= float(torch.nn.functional.cross_entropy(beta * logits, client.y, reduction="sum"))
    return total


def test_equals_a_literal_version():
    made = task()
    server, states = ended(METHODS["fedavg-ft"](made))
    shared = server["expert"][0]
    tried = [[shared] * len(CLIENTS)]
    for rate in (0.3, 1.0):
        for stops in ([1], [1, 3]):
            tried.append([tuned_alone(made, i, shared, stops, rate) for i in EVERYONE])
    grid = torch.tensor([[log_likelihood(made, models, float(beta)) for beta in BETAS] for models in tried])
    grid = grid - 3.0 * BETAS.log() ** 2
    best = int(grid.max(1).values.argmax())
    assert int(server[CHOSEN]) == best
    assert server[BETA].tolist() == [float(BETAS[grid[place].argmax()]) for place in (0, best)]
    torch.testing.assert_close(states["personal"], torch.stack(tried[best]), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("tuned", "plain"), [("fedavg-ft", "fedavg"), ("fedprox-ft", "fedprox")])
def test_the_shared_model_is_that_of_the_method_that_is_tuned(tuned, plain):
    server, _ = ended(METHODS[tuned](task(tuned)))
    other, _, _ = run(METHODS[plain](make_task(SCENARIO.federation.schema, method=plain)), SCENARIO)
    assert torch.equal(server["expert"], other["expert"])


def test_without_validation_rows_it_is_a_round_of_ones_own():
    made = task()
    server, states = ended(METHODS["fedavg-ft"](made), validation=())
    assert int(server[CHOSEN]) == NOBODY
    assert server[BETA].tolist() == [1.0, 1.0]
    own = [tuned_alone(made, i, server["expert"][0], [made.training.epochs], 1.0) for i in EVERYONE]
    torch.testing.assert_close(states["personal"], torch.stack(own), atol=2e-5, rtol=1e-4)


def test_single_clients_may_have_no_validation_rows():
    none = replace(HELD[2], x=HELD[2].x[:0], y=HELD[2].y[:0])
    server, states = ended(METHODS["fedavg-ft"](task()), validation=(*HELD[:2], none, *HELD[3:]))
    assert int(server[CHOSEN]) != NOBODY
    assert bool(states["personal"].isfinite().all())


def test_a_rate_that_runs_away_drops_out():
    plain, _ = ended(METHODS["fedavg-ft"](task(rates=[0.3])))
    server, states = ended(METHODS["fedavg-ft"](task(rates=[0.3, 1e30])))
    assert torch.equal(server[CHOSEN], plain[CHOSEN])
    assert torch.equal(server[BETA], plain[BETA])
    assert bool(states["personal"].isfinite().all())


def test_a_client_with_no_validation_rows_tells_nothing_and_is_tuned_as_all():
    """Sums alone travel, so what the others choose is what it does."""
    method = METHODS["fedavg-ft"](task())
    with_rows, states = ended(method)
    [look, _] = method.program.finish
    some = pack(CLIENTS, [2], validation=tuple(replace(c, x=c.x[:0], y=c.y[:0]) for c in HELD))
    _, message = look.client({"expert": with_rows["expert"]}, {}, some, LAST)
    assert not message.sums["log_likelihood"].any()
    assert float(message.sums["rows"]) == 0
    assert not message.models
    assert not message.replies
    assert states["personal"].shape == (5, task().expert.size)


def test_messages_of_packed_clients_are_the_sums_of_single_ones():
    method = METHODS["fedavg-ft"](task())
    server = method.program.init()
    [look, _] = method.program.finish
    _, together = look.client(server, {}, pack(CLIENTS, validation=HELD), LAST)
    singly = [look.client(server, {}, pack(CLIENTS, [i], validation=HELD), LAST)[1] for i in EVERYONE]
    for name, leaf in together.sums.items():
        torch.testing.assert_close(leaf, sum(one.sums[name] for one in singly), atol=1e-3, rtol=1e-5)


def test_where_clients_are_unlike_it_helps_them():
    rows = pack(UNLIKE.federation.held_out)
    found = {}
    for name in ("fedavg", "fedavg-ft"):
        method = METHODS[name](make_task(UNLIKE.federation.schema, method=name))
        server, states = ended(method, UNLIKE, UNLIKE.federation.validation)
        logs = method.predictor.predict(server, states, replace(rows, y=None))
        found[name] = float(logs.gather(1, rows.y[:, None]).mean())
    assert found["fedavg-ft"] > found["fedavg"] + 0.05


def test_a_newcomer_gets_the_shared_model_at_its_own_temperature():
    made = task()
    method = METHODS["fedavg-ft"](made)
    server, states = ended(method)
    rows = pack(SCENARIO.federation.held_out)
    new = method.predictor.infer_client(server, rows)
    expected = (made.expert.log_prob(server["expert"], rows.x)[:, 0].double() * server[BETA][0]).log_softmax(1)
    torch.testing.assert_close(method.predictor.predict(server, new, rows), expected)
    torch.testing.assert_close(method.predictor.predict(server, {}, rows), expected)  # it missed the last steps
    assert float((method.predictor.predict(server, states, rows) - expected).abs().max()) > 1e-3


def test_temperature_leaves_labels_as_they_are():
    method = METHODS["fedavg-ft"](task())
    server, states = ended(method)
    rows = pack(SCENARIO.federation.held_out)
    flat = states | {"beta": torch.ones_like(states["beta"])}
    one, other = (method.predictor.predict(server, at, rows).argmax(1) for at in (states, flat))
    assert torch.equal(one, other)


def test_validation_rows_are_put_on_the_scale_of_the_others():
    wide = replace(
        SCENARIO.federation,
        clients=tuple(replace(c, x=100 * c.x) for c in CLIENTS),
        validation=tuple(replace(c, x=100 * c.x) for c in HELD),
    )
    made = task()
    found = []
    for federation in (SCENARIO.federation, wide):
        method = standardised(METHODS["fedavg-ft"](made), federation.schema)
        scenario = replace(SCENARIO, federation=federation)
        found.append(ended(method, scenario, federation.validation)[1]["personal"])
    torch.testing.assert_close(*found, atol=2e-3, rtol=2e-3)


def test_it_goes_around_any_method_with_one_shared_model():
    made = task()
    ditto = METHODS["ditto"](make_task(SCENARIO.federation.schema, method="ditto"))
    server, states = ended(fine_tuned(ditto, made))
    average, expected = ended(METHODS["fedavg-ft"](made))
    assert torch.equal(server["expert"], average["expert"])
    assert torch.equal(states["personal"], expected["personal"])
