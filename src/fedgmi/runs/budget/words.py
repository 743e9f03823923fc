"""What is said of a plan: before the run, at its end, and in its summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedgmi.protocol.allowance import MB, Allowance
from fedgmi.protocol.ledger import Ledger
from fedgmi.runs.budget.ladder import ONE
from fedgmi.runs.budget.planned import Course, Plan, usual


def told(found: Plan, name: str, asked: Sequence[Course], spent: int = 0) -> str:
    """The line before the run: a sum, whose parts are of the client in the middle.

    Args:
        found: The plan.
        name: The method's.
        asked: The courses that may be the dearest.
        spent: Its bytes before the run.
    """
    config, costs = found.setup.config, found.costs
    limits = config.communication
    budget = [
        f"{limit:g} MB a client{what}"
        for limit, what in ((limits.mb_per_client, ""), (limits.mb_per_client_round, " and round"))
        if limit is not None
    ]
    course = usual(costs, asked)
    total, foreseen, rounds = found.foreseen + spent, costs.of(*course), course[0]
    each = sorted(costs.rounds[number - 1] for number in rounds)
    mostly, dearest = (_mb(cost, total) for cost in (each[len(each) // 2], each[-1]))
    one = f" ({mostly} each)" if mostly == dearest else f" (mostly {mostly}, at most {dearest})"
    of = "" if len(rounds) == config.rounds else f" of {config.rounds}"
    when = f"{len(rounds)}{of} round{'s' * (config.rounds > 1)}{one if len(rounds) > 1 else ''}"
    parts = {
        "for the number of components": spent,
        "before round 1": costs.prepare,
        f"in {when}": foreseen - costs.prepare - costs.finish,
        "at the end": costs.finish,
        "for what cannot be foreseen": found.foreseen - foreseen,
    }
    summed = " + ".join(f"{_mb(cost, total)} {what}" for what, cost in parts.items() if cost > total // 1000)
    return (
        f"Budget of {name}: {', '.join(budget)}. Planned: {summed} = {_mb(total, total)}. "
        f"Models travel {ways_in_words(found, name)}."
    )


def planning_line(name: str) -> str:
    """What is said before the plan is made, which takes seconds."""
    return f"Budget of {name}: planning, by a rehearsal on made rows ..."


def kept_line(found: Mapping[str, Any], name: str) -> str:
    """What is said at the end: what the dearest client cost, and how often clients sat out.

    Args:
        found: What `spending` has.
        name: The method's.

    Examples:
        >>> found = {"mb_per_client": 2.0, "mb_per_client_round": None, "most_mb": 1.4, "sat_out": 0}
        >>> kept_line(found, "fedavg")
        'Budget of fedavg: most of any client 1.400 MB of 2 MB. Nobody sat out.'
    """
    total, each, times = found["mb_per_client"], found["mb_per_client_round"], found["sat_out"]
    of = "" if total is None else f" of {total:g} MB"
    most = [f"most of any client {_mb(round(found['most_mb'] * MB))}{of}"]
    if each is not None:
        most.append(f"{_mb(round(found['most_mb_round'] * MB))} of {each:g} MB in a round")
    sat = f"{times} time{'s' * (times > 1)} a client was not asked, for it could have cost too much"
    return f"Budget of {name}: {', '.join(most)}. {sat if times else 'Nobody sat out'}."


def spending(planned: Plan, allowance: Allowance, ledger: Ledger, name: str, spent: int = 0) -> dict[str, Any]:
    """How a method's run kept to its budget, for its summary."""
    limits, rounds = planned.setup.config.communication, planned.setup.config.rounds
    dearest = max(int(ledger.by_client(number).sum(1).max()) for number in range(1, rounds + 1))
    found = {
        "mb_per_client": limits.mb_per_client,
        "mb_per_client_round": limits.mb_per_client_round,
        "plan": planned.line,
        "settings": dict(planned.chosen),
        "foreseen_mb": (planned.foreseen + spent) / MB,
        "most_mb": (int(ledger.by_client().sum(1).max()) + spent) / MB,
        "most_mb_round": dearest / MB,
        "sat_out": allowance.times,
    }
    return found | {"kept": kept_line(found, name)}


def ways_in_words(found: Plan, name: str) -> str:
    """How models travel in a plan of a method, to be said after "models travel"."""
    config = found.setup.config
    words = [found.setup.coding().in_words(found.setup.method(name).program)]
    if ONE in found.chosen:
        words.append("one model for all in place of components")
    elif "method.reference_rounds" in found.chosen:
        rounds = found.chosen["method.reference_rounds"]
        told = f"densities in {rounds} of {config.rounds} round{'s' * (config.rounds > 1)}"
        words.append(told if rounds else "no densities")
    if "method.judge_turns" in found.chosen:
        turns = found.chosen["method.judge_turns"]
        words.append(f"{'up to ' * (turns > 2)}{turns} turn{'s' * (turns > 1)} of judges")
    return ", ".join(words)


def _mb(n_bytes: int, total: int = MB) -> str:
    """Megabytes, with as many digits as all parts of a total need to add up for a reader."""
    return f"{n_bytes / MB:.{3 if total >= MB // 10 else 5}f} MB"
