"""Judges in closed form as steps: kilobytes before training, and nobody is judged by what it has taught."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from federations import gaussian_scenario, make_task, transport_for, without_labels
from fedgmi.data.rows import pack
from fedgmi.data.scenarios.truth import Scenario
from fedgmi.methods import METHODS, Task
from fedgmi.methods.fedgmi.conditions import AT_REST, largest_weights
from fedgmi.methods.fedgmi.judges import MOST_SUMS, by_features, dimension, own_sums
from fedgmi.methods.fedgmi.state import Judging, initial_server
from fedgmi.mixture.judges import moved, n_sums
from fedgmi.mixture.matching import match_components, reorder, total_variation
from fedgmi.protocol.allowance import Allowance, Costs
from fedgmi.protocol.in_process import InProcess
from fedgmi.protocol.rounds import Progress, run_rounds
from fedgmi.protocol.secure_sum import masked_sum
from fedgmi.runs.config import Config
from fedgmi.runs.setup import losses_of
from fedgmi.settings.communication import CommunicationSettings
from fedgmi.tree import Tree

FEDERATION = gaussian_scenario(15, 80, separation=2.0)
CLOSED = {"judges": "closed", "codewords": 10, "judge_turns": 2, "calibration_steps": 4, "personal": False}


def prepared(task: Task, scenario: Scenario, until: str = "") -> tuple[Tree, InProcess]:
    """The server and the transport before the first round, or before the first step of that name."""
    method = METHODS["fedgmi"](task)
    transport, server = transport_for(method, scenario), method.program.init()
    with torch.no_grad():
        for step in method.program.prepare:
            if step.name == until:
                break
            if step.when is not None and not step.when(server):
                continue
            everyone = range(len(scenario.federation.clients))
            server = step.server(server, transport.exchange(step, server, everyone, 0), 0)
    return server, transport


@pytest.fixture(scope="module")
def judged() -> tuple[Task, Tree, Tree]:
    """A task, and the server's and the clients' states before the first round; for tests that only read them."""
    task = make_task(FEDERATION.federation.schema, **CLOSED)
    server, transport = prepared(task, FEDERATION)
    return task, server, transport.states


def error(scenario: Scenario, proportions: torch.Tensor) -> float:
    assert scenario.truth is not None
    true = scenario.truth.proportions()
    return float(total_variation(reorder(proportions, match_components(proportions, true)), true).mean())


@pytest.mark.parametrize("labels", [True, False])
def test_proportions_are_better_than_the_sketchs_before_anything_is_trained(labels):
    scenario = FEDERATION if labels else without_labels(FEDERATION)
    task = make_task(scenario.federation.schema, **CLOSED)
    sketched, judged = (prepared(task, scenario, until)[1].states["proportions"] for until in ("judges", ""))
    assert error(scenario, judged) < 0.9 * error(scenario, sketched)


def test_rounds_only_train():
    method = METHODS["fedgmi"](make_task(FEDERATION.federation.schema, **CLOSED))
    assert [step.name for step in method.program.round] == ["em", "em"]
    assert not any(entry.startswith("reference/") for step in method.program.all_steps for entry in step.reads)
    assert not any(entry.startswith("reference/") for entry in method.predictor.reads)


def test_densities_travel_no_more_once_they_are_not_trained():
    """Nothing of a later round reads them; where rows have no labels they are all there is to train."""
    for scenario in (FEDERATION, without_labels(FEDERATION)):
        task = make_task(scenario.federation.schema, reference_rounds=2, **CLOSED)
        method = METHODS["fedgmi"](task)
        transport = transport_for(method, scenario)
        start = Progress(method.program.init())
        run_rounds("fedgmi", method.program, transport, start, n_clients=15, rounds=4, seed=0)
        sent = [transport.ledger.by_kind(round).get("density", (0, 0)) for round in range(6)]
        trained = [1, 2] if scenario is FEDERATION else [1, 2, 3, 4]
        assert [round for round, (down, up) in enumerate(sent) if up] == trained
        assert [round for round, (down, up) in enumerate(sent) if down] == trained


def test_a_client_is_judged_by_the_others_and_a_newcomer_by_all(judged):
    task, server, states = judged
    rows = pack(FEDERATION.federation.clients)
    own, new = by_features(task, server, states, rows), by_features(task, server, {}, rows)
    assert float((own - new).abs().max()) > 1e-3
    rest = server | {"judges/sums": server["judges/sums"] - states["own_judges"][0]}
    first = rows.client_index == 0
    torch.testing.assert_close(own[first], by_features(task, rest, {}, rows)[first])


def test_who_missed_the_last_turn_takes_nothing_out_of_it(judged):
    _, server, states = judged
    own = own_sums(server, states | {"judged_in": states["judged_in"] - torch.eye(15, dtype=torch.long)[3]})
    assert own is not None
    assert float(own[3].abs().max()) == 0.0
    assert torch.equal(own[4], states["own_judges"][4])


def test_sums_of_judges_may_be_masked():
    task = make_task(FEDERATION.federation.schema, **CLOSED)
    method, (server, plain) = METHODS["fedgmi"](task), prepared(task, FEDERATION, "judges")
    step = next(step for step in method.program.prepare if step.name == "judges")
    assert masked_sum().refuses(step) is None
    masked = InProcess(FEDERATION.federation.clients, method.program, wrappers=(masked_sum(),))
    masked.follow(plain)
    with torch.no_grad():
        sums = [transport.exchange(step, server, range(15), 0).sums["judges"] for transport in (masked, plain)]
    torch.testing.assert_close(sums[0], sums[1], atol=1e-5, rtol=1e-6)  # in float32


def test_many_labels_are_judged_in_fewer_dimensions():
    schema = gaussian_scenario().federation.schema
    wide = make_task(type(schema)((1, 28, 28), 62, "image"), judges="closed")
    assert dimension(make_task(schema, judges="closed")) == 8
    assert 3 * 62 * n_sums(dimension(wide)) <= MOST_SUMS < 3 * 62 * n_sums(dimension(wide) + 1)


@pytest.mark.parametrize(
    ("labels", "preset", "expected"),
    [(True, "default", "closed"), (False, "default", "density"), (True, "sketch", "density")],
)
def test_auto_judges_in_closed_form_where_labels_are_classes(labels, preset, expected):
    schema = (FEDERATION if labels else without_labels(FEDERATION)).federation.schema
    method = METHODS["fedgmi"](make_task(schema, judges="auto", preset=preset))
    assert ("judges/sums" in method.program.init()) is (expected == "closed")


def test_words_follow_the_judges_where_counts_are_exact():
    task = make_task(FEDERATION.federation.schema, **CLOSED)
    before, _ = prepared(task, FEDERATION, until="judges")
    server, transport = prepared(task, FEDERATION)
    own = transport.states["own_words"]
    torch.testing.assert_close(own.sum(0), server["sketch/topics"])
    assert float(server["sketch/topics"].sum()) == pytest.approx(15 * 80)
    assert not torch.equal(server["sketch/topics"], before["sketch/topics"])
    noisy = task.replace(settings=task.settings.model_copy(update={"epsilon": 1.0}))
    sketched, _ = prepared(noisy, FEDERATION, until="judges")
    assert torch.equal(prepared(noisy, FEDERATION)[0]["sketch/topics"], sketched["sketch/topics"])


def test_judges_at_rest_end_their_turns():
    """Further turns would change proportions by less than chance does"""
    task = make_task(FEDERATION.federation.schema, **CLOSED | {"judge_turns": 12})
    method = METHODS["fedgmi"](task)
    most = [replace(step, when=None) for step in method.program.prepare]  # as a rehearsal of costs takes them
    asked, servers = {}, {}
    for name, steps in (("usual", method.program.prepare), ("most", most)):
        transport, server = transport_for(method, FEDERATION), method.program.init()
        asked[name] = []
        with torch.no_grad():
            for step in steps:
                if step.when is None or step.when(server):
                    server = step.server(server, transport.exchange(step, server, range(15), 0), 0)
                    asked[name].append(step.name)
        servers[name] = server
    turns = int(servers["usual"]["judges/turn"])
    assert 3 <= turns < 12
    assert float(servers["usual"]["judges/moved"]) < AT_REST
    assert asked["most"].count("judges") == 12
    for server, found in zip(servers.values(), asked.values(), strict=True):
        assert found.count("calibrate") == 4 * int(server["judges/turn"])  # the last sums are calibrated, too
    shares = [server["judges/sums"][..., 0].double() for server in servers.values()]
    assert float((shares[0] - shares[1]).abs().sum() / 2 / shares[0].sum()) < 0.02


@pytest.mark.parametrize(("lost", "budget"), [(0.0, False), (0.4, False), (0.4, True)])
def test_who_came_late_enters_the_judges_at_the_end(lost, budget):
    """Where nobody did, nothing more is asked, and a run on a budget has no bytes for what nobody foresaw."""
    method = METHODS["fedgmi"](make_task(FEDERATION.federation.schema, **CLOSED))
    config = Config(rounds=2, communication=CommunicationSettings(lost=lost))
    transport = transport_for(method, FEDERATION, losses_of(config, method))
    allowance = Allowance(10**9, None, Costs(0, (0, 0), 0)) if budget else None
    asked = []
    exchange = transport.exchange

    def watched(step, server, ids, round):
        asked.append((round, step.name))
        return exchange(step, server, ids, round)

    transport.exchange = watched
    start = Progress(method.program.init())
    end = run_rounds(
        "fedgmi", method.program, transport, start, n_clients=15, rounds=2, seed=0, allowance=allowance
    ).server
    away = len(transport.absent.get(0, ()))
    late = lost > 0 and not budget
    assert (away > 0) == (lost > 0)
    assert ((3, "judges") in asked) == bool(end["judges/late"]) == late
    there = 15 if late else 15 - away
    for leaf in (end["judges/sums"][..., 0], end["sketch/topics"]):
        assert float(leaf.double().sum()) == pytest.approx(there * 80)
    assert asked.count((3, "cells")) == (2 if late else 1)


def test_how_far_judges_moved_is_counted_in_sampling_errors():
    draws = torch.Generator().manual_seed(0)
    true = torch.tensor([[0.1, 0.2, 0.05], [0.3, 0.15, 0.2]]).double()
    drawn = torch.multinomial(true.flatten().expand(200, -1), 2000, True, generator=draws)
    counts = torch.nn.functional.one_hot(drawn, 6).sum(1).reshape(200, 2, 3, 1)
    far = [float(moved(2000 * true[..., None], each)) for each in counts]
    assert sum(far) / 200 == pytest.approx(1.0, abs=0.1)
    assert float(moved(torch.zeros(2, 3, 1), counts[0])) > 10  # before the first turn there was nothing


def test_in_the_first_turn_judges_are_calibrated_without_words():
    schema = FEDERATION.federation.schema
    several, once = (make_task(schema, judges="closed", judge_turns=turns).settings for turns in (2, 1))
    server = initial_server(make_task(schema))
    limits = [
        largest_weights(own, server | Judging.leaves(turn=torch.tensor(t)))[0]
        for own, t in ((several, 1), (several, 2), (once, 1))
    ]
    assert [float(limit) for limit in limits] == [0.0, 1.0, 1.0]
