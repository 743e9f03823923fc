"""Config → parts → runs → results folder: the method asked for, and the bounds it stands beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedgmi.data.far import warn_of_far_values
from fedgmi.data.scenarios.scenarios import build_scenario, wants_scale
from fedgmi.data.scenarios.truth import Scenario
from fedgmi.data.scenarios.unseen import set_aside
from fedgmi.data.standardise import Standardisation
from fedgmi.data.validate import check_learnable
from fedgmi.errors import ConfigError, DivergedError, UserError
from fedgmi.modes import own_modes
from fedgmi.protocol.listener import Listener
from fedgmi.runs.budget.plan import plan
from fedgmi.runs.budget.planned import Plan
from fedgmi.runs.budget.words import planning_line
from fedgmi.runs.choosing import best_of, check_choice, say_what_chooses, warn_of_idle_metric, with_rows_to_choose
from fedgmi.runs.components import (
    ComponentCount,
    count_components,
    warn_of_unshown,
    warn_of_warm_up,
)
from fedgmi.runs.config import Config, check_method, check_metric, check_rates, dump, load, refuse_compare
from fedgmi.runs.private import check_bounded, check_privacy, scale_of
from fedgmi.runs.records import Estimate, Summary
from fedgmi.runs.run import Runner
from fedgmi.runs.setup import Setup, choose_device
from fedgmi.storage import checkpoint, files, folder


def run(config: Config, out: Path, *, resume: bool = False, listener: Listener | None = None) -> dict[str, Any]:
    """Run the experiment; `out` then holds config, records, checkpoints and summary.

    Args:
        config: The settings.
        out: The results folder.
        resume: Go on with the run there.
        listener: Who wants to know how it goes.

    Returns:
        The summary.

    Raises:
        UserError: Where the settings, the data or the folder do not allow it. Earlier results stay untouched.
    """
    refuse_compare(config)
    check_method(config.method, config.rounds)
    check_rates(config)
    check_privacy(config)
    check_metric(config.evaluation.metric, config.data.task)
    folder.claim(out, resume=resume)
    with folder.alone(out), own_modes(config.threads):
        _same_config(config, out)
        folder.warn_of_lost_records(out)
        new = not (out / folder.CONFIG).exists()
        files.write_text(out / folder.CONFIG, dump(config))  # first of all: what is resumed has these settings
        try:
            return _run(config, out, listener)
        except UserError:
            if new and not folder.read_records(out):  # it never began: the same command, mended, may use the folder
                (out / folder.CONFIG).unlink()
            raise


def _run(config: Config, out: Path, listener: Listener | None) -> dict[str, Any]:
    """The run, in a folder that is nobody else's meanwhile."""
    device = choose_device(config.device)
    scenario = build_scenario(config.data, config.scenario, config.seed)
    came, unseen = set_aside(scenario, config.evaluation.unseen_clients, config.seed)
    schema = came.federation.schema
    check_metric(config.evaluation.metric, schema.task)  # a scenario of an outside package may say another task
    check_learnable(schema, came.federation.clients)
    names = chosen_methods(config, came)
    warn_of_idle_metric(config, schema.task, names)
    wanted = wants_scale(config.data, config.scenario, schema)
    scale = scale_of(config, schema, wanted)
    setup = Setup(config, schema, 1, wanted and scale is None, scale=scale)
    setup.say_remarks()
    warn_of_far_values(schema, came.federation.clients)
    scenario = with_rows_to_choose(came, setup.method(), config.seed)
    counted = _counted_before(out) or count_components(config, setup, scenario.federation.clients, device)
    setup = replace(setup, n_components=counted.n_components)
    method = setup.method()
    warn_of_warm_up(method, config.rounds)
    say_what_chooses(method, came.federation, scenario.federation, "set scenario.validation_share = 0.1")
    program = method.program  # what cannot be is refused before anything is written
    for name in names:
        beside = setup.method(name)
        check_choice(config, came.federation, beside.program, name)
        check_bounded(config, beside)
    if counted.estimated:
        Estimate.write(out, counted.to_json())
    n_clients = len(came.federation.clients)
    spent = {config.method.name: counted.bytes_of_client(program, n_clients)}
    plans = _plans(setup, names, n_clients, spent, listener)
    results = {}
    for name in plans:
        trained = with_rows_to_choose(came, setup.method(name), config.seed)
        runner = Runner(setup, out, trained, device, listener, unseen, counted.survey, plans=plans)
        runner.spent = spent.get(name, 0)
        results[name] = best_rate(runner, name)
    main = results[config.method.name]
    counted.charge(main, program)
    warn_of_unshown(setup.n_components, main)
    scale = scenario.federation.standardisation() if setup.standardise else scale
    summary = summarise(config, scenario, scale, results) | {"n_components_estimated": counted.estimated}
    return Summary.write(out, summary)


