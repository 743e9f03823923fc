"""The plan: of ladders of ways to run a method, from the best to the cheapest, the first that fits the budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fedgmi.errors import ConfigError
from fedgmi.protocol.allowance import MARGIN, MB
from fedgmi.protocol.rounds import participants
from fedgmi.runs.budget.ladder import ladders, with_choice
from fedgmi.runs.budget.planned import Course, Plan, usual
from fedgmi.runs.budget.rehearsal import rehearse
from fedgmi.runs.budget.words import told, ways_in_words
from fedgmi.runs.config import Config
from fedgmi.runs.setup import Setup, losses_of, settings_for
from fedgmi.settings.effects import changed


def plan(setup: Setup, name: str, n_clients: int, spent: int = 0) -> Plan | None:
    """The best way that fits.

    Args:
        setup: The run's, its number of components known.
        name: The method's.
        n_clients: N.
        spent: Bytes of a client before the run.

    Returns:
        The plan; None without a budget, and for the oracle: a bound that knows the truth is not held to one.

    Raises:
        ConfigError: Where nothing fits; it says what would.
    """
    config = setup.config
    if not config.communication.limited or name == "oracle":
        return None
    if config.training.patience is not None:
        raise ConfigError(
            f"it is {config.training.patience}, and a budget needs to know how many rounds there are",
            where="training.patience",
            fix="leave it out and set rounds, or leave out communication.mb_per_client and mb_per_client_round",
        )
    asked = courses(n_clients, settings_for(config, name).participation, config)
    least = None
    for tried in ladders(setup, name):
        found, least = _first(setup, name, tried, asked, spent)
        if found is not None:
            return replace(found, line=told(found, name, asked, spent))
    assert least is not None
    if any(lost for _, lost in asked):  # then for one that loses nothing: the others will sit out rounds
        calm = config.communication.model_copy(update={"lost": 0.0})
        found = plan(replace(setup, config=config.model_copy(update={"communication": calm})), name, n_clients, spent)
        assert found is not None
        return replace(found, setup=with_choice(setup, found.chosen))
    raise _too_small(least, name, spent)


def _first(
    setup: Setup, name: str, tried: Sequence[Mapping[str, Any]], asked: Sequence[Course], spent: int
) -> tuple[Plan | None, Plan]:
    """The first of a ladder that fits, by bisection; and where it ended, which is the cheapest way if none fits."""
    low, high = 0, len(tried)  # the costs fall along the ladder
    found: dict[int, Plan] = {}
    while low < high:
        middle = (low + high) // 2
        found[middle] = _at(setup, name, tried[middle], asked)
        low, high = (low, middle) if _fits(found[middle], spent) else (middle + 1, high)
    return found.get(low), found[min(low, len(tried) - 1)]


def courses(n_clients: int, fraction: float, config: Config) -> list[Course]:
    """The courses that may be the dearest: of a client that is asked most often, or with lost replies of everyone.

    Args:
        n_clients: N.
        fraction: Of clients in a round.
        config: Its seed, rounds, and share of lost replies.

    Returns:
        Rounds in which a client is asked, and those of them (0: the preparation) in which its reply is lost.
    """
    seed, rounds = config.seed, config.rounds
    drawn = {number: participants(n_clients, fraction, seed, number) for number in range(1, rounds + 1)}
    losses = losses_of(config)
    if losses is None:
        [(client, _)] = Counter(i for ids in drawn.values() for i in ids).most_common(1)
        return [([number for number, ids in drawn.items() if client in ids], frozenset())]
    lost = {0: losses.lost(range(n_clients), 0)} | {number: losses.lost(ids, number) for number, ids in drawn.items()}
    return [
        (
            [number for number, ids in drawn.items() if i in ids],
            frozenset(number for number, ids in lost.items() if i in ids),
        )
        for i in range(n_clients)
    ]


def _at(setup: Setup, name: str, ways: Mapping[str, Any], asked: Sequence[Course]) -> Plan:
    planned = with_choice(setup, ways)
    own = settings_for(setup.config, name)  # turns that the user asked for are not left out
    costs = rehearse(planned, name, spare="judge_turns" in changed(own, ("judge_turns",)))
    return Plan(planned, ways, costs, asked, int((1 + MARGIN) * costs.of(*usual(costs, asked))) + 1, "")


def _fits(found: Plan, spent: int) -> bool:
    allowed = found.allowance(spent)
    within = allowed.total is None or found.foreseen <= allowed.total
    return within and (allowed.each_round is None or _dearest(found) <= allowed.each_round)


def _dearest(found: Plan) -> int:
    return int((1 + MARGIN) * max(found.costs.rounds)) + 1


def _too_small(least: Plan, name: str, spent: int) -> ConfigError:
    """The refusal: what was found, and the least that works."""
    limits, rounds = least.setup.config.communication, least.setup.config.rounds
    total = limits.mb_per_client is not None and least.foreseen + spent > limits.mb_per_client * MB
    key = "mb_per_client" if total else "mb_per_client_round"
    needed = least.foreseen + spent if total else _dearest(least)
    enough = -(-needed // 1000) / 1000  # to a thousandth, upwards
    of = f"for {rounds} round{'s' * (rounds > 1)}" if total else "for each of the rounds"
    fewer = ", or lower rounds" if total and rounds > 1 else ""
    return ConfigError(
        f"{getattr(limits, key):g} MB a client is too little {of}: expected at least {enough:g} MB, by the "
        f"cheapest way that there is (models travel {ways_in_words(least, name)})",
        where=f"communication.{key}",
        fix=f"set it to {enough:g} or more{fewer}",
    )
