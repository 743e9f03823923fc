"""What clients have of their own at the end: candidates, temperatures, weights, newcomers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from federations import SMALL, draw, gaussian_scenario, make_task, run
from fedgmi.data.rows import pack
from fedgmi.methods import METHODS
from fedgmi.methods.candidates import BETA, KEPT, LAST_BETA, TRIED, WEIGHTS, Candidates, OwnPart
from fedgmi.methods.local_training import own_log_prob
from fedgmi.methods.own_models import BETAS, NOBODY, WORST, by_temperature
from fedgmi.mixture.stacking import STRENGTH, own_weights, prior_weights
from fedgmi.models import density
from fedgmi.models.heads import CLASSES
from fedgmi.protocol.in_process import InProcess
from fedgmi.protocol.message import Message

SCENARIO = gaussian_scenario(6, 40, separation=4.0)
CLIENTS, HELD = SCENARIO.federation.clients, SCENARIO.federation.validation


def ended(name="fedgmi", validation=HELD, **own):
    """A run to its end → (method, server, states)."""
    method = METHODS[name](make_task(SCENARIO.federation.schema, method=name, **(SMALL.get(name, {}) | own)))
    transport = InProcess(CLIENTS, method.program, validation=validation)
    return method, *run(method, SCENARIO, transport=transport)[:2]


@pytest.fixture(scope="module")
def fitted():
    return ended()


def test_with_one_component_it_is_fedavg_with_the_same_part():
    """To the bit."""
    one, server, states = ended(n_components=1)
    average, other, others = ended("fedavg", personal=True)
    for name in (TRIED, BETA, WEIGHTS, "expert"):
        assert torch.equal(server[name], other[name]), name
    rows = pack(SCENARIO.federation.held_out)
    found = one.predictor.predict(server, states, replace(rows, y=None))
    assert torch.equal(found, average.predictor.predict(other, others, replace(rows, y=None)))


def test_a_prediction_is_the_mixture_of_tempered_candidates(fitted):
    """By hand, for one client."""
    method, server, states = fitted
    rows = replace(pack(SCENARIO.federation.held_out, [2]), y=None)
    state = {name: leaf[2:3] for name, leaf in states.items()}
    task = make_task(SCENARIO.federation.schema)
    experts = task.expert.log_prob(server["expert"], rows.x).double().exp()
    gated = method.predictor.shared(server, state, rows).double()
    mixed = (experts * state["proportions"][0].double()[None, :, None]).sum(1).log()
    own = [own_log_prob(task, state["personal"][:, i], rows).double() for i in range(KEPT)]
    tempered = [(beta * q).softmax(1) for beta, q in zip(server[BETA], (gated, mixed, *own), strict=True)]
    whole = sum(weight * q for weight, q in zip(state["weights"][0], tempered, strict=True))
    assert float(server[LAST_BETA]) in BETAS.tolist()
    expected = whole ** server[LAST_BETA] / (whole ** server[LAST_BETA]).sum(1, keepdim=True)
    found = method.predictor.predict(server, state, rows)
    torch.testing.assert_close(found.exp(), expected, atol=1e-5, rtol=1e-4)


def candidates():
    return Candidates(make_task(SCENARIO.federation.schema), OwnPart(lambda *_: [], 2, lambda *_: None, (), ()))


def choose(likelihood):
    """The server's leaves after it heard of two shared candidates and of nets, the best temperature being the first."""
    sums = {"log_likelihood": torch.full((len(likelihood), len(BETAS)), WORST).double(), "rows": torch.tensor(9.0)}
    sums["log_likelihood"][:, 0] = torch.tensor(likelihood, dtype=torch.float64)
    return candidates().choose({}, Message(sums=sums), 3)


def test_the_likeliest_nets_are_kept_whatever_they_started_from():
    nets = [-90.0, -20.0, -30.0, -90.0, -90.0, -90.0, -40.0, -90.0, -90.0, -90.0, -90.0, -10.0]
    server = choose([-1.0, -1.0, *nets])
    assert server[TRIED].tolist() == [1, 2, 6, 11]
    assert len(server[BETA]) == len(server[WEIGHTS]) == 2 + KEPT


def test_a_net_that_ran_away_at_one_client_is_not_kept_for_want_of_others():
    server = choose([-1.0, -1.0, -20.0, -30.0, *[WORST - 50.0] * 10])
    assert server[TRIED].tolist() == [0, 1]


def test_nets_that_are_kept_are_those_that_were_tried(fitted):
    """Their likelihoods on rows for validation are the best of the ones that were told."""
    method, server, states = fitted
    rows = pack(CLIENTS, validation=HELD)
    steps = {step.name: step for step in method.program.finish}
    look = steps["try own parts"].client(server, states, rows, 3)[1].sums["log_likelihood"][2:]
    nets = steps["own part"].client(server, states, rows, 3)[0]["personal"]
    task, held = make_task(SCENARIO.federation.schema), rows.held
    found = torch.stack([by_temperature(own_log_prob(task, net, held), held.y) for net in nets.unbind(1)])
    torch.testing.assert_close(found, look[server[TRIED]])
    assert set(server[TRIED].tolist()) == set(look.max(1).values.topk(KEPT).indices.tolist())