def _plans(
    setup: Setup, names: Sequence[str], n_clients: int, spent: Mapping[str, int], listener: Listener | None
) -> dict[str, Plan | None]:
    """How all that are to run keep to the budget, before anything is trained. Bounds that no way fits are left out."""
    plans: dict[str, Plan | None] = {}
    for name in names:
        if listener is not None and setup.config.communication.limited and name != "oracle":
            listener.said(name, planning_line(name))
        try:
            plans[name] = plan(setup, name, n_clients, spent.get(name, 0))
        except ConfigError as error:
            if name == setup.config.method.name:
                raise
            if listener is not None:
                listener.said(name, f"{name} is left out: {error.where}: {error.what}")
    return plans


def _same_config(config: Config, out: Path) -> None:
    """A folder's results and checkpoints come from one configuration; a resumed run must have it still."""
    path = out / folder.CONFIG
    if path.exists() and load(path).digest() != config.digest():
        raise ConfigError(
            "the run there has other settings",
            where=str(path),
            fix=f"resume with its own settings (fedgmi run --resume --out {path.parent}), or give another folder",
        )
    checkpoint.check_all(out / folder.CHECKPOINTS, digest=config.digest())


def _counted_before(out: Path) -> ComponentCount | None:
    """What the run in that folder estimated when it began; a resumed one goes on with it."""
    if not (out / folder.ESTIMATE).exists():
        return None
    found = Estimate.read(out)
    spent = {str(kind): list(both) for kind, both in found.bytes.items()}
    return ComponentCount(found.n_components, found.estimated, spent, found.seconds, tuple(found.steps))


def chosen_methods(config: Config, scenario: Scenario) -> list[str]:
    """The method asked for, then the bounds that the config asks for and the scenario allows."""
    main, chosen = config.method.name, [config.method.name]
    if config.evaluation.oracle and scenario.truth is not None and main == "fedgmi":
        chosen.append("oracle")
    if scenario.federation.schema.labelled:
        chosen += [name for name in ("fedavg", "local") if getattr(config.evaluation, name) and name != main]
    return chosen


def best_rate(runner: Runner, name: str) -> dict[str, Any]:
    """The outcome at the learning rate that does best on validation rows; one that diverges is out of the running."""
    components, truth = None, runner.scenario.truth
    if name == "oracle" and truth is not None:
        components = truth.components
        runner = replace(runner, setup=replace(runner.setup, n_components=truth.n_components))
    outcomes, diverged = [], None
    for lr in runner.setup.config.training.lr_candidates(name):
        try:
            outcomes.append(runner.outcome(name, lr, components=components))
        except DivergedError as error:
            diverged = error
    if diverged is not None and not outcomes:
        raise diverged
    return best_of(outcomes, runner.setup.config.evaluation.metric)


def summarise(
    config: Config, scenario: Scenario, scale: Standardisation | None, results: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """`summary.json`: the method's own numbers on top, the bounds' under their names."""
    own = config.method.model_dump()
    main = {
        "metric": config.evaluation.metric,
        "method": config.method.name,
        "preset": own.get("preset"),
        "epsilon": own.get("epsilon"),
        "scenario": config.scenario.name,
        "seed": config.seed,
        "clients": list(scenario.federation.names),
        "rows_per_client": [len(client) for client in scenario.federation.clients],
        "standardisation": None if scale is None else scale.to_json(),
    }
    expected = ("proportion_tv", "proportion_tv_drawn", "assignment_accuracy", "expert_accuracy", "density")
    missing = dict.fromkeys(expected)
    bounds = {name: results.get(name) for name in ("oracle", "fedavg", "local")}
    return main | missing | results[config.method.name] | bounds
