"""The guard against real runs: what it learns from, and what it does where nobody can be asked."""

from __future__ import annotations

import json

import pytest

from fedgmi.errors import ConfigError
from fedgmi.protocol.allowance import MARGIN, Allowance, Costs
from fedgmi.protocol.ledger import Ledger
from tiny import ledger_of, run, without_seconds

COSTS = Costs(100, (50, 20, 20, 20), 30, down=(30, 8, 8, 8), whole=30, whole_end=25, anew=60, anew_end=70)


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
    allowance.total = 9226  # the second has 96 left of it: 20, 46 for the end, and 30 for what it did not reply to
    assert allowance.able(ledger, [0, 1], 2) == [0, 1]
    allowance.total = 9225
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


@pytest.mark.parametrize(("method", "mb"), [("bcfl", 0.0195), ("flux", 0.0095), ("flhc", 0.007)])
def test_a_limit_of_rounds_is_planned_so_that_nobody_is_silenced(tmp_path, method, mb):
    """How many models clients hold, and when clusters are made, depends on rows: a plan reckons with the dearest."""
    limited = f"communication.mb_per_client_round={mb}"
    assert run(tmp_path / "run", f"method.name={method}", "rounds=5", limited)["budget"]["sat_out"] == 0


@pytest.mark.parametrize("more", [("method.participation=0.3",), ("communication.lost=0.5",)])
def test_a_limit_of_rounds_lets_those_catch_up_who_were_away(tmp_path, more):
    chosen = ("method.name=fedavg", "rounds=6", *more)
    with pytest.raises(ConfigError, match=r"expected at least") as caught:
        run(tmp_path / "small", *chosen, "communication.mb_per_client_round=0.0005")
    enough = caught.value.fix.split()[3]
    found = run(tmp_path / "enough", *chosen, f"communication.mb_per_client_round={enough}")["budget"]
    assert found["sat_out"] == 0


def test_a_run_that_nobody_can_take_part_in_is_stopped_with_the_number_that_works():
    allowance = Allowance(None, 60, COSTS)
    ledger = ledger_of([(50, 50)])
    assert allowance.able(ledger, [0], 1) == [0]
    with pytest.raises(ConfigError, match=r"mb_per_client_round: nobody can take part in round 1, .* at least 0\.001"):
        allowance.admit(ledger, {0: 61}, 1)


def test_rounds_without_anybody_are_told_at_the_end():
    allowance = Allowance(None, 60, COSTS)
    ledger = ledger_of([(50, 50)], [(30, 20)])
    assert allowance.admit(ledger, {0: 61}, 2) == []
    again = Allowance(None, 60, COSTS)
    again.restore(json.loads(json.dumps(allowance.to_json())))
    assert again == allowance
    assert again.silent_words == (
        "In 1 of 4 rounds nobody could take part to the end: mb_per_client_round = 0.001 or more would have let "
        "everyone on."
    )


def test_turns_that_were_given_up_stay_so_in_a_resumed_run():
    allowance = Allowance(300, None, COSTS)
    assert allowance.admit(ledger_of([(50, 50)]), {0: 250}, 0, True) == []
    again = Allowance(300, None, COSTS)
    again.restore(json.loads(json.dumps(allowance.to_json())))
    assert again.admit(ledger_of([(50, 50)]), {0: 1}, 0, True) == []
