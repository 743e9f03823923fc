"""The guard against real runs: what it learns from, and what it does where nobody can be asked."""

from __future__ import annotations

import pytest

from fedgmi.protocol.allowance import MARGIN, Allowance, Costs
from fedgmi.protocol.ledger import Ledger
from tiny import run, without_seconds

COSTS = Costs(100, (50, 20, 20, 20), 30, down=(30, 8, 8, 8), whole=30, whole_end=25, anew=60, anew_end=70)


def ledger_of(*rounds):
    """Bytes down and up of each client in rounds 0, 1, …."""
    ledger = Ledger(len(rounds[0]))
    for number, clients in enumerate(rounds):
        for i, (down, up) in enumerate(clients):
            ledger.add(number, "expert", i, down=down, up=up)
    return ledger


def test_a_budget_that_no_round_comes_near_changes_nothing(tmp_path):
    """With lost replies and clients that are not asked. What a reply costs is learnt from a client that takes part."""
    unlucky = ("method.name=flux", "rounds=2", "seed=44", "communication.lost=0.1", "method.participation=0.4")
    free = run(tmp_path / "free", *unlucky)
    held = run(tmp_path / "held", *unlucky, "communication.mb_per_client=10")
    assert held["budget"]["sat_out"] == 0
    same = ("client_accuracy", "bytes_up")
    assert {key: without_seconds(held)[key] for key in same} == {key: without_seconds(free)[key] for key in same}


def test_what_a_refused_reply_weighs_says_nothing_of_what_rounds_cost():
    ledger, allowance = ledger_of([(50, 50), (50, 50)], [(30, 20), (30, 9000)]), Allowance(20_000, None, COSTS)
    ledger.lose(1, 1)
    assert allowance.able(ledger, [0, 1], 2) == [0, 1]
    assert allowance.factor == 1 + MARGIN
    allowance.total = 9260  # the second has 130 left of it: 20, 38 for the end, and 60 for all of it anew
    assert allowance.able(ledger, [0, 1], 2) == [0, 1]
    allowance.total = 9240
    assert allowance.able(ledger, [0, 1], 2) == [0]


def test_lost_replies_are_known_to_a_ledger_that_was_kept():
    ledger = ledger_of([(50, 50)])
    ledger.lose(0, 0)
    again = Ledger.from_tree(1, ledger.to_tree())
    assert again == ledger != ledger_of([(50, 50)])
    assert again.lost(0) == {0}
    assert again.totals() == (50, 50)


def test_a_dear_round_is_forgotten_where_nobody_was_asked():
    allowance = Allowance(None, 100, COSTS, factor=9.0)
    ledger = ledger_of([(50, 50)], [(0, 0)], [(0, 0)])
    assert allowance.able(ledger, [0], 2) == []
    assert allowance.factor == pytest.approx(1 + MARGIN + (9 - 1 - MARGIN) / 2)
    for _ in range(4):
        able = allowance.able(ledger, [0], 3)
    assert able == [0]
