"""Clients that are trained together and told apart send what they send one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch

from federations import gaussian_scenario, make_task
from fedgmi.methods import METHODS
from fedgmi.protocol.in_process import InProcess
from fedgmi.protocol.message import Message, flatten
from fedgmi.protocol.noise import gaussian_noise
from fedgmi.protocol.rounds import Progress, run_rounds
from fedgmi.protocol.step import Step
from fedgmi.tree import Tree

ROOMY = gaussian_scenario(6, 40, separation=4.0)
N = len(ROOMY.federation.clients)


class BothWays(InProcess):
    """It asks clients together and then one by one, and goes on from the former."""

    steps: set[str]
    different: dict[str, float]

    def _each(self, step: Step, part: Tree, asked: Sequence[int]) -> Iterator[tuple[int, Message]]:
        before = dict(self.states)
        alone = list(super()._each(replace(step, apart=False), part, asked))
        states, self.states = self.states, before
        together = list(super()._each(step, part, asked))
        if step.apart:
            self.steps.add(step.name)
            for (i, one), (j, other) in zip(alone, together, strict=True):
                assert i == j
                leaves, others = flatten(one), flatten(other)
                assert leaves.keys() == others.keys()
                for name, leaf in leaves.items():
                    self.compare(f"{step.name} {name}", leaf, others[name])
                for name, models in one.models.items():
                    assert torch.equal(models.holders, other.models[name].holders)
            for name, leaf in states.items():
                self.compare(f"{step.name} state {name}", leaf, self.states[name])
        yield from together

    def compare(self, name: str, one: torch.Tensor, other: torch.Tensor) -> None:
        assert one.dtype == other.dtype, name
        assert one.shape == other.shape, name
        if not torch.equal(one, other):
            d=float(((one.double()-other.double()).abs()/(one.double().abs().amax()+1e-30)).max())
            self.different[name]=max(self.different.get(name,0),d)


@pytest.mark.parametrize("name", METHODS)
def test_together_is_one_by_one(name):
    method = METHODS[name](make_task(ROOMY.federation.schema, method=name))
    transport = BothWays(ROOMY.federation.clients, method.program, wrappers=(gaussian_noise(0.0),))
    transport.steps, transport.different = set(), {}
    start = Progress(method.program.init())
    run_rounds(name, method.program, transport, start, n_clients=N, rounds=3, participation=0.8, seed=0)
    print(name, transport.steps, transport.different)
    needed = {s.name for s in method.program.all_steps if s.models or s.updates}
    assert transport.steps == needed
