"""A budget is planned for, and never exceeded."""

from __future__ import annotations

import dataclasses
import json

import pytest

from fedgmi.data.rows import Schema
from fedgmi.errors import ConfigError
from fedgmi.protocol.allowance import Allowance, Costs
from fedgmi.protocol.ledger import Ledger
from fedgmi.runs import config, experiment
from fedgmi.runs.budget.ladder import CODES, ONE, ladders, with_choice
from fedgmi.runs.budget.plan import plan
from fedgmi.runs.budget.rehearsal import rehearse
from fedgmi.runs.budget.words import kept_line, planning_line
from fedgmi.runs.setup import Setup
from fedgmi.storage import checkpoint, folder
from tiny import TINY, ledger_of

COSTS = Costs(100, (50, 20, 20, 20), 30, down=(30, 8, 8, 8), whole=30, whole_end=25)
DIGITS = Schema((1, 8, 8), 10, "image")


def settings(*overrides: str, method: str = "fedgmi") -> config.Config:
    """The tiny run of a method."""
    common = [line for line in TINY if not line.startswith("method.") or method == "fedgmi"]
    common = [line for line in common if "judge_turns" not in line]  # a plan chooses it
    common += ["method.kmeans_rounds=3", "method.calibration_steps=2"] if method == "fedgmi" else []
    return config.load(None, [f"method.name={method}", *common, *overrides])


def spent(out, method):
    """Bytes of every client, by the transport's ledger."""
    found = checkpoint.load(out / folder.CHECKPOINTS, method, digest=config.load(out / folder.CONFIG).digest())
    return Ledger.from_tree(6, found.ledger).by_client().sum(1)


@pytest.mark.parametrize(
    ("method", "mb", "more"),
    [
        ("fedgmi", 2.0, ()),
        ("fedgmi", 0.5, ()),
        ("fedgmi", 0.6, ("method.judges=density",)),
        ("fedavg", 0.012, ("rounds=6",)),
        ("fedem", 0.02, ("method.participation=0.5", "rounds=6")),
    ],
)
def test_no_client_costs_more_than_the_budget(tmp_path, method, mb, more):
    found = experiment.run(settings(f"communication.mb_per_client={mb}", *more, method=method), tmp_path / "run")
    most = int(spent(tmp_path / "run", method).max())
    assert 0 < most <= mb * 10**6
    assert found["budget"]["most_mb"] == pytest.approx(most / 10**6)
    assert found["budget"]["foreseen_mb"] <= mb
    assert found["budget"]["plan"].startswith(f"Budget of {method}: {mb:g} MB a client")
    assert found["budget"]["kept"].startswith(f"Budget of {method}: most of any client")
    assert found["most_mb"] == found["budget"]["most_mb"] >= (found["bytes_down"] + found["bytes_up"]) / 6e6


def test_what_is_foreseen_is_what_it_costs(tmp_path):
    """To 5 %, by more rounds than are rehearsed, and nobody sits out."""
    for method, mb, more in (("fedgmi", 1.0, ["method.judge_turns=2"]), ("fedavg", 0.1, [])):
        chosen = settings(f"communication.mb_per_client={mb}", "rounds=8", *more, method=method)
        found = experiment.run(chosen, tmp_path / method)["budget"]
        assert found["most_mb"] == pytest.approx(found["foreseen_mb"], rel=0.05), method
        assert found["sat_out"] == 0


def test_a_client_that_could_cost_too_much_is_not_asked():
    ledger, allowance = Ledger(2), Allowance(240, None, COSTS, factor=1.0)
    for i, cost in ((0, 100), (1, 90)):
        ledger.add(0, "sketch", i, down=cost - 10, up=10)
    assert allowance.able(ledger, [0, 1], 1) == [0, 1]
    ledger.add(1, "expert", 0, down=30, up=20)
    ledger.add(1, "expert", 1, down=20, up=20)
    assert allowance.able(ledger, [0, 1], 2) == [0, 1]
    ledger.add(2, "expert", 0, up=45)  # more than twice what was foreseen: so the next may be
    ledger.add(2, "expert", 1, up=20)
    assert allowance.able(ledger, [0, 1], 3) == [1]
    assert allowance.factor == pytest.approx(45 / 20)
    assert (allowance.sat_out, allowance.times) == ({3: [0]}, 1)


