"""Config → parts → runs → results folder: the method asked for, and the bounds it stands beside."""

from __future__ import annotations

import time
import warnings
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from fedgmi.storage import checkpoint, folder
from fedgmi.runs.run import CHECKPOINTS, Bench
from fedgmi.settings.run import Config, MethodSettings, dump, load
from fedgmi.data import build_scenario, chosen_scale
from fedgmi.data.scenarios.truth import Scenario
from fedgmi.data.rows import Schema
from fedgmi.data.scenarios.unseen import set_aside
from fedgmi.models.densities import make_density
from fedgmi.errors import ConfigError, DivergedError, FedgmiWarning, unknown
from fedgmi.models.experts import make_expert
from fedgmi.protocol.listener import Listener
from fedgmi.methods import BOUNDS, METHODS, WITHOUT_COMPONENTS, Task
from fedgmi.mixture.spectrum import estimate_components
from fedgmi.diagnosis.survey import take_survey

ALIKE = "the clients look alike, so one component was estimated: there are no proportions to tell apart"


def run(config: Config, out: Path, *, resume: bool = False, listener: Listener | None = None) -> dict[str, Any]:
    """Run the experiment and return its summary; `out` then holds config, records, checkpoints and summary.

    Raises UserError where the settings, the data or the folder do not allow it; earlier results stay untouched.
    """
    check_method(config.method)
    torch.set_flush_denormal(True)  # before threads start, or they do not inherit it
    folder.claim(out, resume=resume)
    with folder.alone(out):
        return _run(config, out, listener)


def _run(config: Config, out: Path, listener: Listener | None) -> dict[str, Any]:
    """The run, in a folder that is nobody else's meanwhile."""
    _same_config(config, out)
    device = choose_device(config.device)
    scenario = build_scenario(config.data, config.scenario, config.seed)
    scenario, unseen = set_aside(scenario, config.evaluation.unseen_clients, config.seed)
    scale = chosen_scale(config.data, config.scenario, scenario.federation)
    if scale is not None:
        scenario, unseen = scenario.rescaled(scale), None if unseen is None else unseen.rescaled(scale)
    settled = _settled_before(out) or settle_components(config, scenario, device)
    task = new_task(config, scenario.federation.schema, settled.n_components)
    folder.write_text(out / folder.CONFIG, dump(config))
    if settled.estimated:
        folder.write_json(out / folder.ESTIMATE, asdict(settled))
    bench = Bench(config, out, scenario, device, listener, unseen)
    results = {name: best_rate(bench, name, task) for name in chosen_methods(config, scenario)}
    settled.charge(results[config.method.name])
    warn_of_unshown(task.n_components, results[config.method.name].get("components_shown"))
    summary = summarise(config, scenario, results) | {"n_components_estimated": settled.estimated}
    folder.write_json(out / folder.SUMMARY, summary)
    return summary


def check_method(settings: MethodSettings) -> None:
    """Refuse a method that there is not, and a number of components for one that has none."""
    if settings.name not in METHODS:
        raise unknown("method", settings.name, METHODS, "method.name")
    if settings.n_components is not None and settings.name in WITHOUT_COMPONENTS:
        having = ", ".join(name for name in METHODS if name not in WITHOUT_COMPONENTS)
        raise ConfigError(
            f"{settings.name} has no components, so it has no number of them",
            where="method.n_components",
            fix=f"unset it, or set method.name to one of {having}",
        )
    if settings.n_components is not None and settings.name == "flhc" and settings.flhc.distance_threshold is not None:
        raise ConfigError(
            "flhc merges clusters up to a distance or down to a number of them, not both",
            where="method.n_components",
            fix="unset it, or method.flhc.distance_threshold",
        )


def _same_config(config: Config, out: Path) -> None:
    """A folder's results and checkpoints come from one configuration; a resumed run must have it still."""
    path = out / folder.CONFIG
    if path.exists() and load(path).digest() != config.digest():
        raise ConfigError(
            "the run there has other settings",
            where=str(path),
            fix=f"resume with its own settings (fedgmi run --resume --out {path.parent}), or give another folder",
        )
    checkpoint.check_all(out / CHECKPOINTS, digest=config.digest())


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" takes the GPU where there is one."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("no CUDA device is available here", where="device", fix='set device = "auto" or "cpu"')
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Settled:
    """K, whether it was estimated, and what that cost: bytes of all clients, seconds."""

    n_components: int
    estimated: bool = False
    bytes_down: int = 0
    bytes_up: int = 0
    seconds: float = 0.0

    def charge(self, outcome: dict[str, Any]) -> None:
        """Add the cost to that of the run that K was estimated for."""
        for key in ("bytes_down", "bytes_up", "seconds"):
            outcome[key] += getattr(self, key)


