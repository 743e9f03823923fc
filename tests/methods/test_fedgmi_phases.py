"""Which rounds are which: warm-up, calibration, reference models that stay."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from federations import gaussian_scenario, make_task, run, transport_for, without_labels
from fedgmi.methods import BOUNDS, METHODS
from fedgmi.methods.fedgmi import conditions
from fedgmi.methods.fedgmi.conditions import MIN_CLIENTS
from fedgmi.protocol.in_process import InProcess
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import Step
from fedgmi.tree import Tree

FEDERATION = gaussian_scenario(10, 60, separation=4.0)
CALIBRATED = ("calibration/share", "calibration/scale", "calibration/bias")


@pytest.mark.parametrize(
    ("present", "everyone", "stands"),
    [(MIN_CLIENTS - 1, 10, True), (MIN_CLIENTS, 10, False), (3, 4, True), (4, 4, False), (2, 2, False), (1, 2, True)],
)
def test_with_too_few_participants_the_last_calibration_stands(present, everyone, stands):
    scenario = gaussian_scenario(everyone, 60, separation=4.0)
    method = METHODS["fedgmi"](make_task(scenario.federation.schema, n_components=2, judges="density"))
    transport, server = transport_for(method, scenario), method.program.init()
    with torch.no_grad():
        for step in method.program.prepare:
            server = step.server(server, transport.exchange(step, server, range(everyone), 0), 0)
        before = server
        for step in method.program.round:
            server = step.server(server, transport.exchange(step, server, range(present), 1), 1)
    same = [torch.equal(server[name], before[name]) for name in CALIBRATED]
    assert same == [stands] * 3


def test_warm_up_keeps_densities_out_of_the_evidence():
    method = METHODS["fedgmi"](make_task(FEDERATION.federation.schema, judges="density", warm_up_rounds=3))
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
    average, _, _ = run(METHODS["fedavg"](make_task(schema, method="fedavg")), FEDERATION)
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
    monkeypatch.setattr(conditions, "SETTLED", settled)
    task = make_task(FEDERATION.federation.schema, judges="density", warm_up_rounds=1, reference_rounds=2)
    method = METHODS["fedgmi"](task)
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
    """A round of calibration brings densities and experts to everybody; one of EM alone the experts to train.

    At the end the last experts predict labels of rows for validation.
    """
    monkeypatch.setattr(conditions, "SETTLED", 1e9)
    schema = FEDERATION.federation.schema
    task = make_task(schema, judges="density", warm_up_rounds=1, reference_rounds=2, personal=False)
    method = METHODS["fedgmi"](task)
    transport = transport_for(method, FEDERATION)
    run(method, FEDERATION, rounds=5, transport=transport)
    density, expert = 10 * 3 * 4 * task.density.size, 10 * 3 * 4 * task.expert.size
    down = [{kind: both[0] for kind, both in transport.ledger.by_kind(number).items()} for number in range(1, 7)]
    found = [(round.get("density", 0), round.get("expert", 0)) for round in down]
    one_model = expert // 3  # the experts are one model after the warm-up's round
    assert found == [(density, expert), (density, one_model), (density, expert), (0, expert), (0, expert), (0, expert)]


def test_densities_of_rows_without_labels_train_to_the_end():
    scenario = without_labels(FEDERATION)
    task = make_task(scenario.federation.schema, warm_up_rounds=1, reference_rounds=2)
    early, _, _ = run(METHODS["fedgmi"](task), scenario, rounds=2)
    late, _, _ = run(METHODS["fedgmi"](task), scenario, rounds=4)
    assert torch.equal(late["reference/density"], early["density"])
    assert not torch.equal(late["density"], early["density"])
