"""FedGMI against literal EM and against the truth; FedAvg and local against their few-line versions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from federations import gaussian_scenario, make_task, run, transport_for, without_labels
from fedgmi.data import Scenario, pack
from fedgmi.methods import BOUNDS, METHODS, Task
from fedgmi.methods.fedgmi import schedule
from fedgmi.methods.fedgmi.experts import MU, average_experts, train_heads
from fedgmi.methods.fedgmi.schedule import MIN_CLIENTS
from fedgmi.methods.local_training import all_rows, plan
from fedgmi.models import training
from fedgmi.models.densities.gaussian import mean_and_covariance
from fedgmi.protocol.in_process import InProcess
from fedgmi.protocol.message import Message
from fedgmi.protocol.rounds import Progress, run_rounds
from fedgmi.protocol.step import Step, select
from fedgmi.randomness import generator
from fedgmi.runs.evaluation import evaluate
from fedgmi.tree import Tree

FEDERATION = gaussian_scenario(10, 60, separation=4.0)
CALIBRATED = ("calibration/share", "calibration/scale", "calibration/bias")


def plain_task(scenario: Scenario = FEDERATION, seed: int = 0) -> Task:
    return make_task(scenario.federation.schema, preset="plain", density="gaussian", seed=seed)


def bounds_of(task: Task, scenario: Scenario, rounds: int) -> list[float]:
    """log likelihood per row that the server saw in each round, nats."""
    method, values = METHODS["fedgmi"](task), []

    def after(progress: Progress) -> None:
        if 1 <= progress.round <= rounds:
            values.append(method.metrics(progress.server)["bound"])

    run_rounds(
        method.name,
        method.program,
        transport_for(method, scenario),
        Progress(method.program.init()),
        n_clients=len(scenario.federation.clients),
        rounds=rounds,
        seed=0,
        after=after,
    )
    return values


def log_normal(x: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    return torch.distributions.MultivariateNormal(mean, covariance).log_prob(x)


def literal_em(
    xs: list[Tensor], means: Tensor, covariances: Tensor, rounds: int
) -> tuple[list[Tensor], Tensor, list[float]]:
    """Each round: every client's proportions to their fixed point, then pooled weighted means and covariances."""
    n_components, likelihoods = len(means), []
    proportions = [torch.full((n_components,), 1 / n_components).double() for _ in xs]
    for _ in range(rounds):
        resp, likelihood = [], 0.0
        for i, x in enumerate(xs):
            density = torch.stack([log_normal(x, means[k], covariances[k]) for k in range(n_components)], 1)
            for _ in range(200):
                posterior = (density + proportions[i].clamp(min=1e-12).log()).softmax(1)
                proportions[i] = posterior.mean(0)
            joint = density + proportions[i].clamp(min=1e-12).log()
            resp.append(joint.softmax(1))
            likelihood += float(joint.logsumexp(1).sum())
        likelihoods.append(likelihood / sum(len(x) for x in xs))
        pooled, weight = torch.cat(xs), torch.cat(resp)
        means = (weight.T @ pooled) / weight.sum(0)[:, None]
        for k in range(n_components):
            offset = pooled - means[k]
            covariances[k] = (offset.T * weight[:, k]) @ offset / weight[:, k].sum()
    return proportions, means, likelihoods


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_plain_with_a_closed_form_density_never_lowers_the_likelihood(seed):
    values = bounds_of(plain_task(seed=seed), FEDERATION, 8)
    assert len(values) == 8
    assert all(later >= earlier - 1e-4 for earlier, later in pairwise(values))
    assert values[-1] > values[0] + 0.1


def test_plain_with_a_closed_form_density_is_em():
    task, rounds = plain_task(), 4
    start = METHODS["fedgmi"](task).program.init()
    means, covariances = mean_and_covariance(start["density"], 8)
    xs = [client.x.double() for client in FEDERATION.federation.clients]
    proportions, means, likelihoods = literal_em(xs, means, covariances, rounds)
    server, _, _ = run(METHODS["fedgmi"](task), FEDERATION, rounds=rounds)
    assert bounds_of(task, FEDERATION, rounds) == pytest.approx(likelihoods, abs=1e-3)
    torch.testing.assert_close(mean_and_covariance(server["density"], 8)[0], means, atol=5e-3, rtol=0)
    before_last = METHODS["fedgmi"](task)
    transport, state = transport_for(before_last, FEDERATION), before_last.program.init()
    with torch.no_grad():
        for number in range(1, rounds + 1):
            step = before_last.program.round[0]
            state = step.server(state, transport.exchange(step, state, range(10), number), number)
    torch.testing.assert_close(transport.states["proportions"], torch.stack(proportions), atol=2e-3, rtol=0)


