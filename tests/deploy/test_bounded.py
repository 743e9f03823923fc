"""A contract of every method: what one site says in the place of its message is refused, or does not carry all away."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from local_post import settings_of
from test_coordinator import CHOICES, deployed

from fedgmi import tree
from fedgmi.deploy.coordinator.columns import far_sums
from fedgmi.deploy.coordinator.remote import Remote
from fedgmi.methods.plausible import wrong_held
from fedgmi.protocol.message import Message, Models, flatten, unflatten
from fedgmi.protocol.robust import wild
from fedgmi.protocol.step import Step
from fedgmi.settings.robust import RobustSettings

LIES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "a million times": lambda leaf: leaf * 1e6,
    "10^15 times": lambda leaf: leaf * 1e15,
    "10^18": lambda leaf: torch.full_like(leaf, 1e18),
    "-10^18": lambda leaf: torch.full_like(leaf, -1e18),
}
FAR = 1e4  # times what the server's numbers are without a lie
TOLD = {
    ("fedgmi", "em", "sums/bound"): "a figure that is shown, and used by nothing",
}
"""What is not bounded, and why that is borne."""


def lies_of(message: Message) -> Iterator[tuple[str, Message]]:
    """Messages with another number in one leaf each."""
    leaves = flatten(message)
    for name, leaf in leaves.items():
        for change in LIES.values() if leaf.is_floating_point() else ():
            told = change(leaf)
            if not torch.equal(told, leaf):
                yield name, unflatten(leaves | {name: told})


def largest(server: tree.Tree) -> dict[str, float]:
    numbers = {name: leaf for name, leaf in server.items() if leaf.dtype != torch.bool and leaf.numel()}
    return {name: float(leaf.double().abs().max()) for name, leaf in numbers.items()}


@pytest.mark.parametrize("choice", CHOICES)
def test_no_number_of_one_site_carries_all_away(tmp_path, monkeypatch, choice):
    """What a server part fails on is found by leaving out, see test_blame; here is what it takes without a word."""
    made, expected, seen, taken = Remote._made, Remote._expected, set(), set()
    last = []

    def remember(self, step, server):
        last[:] = [expected(self, step, server)]
        return last[0]

    def with_lies(self, step, server, messages, take):
        after = made(self, step, dict(server), dict(messages), take)
        if after is None or step.name in seen or len(messages) < 3:
            return after
        seen.add(step.name)
        honest, liar = largest(after), sorted(messages)[-1]
        for leaf, message in lies_of(messages[liar]):
            told = messages | {liar: message}
            if last[0].reason_against(message, liar, self.roster.members[liar].rows):
                continue
            all_told = [told[i] for i in sorted(told)]
            if wild(step, server, all_told, self.settings.robust):
                continue
            if any(far.wild for far in far_sums(step, all_told, ()).values()):
                continue
            try:
                found = take(self._reduce(step, dict(server), told)[0])
            except Exception:  # its site would be found
                continue
            if any(size > FAR * max(honest.get(name, 0.0), 1e-3) for name, size in largest(found).items()):
                taken.add((self.method.name, step.name, leaf))
        return after

    monkeypatch.setattr(Remote, "_expected", remember)
    monkeypatch.setattr(Remote, "_made", with_lies)
    deployed(settings_of(**({"name": choice} | CHOICES[choice])), tmp_path)
    assert seen
    assert not taken - TOLD.keys()


def keep(server, states, rows, round):
    return states, Message()


def update(length: float) -> Message:
    return Message(replies={"update": torch.full((1, 4), length / 2)})


def test_updates_in_single_replies_are_held_to_the_others_and_to_the_models():
    step = Step("train", keep, updates=lambda server: {"update": torch.zeros(1, 4)})
    server = {"expert": torch.full((2, 4), 0.5)}  # of length 1 each
    some = [update(1.0), update(2.0), update(9.0)]
    assert not wild(step, server, some, RobustSettings())
    assert not wild(step, server, [update(1e-3), update(1e-3), update(5.0)], RobustSettings())  # no ten models
    assert list(wild(step, server, [*some, update(1e6)], RobustSettings())) == [3]


def of_cluster(k: int, n: int, length: float) -> Message:
    mass = torch.zeros(n).double()
    mass[k] = 10.0
    total = torch.zeros(n, 4)
    total[k] = 10 * (0.5 + length / 2)
    return Message(models={"expert": Models(total, mass, mass[None] > 0)})


@pytest.mark.parametrize("clusters", [(0, 1, 2, 3), (0, 0, 1, 2), (0, 0, 0, 1)])
def test_who_is_alone_with_a_model_is_held_to_those_with_others(clusters):
    step = Step("train", keep, models=lambda server: server)
    server = {"expert": torch.full((4, 4), 0.5)}
    some = [of_cluster(k, 4, 1.0 + i) for i, k in enumerate(clusters[:3])]
    assert not wild(step, server, [*some, of_cluster(clusters[3], 4, 5.0)], RobustSettings())
    assert list(wild(step, server, [*some, of_cluster(clusters[3], 4, 1e6)], RobustSettings())) == [3]


@pytest.mark.parametrize("rows", [-1.0, 0.5])
def test_validation_rows_are_counted(rows):
    message = Message(sums={"rows": torch.tensor(rows).double()})
    assert wrong_held({}, message, 0, 40) == f"its validation rows are {rows:g}"
    assert wrong_held({}, Message(sums={"rows": torch.tensor(12.0)}), 0, 40) is None