def test_without_validation_rows_the_shared_mixture_stays_as_it_is():
    method, server, states = ended(validation=())
    assert server[TRIED].unique().tolist() == [NOBODY]
    assert "personal" not in states
    assert not method.predictor.has_own(server)
    rows = replace(pack(SCENARIO.federation.held_out), y=None)
    assert torch.equal(method.predictor.predict(server, states, rows), method.predictor.shared(server, states, rows))


def test_turned_off_nothing_more_is_exchanged():
    method, server, _ = ended(personal=False)
    assert method.predictor.shared is None
    assert not any(name.startswith("personal/") for name in server)


def test_no_model_travels(fitted):
    method, server, _ = fitted
    assert method.predictor.has_own(server)
    names = ("try own parts", "own part", "weigh", "temper", "own weights")
    steps = [step for step in method.program.finish if step.name in names]
    assert len(steps) == 7
    assert all(step.models is None for step in steps)


@pytest.mark.parametrize("bad", ["no rows", "one row", "one class"])
def test_a_client_with_hardly_any_validation_rows_has_sensible_weights(bad):
    held = {"no rows": HELD[2].x[:0], "one row": HELD[2].x[:1], "one class": HELD[2].x}[bad]
    y = torch.zeros_like(HELD[2].y) if bad == "one class" else HELD[2].y[: len(held)]
    _, server, states = ended(validation=(*HELD[:2], replace(HELD[2], x=held, y=y), *HELD[3:]))
    torch.testing.assert_close(states["weights"].sum(1), torch.ones(6, dtype=torch.float64))
    if bad == "no rows":
        prior = prior_weights(server[WEIGHTS], torch.tensor([len(CLIENTS[2])]), 2)
        torch.testing.assert_close(states["weights"][2:3], prior)


def test_rows_of_many_classes_are_tempered_in_parts(monkeypatch):
    """All at once 1,000 classes of 10,000 rows would take gigabytes."""
    sizes = []

    def temper(logs, beta):
        found = CLASSES.temper(logs, beta)
        sizes.append(found.nbytes)
        return found

    logs, labels = torch.randn(50, 7, generator=draw()), torch.arange(50) % 7
    whole = by_temperature(logs, labels)
    monkeypatch.setattr(density, "CHUNK_BYTES", 20_000)
    assert torch.equal(by_temperature(logs, labels, replace(CLASSES, temper=temper)), whole)
    assert max(sizes) <= 20_000


def test_one_row_for_validation_in_all_is_no_proof():
    """Not for nets, and not for models that are as sure as the grid goes, or as unsure."""
    alone = tuple(replace(client, x=client.x[: i == 2], y=client.y[: i == 2]) for i, client in enumerate(HELD))
    _, server, _ = ended(n_components=1, validation=alone)
    assert float(server[WEIGHTS][-1]) < 0.6
    for beta in (*server[BETA].tolist(), float(server[LAST_BETA])):
        assert 0.3 < beta < 2.0


def test_newcomers_have_a_part_of_their_own_where_they_have_labels(fitted):
    method, server, _ = fitted
    rows = pack(CLIENTS, [3])
    known = method.predictor.infer_client(server, rows)
    with_labels = method.predictor.welcome(server, known, rows)
    assert with_labels["personal"].shape == (1, KEPT, server["expert"].shape[1])
    torch.testing.assert_close(with_labels["weights"], prior_weights(server[WEIGHTS], rows.counts, 2))
    bare = replace(rows, y=None)
    without = method.predictor.welcome(server, known, bare)
    assert without == known
    logs = method.predictor.predict(server, without, bare)
    torch.testing.assert_close(logs.exp().sum(1), torch.ones(len(rows), dtype=logs.dtype))


def test_many_rows_speak_for_themselves_and_few_leave_the_prior():
    prior = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    sure = torch.tensor([[0.0, -20.0]], dtype=torch.float64)  # the first candidate is right
    for n, expected in ((0, 0.5), (1, (1 + STRENGTH * 0.5) / (1 + STRENGTH)), (995, 0.9975)):
        rows = replace(pack([replace(CLIENTS[0], x=torch.zeros(n, 8), y=torch.zeros(n, dtype=torch.long))]), cache={})
        found = own_weights(sure.expand(n, 2), rows, prior)
        assert float(found[0, 0]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("missed", ["own part", "own weights"])
def test_who_missed_a_step_of_the_end_has_the_shared_candidates(fitted, missed):
    method, server, states = fitted
    rows = pack(CLIENTS, [1], validation=HELD)
    state = {name: leaf[1:2] for name, leaf in states.items() if name not in ("personal", "weights")}
    steps = {step.name: step for step in method.program.finish}
    for name in ("own part", "weigh", "temper", "own weights"):
        if name != missed:
            state, message = steps[name].client(server, state, rows, 3)
            assert name != "weigh" or (float(message.sums["rows"]) == 0) == (missed == "own part")
    asked = replace(rows, y=None)
    newcomer = {"proportions": state["proportions"]}
    assert torch.equal(
        method.predictor.predict(server, state, asked), method.predictor.predict(server, newcomer, asked)
    )