@pytest.mark.parametrize("density", ["gaussian", "vae"])
def test_the_default_recovers_proportions(density):
    """Closer than half of what saying π̄ for everybody would be off, averaged over two seeds."""
    errors, guesses = [], []
    for seed in (0, 1):
        scenario = gaussian_scenario(15, 80, seed, separation=4.0)
        task = make_task(scenario.federation.schema, density=density, seed=seed, codewords=10, calibration_steps=4)
        method = METHODS["fedgmi"](task)
        server, states, _ = run(method, scenario, rounds=3, seed=seed)
        numbers = evaluate(method, task, server, states, scenario)
        errors.append(numbers["proportion_tv"])
        assert scenario.truth is not None
        realised = scenario.truth.proportions()
        guesses.append(float((realised - realised.mean(0)).abs().sum(1).mean() / 2))
    assert sum(errors) / 2 < 0.1
    assert sum(errors) < 0.4 * sum(guesses)


def test_the_sketch_is_held_by_its_preset_and_moved_by_the_default():
    schema = FEDERATION.federation.schema
    held = METHODS["fedgmi"](make_task(schema, preset="sketch"))
    free = METHODS["fedgmi"](make_task(schema))
    for method, same in ((held, True), (free, False)):
        transport, server = transport_for(method, FEDERATION), method.program.init()
        with torch.no_grad():
            for step in method.program.prepare:
                server = step.server(server, transport.exchange(step, server, range(10), 0), 0)
            sketched = transport.states["proportions"].clone()
            for step in method.program.round:
                server = step.server(server, transport.exchange(step, server, range(10), 1), 1)
        assert torch.equal(transport.states["proportions"], sketched) is same


def test_the_oracle_refuses_rows_without_truth():
    method = BOUNDS["oracle"](make_task(FEDERATION.federation.schema, method="oracle"))
    blind = transport_for(replace(method, name="fedgmi"), FEDERATION)
    with pytest.raises(ValueError, match="true component"):
        run(method, FEDERATION, rounds=1, transport=blind)
    [step], server = method.program.round, method.program.init()
    rows = pack(FEDERATION.federation.clients, [0])
    with pytest.raises(ValueError, match="true component"):
        step.client(select(server, step.reads), method.program.client_init((0,)), rows, 1)


def test_the_oracle_predicts_with_the_realised_proportions():
    method = BOUNDS["oracle"](make_task(FEDERATION.federation.schema, method="oracle"))
    _, states, _ = run(method, FEDERATION, rounds=1)
    assert FEDERATION.truth is not None
    torch.testing.assert_close(states["realised"], FEDERATION.truth.proportions())


@pytest.mark.parametrize("present", [MIN_CLIENTS - 1, MIN_CLIENTS])
def test_with_too_few_participants_the_last_calibration_stands(present):
    method = METHODS["fedgmi"](make_task(FEDERATION.federation.schema))
    transport, server = transport_for(method, FEDERATION), method.program.init()
    with torch.no_grad():
        for step in method.program.prepare:
            server = step.server(server, transport.exchange(step, server, range(10), 0), 0)
        before = server
        for step in method.program.round:
            server = step.server(server, transport.exchange(step, server, range(present), 1), 1)
    same = [torch.equal(server[name], before[name]) for name in CALIBRATED]
    assert same == [present < MIN_CLIENTS] * 3


def test_partial_participation_still_finds_proportions():
    scenario = gaussian_scenario(15, 80, separation=4.0)
    task = make_task(scenario.federation.schema, density="gaussian", codewords=10, calibration_steps=4)
    method = METHODS["fedgmi"](task)
    server, states, _ = run(method, scenario, rounds=4, participation=0.4)
    assert evaluate(method, task, server, states, scenario)["proportion_tv"] < 0.12


def test_warm_up_keeps_densities_out_of_the_evidence():
    method = METHODS["fedgmi"](make_task(FEDERATION.federation.schema, warm_up_rounds=3))
    transport, server = transport_for(method, FEDERATION), method.program.init()
    weights = []
    with torch.no_grad():
        for number, steps in enumerate((method.program.prepare, *[method.program.round] * 4)):
            for step in steps:
                server = step.server(server, transport.exchange(step, server, range(10), number), number)
            weights.append(server["calibration/weights"][1:].tolist())
    assert weights[:4] == [[0.0, 0.0]] * 4
    assert max(weights[4]) > 0.0