def test_one_dear_round_is_forgotten_and_catching_up_is_counted_for_one_client_alone():
    allowance = Allowance(1000, None, dataclasses.replace(COSTS, anew=200), factor=1.02)
    ledger = ledger_of([(50, 50), (90, 0)], [(30, 70), (220, 20)])  # the second missed the preparation
    assert allowance.able(ledger, [0, 1], 2) == [0, 1]
    assert allowance.factor == pytest.approx(100 / 50)
    ledger.add(2, "expert", 0, down=10, up=10)
    ledger.add(2, "expert", 1, down=10)  # its reply is lost
    assert allowance.able(ledger, [0, 1], 3) == [0, 1]
    assert allowance.factor == pytest.approx(1.02)
    allowance.total = 406  # the second has 66 left: 20 for the round, 38 for the end, 8 for what it did not reply to
    assert allowance.able(ledger, [0, 1], 3) == [0, 1]
    allowance.total = 405
    assert allowance.able(ledger, [0, 1], 3) == [0]


def test_who_has_never_replied_is_sent_everything_and_who_has_what_it_missed():
    costs = dataclasses.replace(COSTS, anew=200, anew_end=300)
    usual = costs.of([1, 2, 3, 4])
    assert costs.of([1, 2, 3, 4], lost={3}) == usual + 8
    assert costs.of([1, 2, 3, 4], lost={2, 3}) == usual + 8 + (8 + 8)
    assert costs.of([1, 2, 3, 4], lost={1, 2}) == usual + 30 + 30  # whole is less than all differences
    assert costs.of([1, 2, 3, 4], lost={0, 1}) == usual + 200 + 200
    allowance = Allowance(1000, None, costs)
    ledger = ledger_of([(50, 50), (90, 0)])
    assert allowance.able(ledger, [0, 1], 1) == [0, 1]
    allowance.total = 300
    assert allowance.able(ledger, [0, 1], 1) == [0]


def test_an_exchange_is_paid_for_before_it_is_sent():
    allowance, ledger = Allowance(260, 60, COSTS), ledger_of([(50, 50), (40, 40)], [(30, 0), (0, 0)])
    assert allowance.admit(ledger, {0: 30, 1: 31}, 1) == [0, 1]
    assert allowance.admit(ledger, {0: 31, 1: 31}, 1) == [1]  # more than a round may cost
    assert allowance.admit(ledger, {0: 130, 1: 181}, 5) == [0]  # the end
    assert allowance.sat_out == {1: [0], 5: [1]}


def test_turns_that_may_be_left_out_leave_the_rounds_what_they_need():
    allowance, ledger = Allowance(300, None, COSTS), ledger_of([(50, 50)])
    left = 300 - 100 - int(1.02 * (COSTS.total - 100))
    assert allowance.admit(ledger, {0: left}, 0, True) == [0]
    assert allowance.admit(ledger, {0: left + 1}, 0, True) == []
    assert allowance.admit(ledger, {0: 1}, 0, True) == []  # nor does any that follows
    with pytest.raises(ConfigError, match=r"mb_per_client: the preparation takes .* nothing was trained"):
        allowance.admit(ledger, {0: 201}, 0)


def test_a_dear_preparation_is_refused_before_training_with_the_number_that_works():
    ledger = ledger_of([(80, 90)])
    needed = 170 + int(1.02 * (COSTS.total - 100)) + 1
    with pytest.raises(ConfigError, match=r"at least 0\.001"):
        Allowance(170 + COSTS.total - 101, None, COSTS).able(ledger, [0], 1)
    assert Allowance(needed, None, COSTS).able(ledger, [0], 1) == [0]


def test_each_round_has_a_limit_too():
    with pytest.raises(ConfigError, match="nobody can take part in round 1"):
        Allowance(None, 49, COSTS, factor=1.0).able(Ledger(1), [0], 1)
    assert Allowance(None, 50, COSTS, factor=1.0).able(Ledger(1), [0], 2) == [0]


def test_who_sat_out_is_known_to_a_resumed_run():
    allowance = Allowance(150, None, COSTS)
    allowance.able(Ledger(3), [0, 2], 1)
    other = Allowance(150, None, COSTS)
    other.restore(json.loads(json.dumps(allowance.to_json())))
    assert other == allowance


