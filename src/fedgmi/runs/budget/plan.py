"""The plan: of ladders of ways to run a method, each from the best to the cheapest, the first way that fits the budget.

The order is that of docs/decisions.md: bits before entries, densities that judge nothing before experts, turns of
judges after these. Where no way with components fits, there is one model for all. What a user has set himself stays as
it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, TypeAlias

from fedgmi.errors import ConfigError
from fedgmi.methods.fedgmi.settings import FedGMISettings, choose_judges
from fedgmi.protocol.allowance import MARGIN, Allowance, Costs
from fedgmi.protocol.ledger import Ledger
from fedgmi.protocol.rounds import participants
from fedgmi.runs.budget.rehearsal import rehearse
from fedgmi.runs.config import Config
from fedgmi.runs.setup import Setup, losses_of, settings_for
from fedgmi.settings.effects import changed

MB = 10**6
Course: TypeAlias = tuple[Sequence[int], frozenset[int]]
ONE = "method.n_components"


@dataclass(frozen=True)
class Rung:
    """One way to run.

    Attributes:
        precision: As `communication.precision`.
        top: As `communication.top`.
        densities: The share of rounds in which densities are trained, rounded up, where they judge nothing; None: as
            it is.
        turns: As `method.judge_turns`; None: as it is.
    """

    precision: str = "float32"
    top: float = 1.0
    densities: float | None = None
    turns: int | None = None


ONE_ROUND = 1e-9  # as a share of rounds, rounded up
RUNGS = (
    Rung(),
    Rung("bfloat16"),
    Rung("8"),
    Rung("4"),
    Rung("4", densities=0.2, turns=4),
    Rung("4", densities=ONE_ROUND, turns=2),
    Rung("4", 0.5, densities=ONE_ROUND, turns=2),
    Rung("4", 0.3, densities=ONE_ROUND, turns=2),
    Rung("4", 0.3, densities=0.0, turns=2),
    *(Rung("4", top, densities=0.0, turns=1) for top in (0.3, 0.2, 0.14, 0.1)),
)
"""From the best to the cheapest, with components. Below these one model predicts better, for the same bytes."""
SCARCE = tuple(Rung("4", top, densities=0.0, turns=1) for top in (0.07, 0.05, 0.03, 0.02, 0.01))
"""What follows where the user has said how many components there are."""
CODES = (
    *(Rung(), Rung("bfloat16"), Rung("8"), Rung("4")),
    *(Rung("4", top) for top in (0.5, 0.3, 0.2, 0.14, 0.1, 0.07, 0.05, 0.03, 0.02, 0.01)),
)
"""The same where nothing but models travels."""


@dataclass(frozen=True)
class Plan:
    """How a run keeps to its budget.

    Attributes:
        setup: The run's, with what the plan has chosen.
        chosen: That, by the names of settings.
        costs: What a client costs, as foreseen.
        courses: In which rounds the clients that may be the dearest are asked, and in which of these their replies
            are lost.
        foreseen: Bytes of a client, in all: of the middle one where replies are lost, of the dearest otherwise.
        line: What is said of it before the run.
    """

    setup: Setup
    chosen: Mapping[str, Any]
    costs: Costs
    courses: Sequence[Course]
    foreseen: int
    line: str

    def allowance(self, spent: int = 0) -> Allowance:
        """What clients may cost in the run.

        Args:
            spent: Bytes of a client before it.
        """
        limits = self.setup.config.communication
        total = None if limits.mb_per_client is None else int(limits.mb_per_client * MB) - spent
        each = None if limits.mb_per_client_round is None else int(limits.mb_per_client_round * MB)
        return Allowance(
            total, each, self.costs, self.costs.of(*usual(self.costs, self.courses)) - self.costs.prepare, spent
        )


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


def usual(costs: Costs, asked: Sequence[Course]) -> Course:
    """The client in the middle. Where replies are lost, a plan for the unluckiest would be dear for all."""
    return sorted(asked, key=lambda course: costs.of(*course))[len(asked) // 2]


def ladders(setup: Setup, name: str) -> list[list[dict[str, Any]]]:
    """Settings that the method may be run with, by their names.

    Args:
        setup: The run's. What is not at its default stays.
        name: The method's.

    Returns:
        Ladders, each from the best way to the cheapest: with components, and of fedgmi with one model for all. Each way
        once.
    """
    own = settings_for(setup.config, name)
    if not isinstance(own, FedGMISettings) or choose_judges(own, setup.schema.n_classes).judges != "closed":
        of_factors = bool(setup.method(name).program.relative)  # they travel in bfloat16 at best, and whole
        return [_ladder(setup, [(rung, {}) for rung in (CODES[:2] if of_factors else CODES)])]
    one, fixed = setup.n_components == 1, own.n_components is not None
    rungs = (*RUNGS, *SCARCE) if fixed and not one else RUNGS
    found = [_ladder(setup, [(rung, _of_fedgmi(own, rung, setup)) for rung in rungs])]
    if one or not fixed:
        more = _of_fedgmi(own, Rung(densities=0.0), setup) | ({} if one else {ONE: 1})
        found.append(_ladder(setup, [(rung, more) for rung in CODES]))
    return found


def _ladder(setup: Setup, rungs: Sequence[tuple[Rung, dict[str, Any]]]) -> list[dict[str, Any]]:
    mine = setup.config.communication
    fixed = changed(mine, ("precision", "top", "mask", "layers"))
    found: list[dict[str, Any]] = []
    for rung, more in rungs:
        coded = {"precision": rung.precision, "top": rung.top}
        if {"mask", "layers"} & set(fixed):
            coded["top"] = mine.top
        ways = {f"communication.{key}": value for key, value in coded.items() if key not in fixed} | more
        if ways not in found:
            found.append(ways)
    return found


def _of_fedgmi(own: FedGMISettings, rung: Rung, setup: Setup) -> dict[str, Any]:
    """How often densities and judges travel."""
    ways: dict[str, Any] = {}
    rounds, fixed = setup.config.rounds, changed(own, ("reference_rounds", "judge_turns"))
    if rung.densities is not None:
        ways["method.reference_rounds"] = min(own.reference_rounds, ceil(rung.densities * rounds))
    if rung.turns is not None:
        ways["method.judge_turns"] = min(own.judge_turns, rung.turns)
    return {key: value for key, value in ways.items() if key.partition(".")[2] not in fixed}


def with_choice(setup: Setup, chosen: Mapping[str, Any]) -> Setup:
    """The setup with some settings in place of its own."""
    config = setup.config
    sections = {"communication": config.communication, "method": config.method}
    for section in sections:
        update = {key.partition(".")[2]: value for key, value in chosen.items() if key.startswith(f"{section}.")}
        sections[section] = sections[section].model_copy(update=update)
    n_components = int(chosen.get(ONE, setup.n_components))
    return replace(setup, config=config.model_copy(update=sections), n_components=n_components)


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