@pytest.mark.parametrize("preset", ["default", "sketch"])
def test_experts_are_fedavg_while_the_warm_up_lasts(preset):
    schema = FEDERATION.federation.schema
    task = make_task(schema, preset=preset, warm_up_rounds=2)
    average, _, _ = run(METHODS["fedavg"](task), FEDERATION)
    shared, _, _ = run(METHODS["fedgmi"](task), FEDERATION)
    assert torch.equal(shared["expert"], average["expert"].expand(3, -1))
    apart, _, _ = run(METHODS["fedgmi"](task), FEDERATION, rounds=3)
    assert not torch.equal(apart["expert"][0], apart["expert"][1])


def test_reference_models_stay_and_components_train_on():
    schema = FEDERATION.federation.schema
    task = make_task(schema, warm_up_rounds=1, reference_rounds=2)
    server, _, _ = run(METHODS["fedgmi"](task), FEDERATION, rounds=2)
    later, _, end = run(METHODS["fedgmi"](task), FEDERATION, rounds=4)
    assert int(later["reference/version"]) == 2
    for name in ("density", "expert"):
        assert torch.equal(later[f"reference/{name}"], server[name])
    assert torch.equal(later["density"], server["density"])  # it does nothing but judge
    assert not torch.equal(later["expert"], server["expert"])
    followed, _, further = run(
        METHODS["fedgmi"](make_task(schema, warm_up_rounds=1, reference_rounds=4)), FEDERATION, rounds=4
    )
    assert torch.equal(followed["reference/density"], followed["density"])
    assert end.bytes_down < further.bytes_down  # reference models that stay are fetched once
    truth, _, _ = run(BOUNDS["oracle"](task), FEDERATION, rounds=4)
    assert torch.equal(truth["reference/density"], truth["density"])


@pytest.mark.parametrize(("settled", "calibrated"), [(1e9, [1, 2, 3]), (-1.0, [1, 2, 3, 4, 5])])
def test_calibration_stops_once_reference_models_stay_and_weights_have_settled(monkeypatch, settled, calibrated):
    """All of its exchanges or none; and it is taken up at the end."""
    monkeypatch.setattr(schedule, "SETTLED", settled)
    method = METHODS["fedgmi"](make_task(FEDERATION.federation.schema, warm_up_rounds=1, reference_rounds=2))
    taken = []

    class Watched(InProcess):
        def exchange(self, step: Step, server: Tree, ids: Sequence[int], round: int) -> Message:
            taken.append((round, step.name))
            return super().exchange(step, server, ids, round)

    run(method, FEDERATION, rounds=5, transport=Watched(FEDERATION.federation.clients, method.program))
    names = {at: [name for number, name in taken if number == at] for at in range(1, 7)}
    calibration = ["scale evidence", "shares", *["calibrate", "shares"] * 2]
    assert names[6][: len(calibration)] == calibration
    for at in range(1, 6):
        assert names[at] == [*(calibration if at in calibrated else []), "em"]


def test_what_judges_is_fetched_once_and_trained_as_it_is(monkeypatch):
    """A round of calibration brings densities and experts to everybody; one of EM alone the experts to train."""
    monkeypatch.setattr(schedule, "SETTLED", 1e9)
    task = make_task(FEDERATION.federation.schema, warm_up_rounds=1, reference_rounds=2)
    method = METHODS["fedgmi"](task)
    transport = transport_for(method, FEDERATION)
    run(method, FEDERATION, rounds=5, transport=transport)
    density, expert = 10 * 3 * 4 * task.density.size, 10 * 3 * 4 * task.expert.size
    down = [{kind: both[0] for kind, both in transport.ledger.by_kind(number).items()} for number in range(1, 7)]
    found = [(round.get("density", 0), round.get("expert", 0)) for round in down]
    one_model = expert // 3  # the experts are one model after the warm-up's round
    assert found == [(density, expert), (density, one_model), (density, expert), (0, expert), (0, expert), (0, 0)]


def test_densities_of_rows_without_labels_train_to_the_end():
    scenario = without_labels(FEDERATION)
    task = make_task(scenario.federation.schema, warm_up_rounds=1, reference_rounds=2)
    early, _, _ = run(METHODS["fedgmi"](task), scenario, rounds=2)
    late, _, _ = run(METHODS["fedgmi"](task), scenario, rounds=4)
    assert torch.equal(late["reference/density"], early["density"])
    assert not torch.equal(late["density"], early["density"])