def test_clients_sit_out_where_more_travels_than_was_foreseen(tmp_path, monkeypatch):
    """A rehearsal that is wrong by half costs rounds, and no byte beyond the budget."""

    def half(setup, name, spare):
        costs = rehearse(setup, name, spare=spare)
        return dataclasses.replace(costs, rounds=tuple(cost // 2 for cost in costs.rounds))

    monkeypatch.setattr("fedgmi.runs.budget.plan.rehearse", half)
    monkeypatch.setattr("fedgmi.runs.budget.ladder.CODES", CODES[:1])
    true = rehearse(Setup(settings("rounds=8", method="fedavg"), DIGITS, 1), "fedavg").total
    chosen = settings(f"communication.mb_per_client={0.7 * true / 10**6}", "rounds=8", method="fedavg")
    found = experiment.run(chosen, tmp_path / "run")["budget"]
    assert int(spent(tmp_path / "run", "fedavg").max()) <= 0.7 * true
    assert found["sat_out"] > 0
    lines = [line["sat_out"] for line in folder.read_records(tmp_path / "run")]
    assert sum(lines) == found["sat_out"]


@pytest.mark.parametrize("method", ["fedgmi", "fedavg"])
def test_too_small_a_budget_names_the_smallest_that_works(method):
    def planned(mb):
        return plan(Setup(settings(f"communication.mb_per_client={mb}", method=method), DIGITS, 3), method, 6)

    with pytest.raises(ConfigError, match=r"mb_per_client: 0.001 MB a client is too little for 2 rounds") as caught:
        planned(0.001)
    enough = float(caught.value.fix.split()[3])
    found = planned(enough)
    assert found is not None
    assert found.foreseen <= enough * 10**6
    with pytest.raises(ConfigError, match=f"at least {enough:g}"):
        planned(round(enough - 0.001, 3))


def test_a_round_with_too_small_a_budget_is_refused():
    chosen = settings("communication.mb_per_client_round=0.0001", method="fedavg")
    with pytest.raises(ConfigError, match=r"communication.mb_per_client_round: .* for each of the rounds"):
        plan(Setup(chosen, DIGITS, 1), "fedavg", 6)


def test_patience_is_refused_beside_a_budget(tmp_path):
    chosen = settings("communication.mb_per_client=1", "training.patience=2")
    with pytest.raises(ConfigError, match=r"training.patience: it is 2, and a budget"):
        experiment.run(chosen, tmp_path / "run")


@pytest.mark.parametrize("key", ["mb_per_client", "mb_per_client_round"])
@pytest.mark.parametrize("value", ["0", "-1", "1e308", "nan", "inf", '"five"', "true"])
def test_what_is_no_budget_is_refused(key, value):
    with pytest.raises(ConfigError, match=f"communication.{key}"):
        settings(f"communication.{key}={value}")


def ways_of(*overrides, method="fedgmi"):
    """All ladders' ways together."""
    return [ways for tried in ladders(Setup(settings(*overrides), DIGITS, 3), method) for ways in tried]


def test_what_the_user_set_stays():
    found = ways_of("communication.precision=8")
    assert not any("communication.precision" in ways for ways in found)
    assert any(ways.get("communication.top") == 0.01 for ways in found)
    found = ways_of("communication.mask=0.5", "method.judge_turns=3")
    assert {ways["communication.top"] for ways in found} == {1.0}
    assert not any("method.judge_turns" in ways for ways in found)
    assert any(ONE in ways for ways in found)
    found = ways_of("method.n_components=3")
    assert not any(ONE in ways for ways in found)
    assert any(ways.get("communication.top") == 0.01 for ways in found)


def test_densities_that_judge_stay_in_all_their_rounds():
    found = ways_of("method.judges=density")
    assert {key for ways in found for key in ways} == {"communication.precision", "communication.top"}


def test_the_cost_falls_along_every_ladder():
    few = ("method.kmeans_rounds=1", "method.calibration_steps=1", "method.personal=false")  # no ladder changes these
    chosen = Setup(settings("rounds=5", *few), DIGITS, 3)
    for tried in ladders(chosen, "fedgmi"):
        costs = [rehearse(with_choice(chosen, ways), "fedgmi").total for ways in tried]
        assert costs == sorted(costs, reverse=True)


def test_where_components_cost_too_much_there_is_one_model_and_the_plan_says_so(tmp_path):
    """It has a model of its own for every client, no sketch, and fewer bytes than the least way with components."""
    found = experiment.run(settings("communication.mb_per_client=0.05", "rounds=5"), tmp_path / "run")
    assert "one model for all in place of components" in found["budget"]["plan"]
    assert found["n_components"] == found["budget"]["settings"][ONE] == 1
    assert "sketch" not in found["bytes"]
    assert found["budget"]["most_mb"] <= 0.05
    with pytest.raises(ConfigError, match=r"by the cheapest way that there is .* no densities, 1 turn of judges"):
        experiment.run(settings("communication.mb_per_client=0.05", "method.n_components=3"), tmp_path / "three")


def planned_parts(line):
    """The megabytes that a plan's line adds up, and their sum as it has it."""
    planned = line.partition("Planned: ")[2].partition(". Models")[0]
    parts, total = planned.split(" = ")
    return [float(part.split()[0]) for part in parts.split(" + ")], float(total.split()[0])


@pytest.mark.parametrize(
    ("method", "more"),
    [("fedgmi", ("rounds=6",)), ("fedavg", ("rounds=6",)), ("fedem", ("rounds=6", "method.participation=0.5"))],
)
def test_the_plan_s_numbers_add_up(method, more):
    found = plan(Setup(settings("communication.mb_per_client=3", *more, method=method), DIGITS, 3), method, 6)
    assert found is not None
    parts, total = planned_parts(found.line)
    assert sum(parts) == pytest.approx(total, abs=0.0006 * (len(parts) + 1))
    assert total == pytest.approx(found.foreseen / 10**6, abs=0.0006)
    assert " 6 rounds" in found.line


def test_the_plan_counts_what_was_spent_on_the_number_of_components():
    def line(spent):
        found = plan(Setup(settings("communication.mb_per_client=3", method="fedavg"), DIGITS, 1), "fedavg", 6, spent)
        assert found is not None
        return found.line

    before, (parts, total) = planned_parts(line(0)), planned_parts(line(200_000))
    assert "0.200 MB for the number of components" in line(200_000)
    assert total == pytest.approx(before[1] + 0.2, abs=0.002)
    assert sum(parts) == pytest.approx(total, abs=0.004)


def test_factors_of_models_are_said_to_travel_in_two_bytes():
    chosen = settings("communication.mb_per_client=0.001", method="bcfl")
    with pytest.raises(ConfigError, match="models travel in bfloat16, as factors of others do") as caught:
        plan(Setup(chosen, DIGITS, 3), "bcfl", 6)
    assert "bits" not in str(caught.value)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({}, "Budget of fedavg: most of any client 1.400 MB of 2 MB. Nobody sat out."),
        ({"sat_out": 1}, "1 time a client was not asked"),
        ({"sat_out": 3}, "3 times a client was not asked, for it could have cost too much."),
        ({"mb_per_client_round": 0.1}, "most of any client 1.400 MB of 2 MB, 0.080 MB of 0.1 MB in a round."),
        ({"mb_per_client": None, "mb_per_client_round": 0.1}, "client 1.400 MB, 0.080 MB of 0.1 MB in a round."),
    ],
)
def test_the_end_says_what_the_dearest_client_cost(found, said):
    usual = {"mb_per_client": 2.0, "mb_per_client_round": None, "most_mb": 1.4, "most_mb_round": 0.08, "sat_out": 0}
    assert said in kept_line(usual | found, "fedavg")


class Heard:
    """A listener that keeps the lines."""

    def __init__(self):
        self.lines = []

    def said(self, name, line):
        self.lines.append(line)

    def __getattr__(self, name):
        return lambda *args: None


def test_a_run_says_that_it_plans_then_the_plan_then_what_it_cost(tmp_path):
    heard = Heard()
    chosen = settings("communication.mb_per_client=0.1", method="fedavg")
    found = experiment.run(chosen, tmp_path / "run", listener=heard)["budget"]
    assert heard.lines == [planning_line("fedavg"), found["plan"], found["kept"]]


def test_a_run_without_a_budget_says_how_models_travel(tmp_path):
    heard = Heard()
    found = experiment.run(settings("communication.precision=4", method="fedavg"), tmp_path / "run", listener=heard)
    assert heard.lines == ["fedavg: models travel in 4 bits ([communication])."]
    assert found["models_travelled"] == "in 4 bits"
    heard.lines.clear()
    assert experiment.run(settings(method="local"), tmp_path / "local", listener=heard)["most_mb"] < 0.01
    assert heard.lines == []


def test_without_a_budget_there_is_no_plan():
    assert plan(Setup(settings(), DIGITS, 3), "fedgmi", 6) is None
