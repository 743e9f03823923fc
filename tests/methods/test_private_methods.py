"""Which methods `[privacy]` takes: those whose programs say that they tell models alone, and say so truly."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from federations import gaussian_scenario, make_task, run, with_program
from fedgmi.data.rows import pack
from fedgmi.errors import ConfigError
from fedgmi.methods import METHODS, Method
from fedgmi.methods.candidates import TRIED
from fedgmi.protocol.message import Message, flatten
from fedgmi.protocol.private_sum import check_private, private_sum, why_not
from fedgmi.protocol.step import ProgramError, Step
from fedgmi.protocol.wrapper import Place

SMALL = gaussian_scenario()
ONE = {"n_components": 1, "personal": False}
CASES = {name: (name, {}) for name in METHODS} | {
    "fedgmi, plain": ("fedgmi", {"preset": "plain", "personal": False}),
    "fedgmi, one component": ("fedgmi", ONE),
    "fedgmi, one component without densities": ("fedgmi", ONE | {"reference_rounds": 0}),
    "fedgmi, one component, own parts": ("fedgmi", {"n_components": 1, "reference_rounds": 0}),
    "fedavg, own parts": ("fedavg", {"personal": True}),
}


def method_of(case: str, *, private: bool = False) -> Method:
    name, own = CASES[case]
    settings = dict(own)
    task = make_task(SMALL.federation.schema, settings.pop("n_components", 3), method=name, **settings)
    return METHODS[name](task.replace(private=private))


@pytest.mark.parametrize("case", CASES)
def test_a_step_says_whether_its_messages_hold_more_than_models(case):
    method, seen = method_of(case), dict[str, set[str]]()

    def watched(step: Step) -> Step:
        def client(server, states, rows, round):
            states, message = step.client(server, states, rows, round)
            kinds = {name.partition("/")[0] for name in flatten(message)}
            seen[step.name] = seen.get(step.name, set()) | kinds
            return states, message

        return replace(step, client=client)

    program, made = method.program, dict[int, Step]()
    for step in program.all_steps:
        made.setdefault(id(step), watched(step))
    phases = {phase: tuple(made[id(step)] for step in program.steps(phase)) for phase in ("prepare", "round", "finish")}
    run(with_program(method, **phases), SMALL)
    for step in program.all_steps:
        kinds = seen.get(step.name, set())
        if kinds and why_not(step) is None:
            assert kinds == {"models"}, f"{step.name!r} sends {kinds}"
        if step.beside:
            assert {"models", "sums"} <= kinds, f"{step.name!r} sends {kinds} and no sums beside models"


REFUSED = {
    "fedgmi": "features",
    "fedgmi, plain": "em",
    "fedgmi, one component": "em",
    "fedavg, own parts": "try own parts",
    "fedavg-ft": "try tuning",
    "scaffold": "count",
    "ifca": "",
    "cfl": "",
    "flux": "",
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_method_that_tells_more_is_refused_by_the_name_of_its_step(case):
    method = method_of(case)
    with pytest.raises(ConfigError, match=f"privacy: the step '{REFUSED[case]}.*' of {method.name} cannot be private"):
        check_private(method.name, method.program)


@pytest.mark.parametrize("case", ["fedavg", "fedprox", "ditto", "fedper", "fedgmi, one component without densities"])
def test_methods_that_send_models_alone_are_taken(case):
    method = method_of(case)
    check_private(method.name, method.program)
    assert any(step.tells for step in method.program.all_steps)


@pytest.mark.parametrize("case", ["fedgmi, one component, own parts", "fedavg, own parts"])
def test_own_parts_are_weighed_without_telling_anything(case):
    """Each client weighs nets that are named beforehand by its own rows for validation."""
    method = method_of(case, private=True)
    check_private(method.name, method.program)
    assert [step.name for step in method.program.finish] == ["own part", "own weights"]
    server, states, _ = run(method, SMALL)
    weights = states["weights"]
    torch.testing.assert_close(weights.sum(1), torch.ones(len(weights), dtype=torch.float64))
    assert float((weights - weights.mean(0)).abs().max()) > 0.01  # clients differ in what is good for them
    assert states["personal"].shape[1] == len(server[TRIED])
    held = pack(SMALL.federation.held_out)
    logs = method.predictor.predict(server, states, replace(held, y=None))
    assert float(logs.logsumexp(1).abs().max()) < 1e-5


def test_a_step_that_sends_what_it_does_not_say_sends_nothing():
    """An outside method's step that is not true to its word: the message is refused at the client."""
    wrapper = private_sum(1.0, 1.0)
    with pytest.raises(ProgramError, match="beside models"):
        wrapper.send(Message(sums={"rows": SMALL.federation.clients[0].x.sum()}), Place(0, (0,), 1, 0, 0))