def adam_by_hand(task: Task, scenario: Scenario, client: int, start: Tensor, number: int) -> Tensor:
    """One client's round: torch's own Adam, one batch after another, on the batches that its key draws."""
    rows = pack(scenario.federation.clients, [client])
    jobs, params = plan(task, rows, all_rows(rows)), start.clone().requires_grad_()
    optimiser = torch.optim.Adam([params], lr=task.lr)
    batches, _ = training.draw_batches(jobs, 0, rows, task.training.batch_size, 0, (task.seed, number, "expert"))
    assert rows.y is not None
    for index in batches:
        optimiser.zero_grad()
        task.expert.loss(params[None], rows.x[index][None], rows.y[index][None]).mean().backward()
        optimiser.step()
    return params.detach()


def test_fedavg_is_its_few_line_version():
    uneven = gaussian_scenario(4, 30, size_ratio=9.0)
    task, rounds = make_task(uneven.federation.schema), 3
    sizes = [len(client) for client in uneven.federation.clients]
    assert max(sizes) == 9 * min(sizes)
    model = task.expert.init(generator(task.seed, "expert", 0))
    for number in range(1, rounds + 1):
        trained = [adam_by_hand(task, uneven, i, model, number) for i in range(4)]
        model = sum(n * params for n, params in zip(sizes, trained, strict=True)) / sum(sizes)
    server, _, _ = run(METHODS["fedavg"](task), uneven, rounds=rounds)
    torch.testing.assert_close(server["expert"][0], model, atol=2e-5, rtol=1e-4)


