"""Clients that are trained together send what they send one by one, as over the wire."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch

from federations import gaussian_scenario, make_task
from fedgmi.methods import METHODS
from fedgmi.protocol.codecs.coding import Coding
from fedgmi.protocol.in_process import InProcess
from fedgmi.protocol.message import Message, flatten
from fedgmi.protocol.rounds import Progress, run_rounds
from fedgmi.protocol.step import Step
from fedgmi.settings.communication import CommunicationSettings
from fedgmi.tree import Tree

ROOMY = gaussian_scenario(6, 40, separation=4.0)
N = len(ROOMY.federation.clients)
TOLERANCE = 1e-5  # of the largest number: products of matrices are rounded otherwise in a larger batch


class BothWays(InProcess):
    """It asks clients together and one by one, compares, and goes on from the former."""

    told: set[str]

    def _each(self, step: Step, part: Tree, asked: Sequence[int]) -> Iterator[tuple[int, Message]]:
        before = dict(self.states)
        alone = list(super()._each(replace(step, apart=False), part, asked))
        states, self.states = self.states, before
        together = list(super()._each(step, part, asked))
        if step.apart:
            self.told.add(step.name)
        assert [i for i, _ in together] == [i for i, _ in alone] == list(asked)
        for (_, one), (_, other) in zip(alone, together, strict=True):
            near(flatten(one), flatten(other))
            assert all(torch.equal(models.holders, other.models[name].holders) for name, models in one.models.items())
        near(states, self.states)
        yield from together


def near(one: Tree, other: Tree) -> None:
    """The same leaves, types and shapes; whole numbers equal, others to within rounding."""
    assert one.keys() == other.keys()
    for name, leaf in one.items():
        assert (leaf.dtype, leaf.shape) == (other[name].dtype, other[name].shape), name
        scale = TOLERANCE * float(leaf.abs().max()) if leaf.is_floating_point() and leaf.numel() else 0.0
        torch.testing.assert_close(other[name], leaf, atol=scale, rtol=0.0, msg=lambda m, n=name: f"{n}: {m}")


APART = {"shared_trunk": False}
CASES: list[tuple[str, dict[str, object]]] = [
    *((name, {}) for name in METHODS),
    *((name, APART) for name, entry in METHODS.items() if "shared_trunk" in entry.settings.model_fields),
    *((name, APART | {"weighting": "draw"}) for name in ("fedem", "fedgmm")),
    ("ifca", {"warm_rounds": 1}),
    ("ifca", {"init": "farthest"}),
    ("fedgmi", {"density": "gaussian"}),
    ("fedgmi", {"density": "vaes apart"}),
    ("fedgmi", {"shared": "none"}),
]


@pytest.mark.parametrize(("name", "own"), CASES)
def test_together_is_one_by_one(name, own):
    """Of every method, in every exchange in which models go up; and there is none that asks one by one."""
    method = METHODS[name](make_task(ROOMY.federation.schema, method=name, **own))
    coding = Coding(CommunicationSettings(precision="4", top=0.3), 0)
    transport = BothWays(ROOMY.federation.clients, method.program, coding=coding)
    transport.told = set()
    common = {"n_clients": N, "rounds": 3, "participation": 0.8, "seed": 0}
    run_rounds(name, method.program, transport, Progress(method.program.init()), **common)
    assert transport.told == {step.name for step in method.program.all_steps if step.models or step.updates}
