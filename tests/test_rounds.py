"""The round loop: who takes part, in which phase, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from federations import bare_method
from fedgmi.methods import Method
from fedgmi.protocol.ledger import Ledger
from fedgmi.protocol.message import Message
from fedgmi.protocol.rounds import Progress, participants, run_rounds
from fedgmi.protocol.step import Step
from fedgmi.tree import Tree


@pytest.mark.parametrize(
    ("n_clients", "fraction", "size"), [(100, 0.07, 7), (20, 0.55, 11), (10, 0.31, 4), (3, 0.01, 1), (7, 1.0, 7)]
)
def test_the_share_of_participants_is_rounded_up_and_no_further(n_clients, fraction, size):
    chosen = participants(n_clients, fraction, 0, 1)
    assert len(set(chosen)) == len(chosen) == size
    assert chosen == sorted(chosen)
    assert set(chosen) <= set(range(n_clients))


def test_participants_depend_on_seed_and_round_alone_and_everybody_has_a_turn():
    drawn = [participants(20, 0.3, 0, number) for number in range(1, 40)]
    assert drawn == [participants(20, 0.3, 0, number) for number in range(1, 40)]
    assert participants(20, 0.3, 1, 1) != drawn[0]
    assert set().union(*drawn) == set(range(20))


class Log:
    """A transport that writes down what it is asked, one byte a client each way."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, int]] = []
        self.ids: list[list[int]] = []
        self.ledger, self.wrappers = Ledger(8), ()

    def settle(self, before: Tree, after: Tree, round: int, name: str) -> Tree:
        return after

    def exchange(self, step: Step, server: Tree, ids: Sequence[int], round: int) -> Message:
        assert not torch.is_grad_enabled()
        self.asked.append((step.name, len(ids), round))
        self.ids.append(list(ids))
        for i in ids:
            self.ledger.add(round, "statistics", i, down=1, up=2)
        return Message(sums={"one": torch.ones(())})


def named(name: str) -> Step:
    def add(server: Tree, message: Message, round: int) -> Tree:
        return {"n": server["n"] + message.sums["one"]}

    return Step(name, lambda *given: ({}, Message()), add)


def method() -> Method:
    return bare_method(
        "log",
        init=lambda: {"n": torch.zeros(())},
        round=(named("a"), named("b")),
        prepare=(named("before"),),
        finish=(named("after"),),
    )


def test_phases_come_in_order_and_only_rounds_are_sampled():
    log, seen = Log(), []
    end = run_rounds(
        "log",
        method().program,
        log,
        Progress(method().program.init()),
        n_clients=8,
        rounds=2,
        participation=0.25,
        seed=0,
        after=lambda progress: seen.append((progress.round, progress.bytes_down, progress.bytes_up)),
    )
    rounds = [("a", 2, 1), ("b", 2, 1), ("a", 2, 2), ("b", 2, 2)]
    assert log.asked == [("before", 8, 0), *rounds, ("after", 8, 3)]
    assert log.ids[1:5] == [participants(8, 0.25, 0, number) for number in (1, 1, 2, 2)]
    assert log.ids[1] != log.ids[3]
    assert seen == [(0, 8, 16), (1, 12, 24), (2, 16, 32), (3, 24, 48)]
    assert float(end.server["n"]) == 6


def test_a_run_goes_on_from_where_it_stands():
    """And with the bytes that its ledger holds already."""
    log = Log()
    log.ledger.add(1, "statistics", 0, down=100, up=50)
    progress = Progress({"n": torch.zeros(())}, round=1, bytes_down=100, bytes_up=50)
    end = run_rounds("log", method().program, log, progress, n_clients=4, rounds=2, seed=0)
    assert [(name, number) for name, _, number in log.asked] == [("a", 2), ("b", 2), ("after", 3)]
    assert (end.round, end.bytes_down, end.bytes_up) == (3, 112, 74)