def test_local_is_each_client_alone():
    """And alone, FedAvg is the same."""
    task = make_task(FEDERATION.federation.schema)
    _, states, _ = run(METHODS["local"](task), FEDERATION, rounds=2)
    average = METHODS["fedavg"](task)
    for client in (0, 7):
        model = task.expert.init(generator(task.seed, "expert", 0))
        server, transport = average.program.init(), transport_for(average, FEDERATION)
        for number in (1, 2):
            model = adam_by_hand(task, FEDERATION, client, model, number)
            step = average.program.round[0]
            server = step.server(server, transport.exchange(step, server, [client], number), number)
        torch.testing.assert_close(states["expert"][client], model, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(server["expert"][0], model, atol=2e-5, rtol=1e-4)


def test_a_prediction_is_the_mixture_of_experts():
    """p(y | x) = Σ_k r_k(x)·p_k(y | x) with r from the densities and π, by hand."""
    task = plain_task()
    method = METHODS["fedgmi"](task)
    server, states, _ = run(method, FEDERATION)
    rows = pack(FEDERATION.federation.held_out, [2])
    means, covariances = mean_and_covariance(server["density"], 8)
    x = rows.x.double()
    density = torch.stack([log_normal(x, means[k], covariances[k]) for k in range(3)], 1)
    gate = density.exp() * states["proportions"][2]
    gate = gate / gate.sum(1, keepdim=True)
    expected = (gate[:, :, None] * task.expert.log_prob(server["expert"], rows.x).exp()).sum(1)
    found = method.predictor.predict(server, {"proportions": states["proportions"][2:3]}, rows)
    torch.testing.assert_close(found.exp(), expected, atol=1e-3, rtol=0)
    assert math.isclose(float(found.exp().sum()), len(rows), rel_tol=1e-5)


@pytest.mark.parametrize("preset", ["default", "plain"])
def test_proportions_answer_to_the_last_densities(preset):
    """The mean of the responsibilities under what the server ends with; the default counts π̄ as one more row."""
    method = METHODS["fedgmi"](make_task(FEDERATION.federation.schema, preset=preset))
    server, states, _ = run(method, FEDERATION)
    rows = pack(FEDERATION.federation.clients)
    resp = method.predictor.responsibilities(server, states, rows)
    prior = server["calibration/share"] if preset == "default" else torch.zeros(3).double()
    expected = (rows.sum_by_client(resp) + prior) / (rows.counts[:, None] + prior.sum())
    torch.testing.assert_close(states["proportions"], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("preset", ["default", "sketch"])
def test_a_clients_words_are_not_judged_by_its_own_rows(preset):
    """Without the record of its own rows, a client counts as a new one and is judged by all rows."""
    method = METHODS["fedgmi"](make_task(FEDERATION.federation.schema, preset=preset))
    server, states, _ = run(method, FEDERATION)
    newcomers = {name: leaf for name, leaf in states.items() if name != "own_words"}
    left_out = method.predictor.responsibilities(server, states, pack(FEDERATION.federation.clients))
    as_new = method.predictor.responsibilities(server, newcomers, pack(FEDERATION.federation.clients))
    assert float((as_new - left_out).abs().max()) > 1e-3
    if preset == "sketch":  # words alone: surer, for no reason. The default's calibration has made up for it
        assert float(as_new.max(1).values.mean() - left_out.max(1).values.mean()) > 0.0
    assert float((as_new - left_out).abs().max()) > 1e-3


def test_prediction_has_a_calibration_of_its_own():
    method = METHODS["fedgmi"](make_task(FEDERATION.federation.schema, density="gaussian", calibration_steps=4))
    server, states, _ = run(method, FEDERATION)
    assert float(server["gate/weights"][1]) > 0.5  # it started from words alone
    assert float(server["gate/share"].sum()) == pytest.approx(1.0)
    rows = pack(FEDERATION.federation.held_out)
    before = method.predictor.predict(server, states, rows)
    shut = server | {"gate/weights": torch.zeros(2, dtype=torch.float64)}
    assert float((method.predictor.predict(shut, states, rows) - before).abs().max()) > 0.01


def test_the_oracle_gates_by_the_realised_proportions():
    method = BOUNDS["oracle"](make_task(FEDERATION.federation.schema, method="oracle"))
    server, states, _ = run(method, FEDERATION)
    rows = pack(FEDERATION.federation.held_out)
    found = method.predictor.predict(server, states, rows)
    flipped = {name: states[name].flip(1) for name in ("proportions", "realised")}
    assert torch.equal(method.predictor.predict(server, states | {"proportions": flipped["proportions"]}, rows), found)
    assert not torch.allclose(method.predictor.predict(server, states | {"realised": flipped["realised"]}, rows), found)


def literal_heads(task: Task, scenario: Scenario, experts: Tensor, resp: Tensor) -> Tensor:
    """Client after client, module by module: one step of Adam after another on Σ_k r_k·CE_k, then the two means."""
    trunk, rows = task.expert.trunk, pack(scenario.federation.clients)
    totals, mass = torch.zeros_like(experts, dtype=torch.float64), torch.zeros(len(experts), dtype=torch.float64)
    jobs = plan(task, rows, all_rows(rows))
    for i in range(rows.n_clients):
        lower = experts[0, :trunk].clone().requires_grad_()
        upper = [expert[trunk:].clone().requires_grad_() for expert in experts]
        optimiser = torch.optim.Adam([lower, *upper], lr=task.lr)
        place = int((jobs.client == i).nonzero())
        drawn, _ = training.draw_batches(jobs, place, rows, task.training.batch_size, 0, (task.seed, 1, "expert"))
        for index in drawn:
            assert rows.y is not None
            optimiser.zero_grad()
            value = torch.zeros(())
            for k, head in enumerate(upper):
                losses = task.expert.loss(torch.cat([lower, head])[None], rows.x[index][None], rows.y[index][None])[0]
                value = value + (resp[index, k].float() * losses).mean()
                value = value + MU / 2 * (head - experts[k, trunk:]).square().sum()
            value = value + MU / 2 * (lower - experts[0, :trunk]).square().sum()
            value.backward()
            optimiser.step()
        own = resp[rows.owner == i].sum(0)
        totals[:, :trunk] += rows.counts[i] * lower.detach()
        totals[:, trunk:] += own[:, None] * torch.stack(upper).detach()
        mass += own
    return torch.cat([totals[:, :trunk] / rows.counts.sum(), totals[:, trunk:] / mass[:, None]], 1).float()


def test_heads_on_a_trunk_against_one_client_after_another():
    task = make_task(FEDERATION.federation.schema)
    rows = pack(FEDERATION.federation.clients)
    draws = torch.Generator().manual_seed(0)
    resp = torch.rand(len(rows), 3, generator=draws, dtype=torch.float64)
    resp /= resp.sum(1, keepdim=True)
    experts = torch.stack([task.expert.init(torch.Generator().manual_seed(k)) for k in range(3)])
    experts[:, : task.expert.trunk] = experts[0, : task.expert.trunk]
    models = train_heads(task, experts, rows, resp, 1)
    found = average_experts(task, experts, Message(models))
    torch.testing.assert_close(found, literal_heads(task, FEDERATION, experts, resp), atol=1e-5, rtol=1e-4)
    assert bool(models["trunk"].holders.all())
    assert bool(models["head"].holders.all())


def test_experts_that_nobody_trains_stay_as_they_were():
    task = make_task(FEDERATION.federation.schema)
    experts = torch.randn(3, task.expert.size, generator=torch.Generator().manual_seed(0))
    experts[:, : task.expert.trunk] = experts[0, : task.expert.trunk]
    assert torch.equal(average_experts(task, experts, Message()), experts)