def settle_components(config: Config, scenario: Scenario, device: torch.device) -> Settled:
    """How many components: those asked for, the scenario's, or, with "auto", K̂ as `fedgmi diagnose` estimates it.

    Raises ConfigError for more components than clients; warns where the clients show a single one.
    """
    asked, clients = config.method.n_components, scenario.federation.clients
    if asked != "auto":
        n_components = asked or config.scenario.n_components
        if n_components > len(clients):
            raise ConfigError(
                f"{n_components} components cannot be told apart from {len(clients)} clients",
                where="method.n_components",
                fix='ask for fewer components, or for "auto"',
            )
        return Settled(n_components)
    survey = take_survey(new_task(config, scenario.federation.schema, 1), clients, device=device)
    began = time.perf_counter()
    found = estimate_components(survey.histograms, config.seed, noise=survey.noise).n_components
    if found == 1:
        warnings.warn(ALIKE, FedgmiWarning, stacklevel=2)
    seconds = survey.seconds + time.perf_counter() - began
    return Settled(found, True, survey.bytes_down, survey.bytes_up, seconds)


def warn_of_unshown(n_components: int, shown: int | None) -> None:
    """Warn of components that were asked for and that the clients' counts do not show (None: nobody counted)."""
    if shown is not None and shown < n_components:
        warnings.warn(
            f"{n_components} components were asked for, and the clients show {shown}: proportions among the others are "
            "arbitrary. See fedgmi diagnose, or ask for fewer",
            FedgmiWarning,
            stacklevel=2,
        )


def _settled_before(out: Path) -> Settled | None:
    """What the run in that folder estimated when it began; a resumed one goes on with it."""
    path = out / folder.ESTIMATE
    if not path.exists():
        return None
    keys = {field.name for field in fields(Settled)}
    found = folder.read_json(path, "an estimate of fedgmi", keys, f"remove it and resume: {path} is then written anew")
    return Settled(**{key: found[key] for key in keys})


def new_task(config: Config, schema: Schema, n_components: int) -> Task:
    """The task of these settings for rows of this schema, at the first learning rate of those to choose from."""
    return Task(
        schema=schema,
        n_components=n_components,
        density=make_density(config.density, schema),
        expert=make_expert(config.expert, schema),
        training=config.training,
        settings=config.method,
        lr=config.training.lr_candidates(config.method.name)[0],
        seed=config.seed,
    )


def chosen_methods(config: Config, scenario: Scenario) -> list[str]:
    """The method asked for, then the bounds that the config asks for and the scenario allows."""
    main, chosen = config.method.name, [config.method.name]
    if config.evaluation.oracle and scenario.truth is not None and main == "fedgmi":
        chosen.append("oracle")
    if scenario.federation.schema.n_classes > 0:
        chosen += [name for name in ("fedavg", "local") if getattr(config.evaluation, name) and name != main]
    return chosen


def best_rate(bench: Bench, name: str, task: Task) -> dict[str, Any]:
    """The outcome at the learning rate that does best on validation rows; one that diverges is out of the running."""
    make = METHODS[name] if name in METHODS else BOUNDS[name]
    components, truth = None, bench.scenario.truth
    if name == "oracle" and truth is not None:
        components, task = truth.components, task.replace(n_components=truth.n_components)
    outcomes, diverged = [], None
    for lr in bench.config.training.lr_candidates(name):
        tuned = task.replace(lr=lr)
        try:
            outcomes.append(bench.outcome(name, make(tuned), tuned, components=components))
        except DivergedError as error:
            diverged = error
    if diverged is not None and not outcomes:
        raise diverged
    return max(outcomes, key=lambda outcome: outcome["validation_accuracy"] or 0.0)


def summarise(config: Config, scenario: Scenario, results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """`summary.json`: the method's own numbers on top, the bounds' under their names."""
    main = {
        "method": config.method.name,
        "preset": config.method.preset if config.method.name == "fedgmi" else None,
        "epsilon": config.method.epsilon,
        "scenario": config.scenario.name,
        "seed": config.seed,
        "clients": list(scenario.federation.names),
        "rows_per_client": [len(client) for client in scenario.federation.clients],
        "standardisation": None if scenario.standardisation is None else scenario.standardisation.to_json(),
    }
    expected = ("proportion_tv", "proportion_tv_drawn", "assignment_accuracy", "expert_accuracy", "density")
    missing = dict.fromkeys(expected)
    bounds = {name: results.get(name) for name in ("oracle", "fedavg", "local")}
    return main | missing | results[config.method.name] | bounds
