"""A whole run's settings, read from TOML. An unknown key is an error that names the nearest known one."""

from __future__ import annotations

import copy
import hashlib
import math
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationError

from fedgmi import settings
from fedgmi.errors import ConfigError, FedgmiWarning, nearest, too_many_components, unknown
from fedgmi.methods import BOUNDS, METHODS
from fedgmi.protocol.codecs.coding import check_communication
from fedgmi.runs.metrics import METRICS, USUAL, of_task
from fedgmi.settings import toml
from fedgmi.settings.base import MethodSettings, Rounds, Section, Seed
from fedgmi.settings.communication import CommunicationSettings
from fedgmi.settings.effects import refuse_without_effect
from fedgmi.settings.explain import explain
from fedgmi.settings.privacy import PrivacySettings
from fedgmi.settings.run import (
    ROUNDS,
    DataSettings,
    DensitySettings,
    EvaluationSettings,
    ExpertSettings,
    ScenarioSettings,
    TaskName,
    TrainingSettings,
)

DEFAULT = Path(settings.__file__).parent / "default.toml"
DEFAULT_METHOD = "fedgmi"
RENAMED = {"judge_rounds": "reference_rounds"}


def method_named(value: Any) -> str:
    """Which method settings are of: by their `name`, which is fedgmi where there is none."""
    name = value.get("name", DEFAULT_METHOD) if isinstance(value, Mapping) else getattr(value, "name", None)
    return str(name)


def _own_class(value: Any) -> Any:
    """A table as the settings of the method that it names. Only that method is loaded, wherever it comes from."""
    return method_of({"method": value}).model_validate(value, strict=True) if isinstance(value, Mapping) else value


AnyMethod = Annotated[SerializeAsAny[MethodSettings], BeforeValidator(_own_class)]
"""The settings of any one method."""


class Config(Section):
    """A whole run.

    Attributes:
        seed: Of all draws.
        rounds: R.
        device: "auto" takes a GPU where there is one.
        threads: Of the CPU; None: one where models have fewer than 100,000 parameters, else as many as torch takes.
        data: Where rows come from.
        scenario: Who holds which.
        method: Which method, and its own settings.
        density: The model of one component's p(x).
        expert: The model of one component's p(y | x).
        training: Local training, the same for all methods.
        communication: How models travel, and what becomes of messages on their way, the same for all methods.
        privacy: Differential privacy of the whole run.
        evaluation: What runs beside the method.
        compare: For `fedgmi compare` alone: settings of methods other than `method.name`, by name. What they leave out
            has its default, but for n_components and participation, which are those of `method`. The command line's
            `--set method.KEY=VALUE` stands here too, for every compared method that has it; see `runs.reach`.
            Commands that run one method refuse it.
    """

    seed: Seed = 0
    rounds: Rounds = ROUNDS
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None  # more crash torch
    data: DataSettings = DataSettings()
    scenario: ScenarioSettings = ScenarioSettings()
    method: AnyMethod = METHODS[DEFAULT_METHOD].settings(name=DEFAULT_METHOD)
    density: DensitySettings = DensitySettings()
    expert: ExpertSettings = ExpertSettings()
    training: TrainingSettings = TrainingSettings()
    communication: CommunicationSettings = CommunicationSettings()
    privacy: PrivacySettings = PrivacySettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    compare: dict[str, dict[str, Any]] = Field(default_factory=dict)

    def digest(self) -> str:
        """A hash of everything that decides a run's numbers: equal settings, however they were written, agree."""
        return hashlib.blake2b(dump(self).encode(), digest_size=16).hexdigest()


def load(path: Path | None, overrides: Iterable[str] = ()) -> Config:
    """The configuration from a TOML file with overrides, checked.

    Args:
        path: The file; None: the bundled one for the digits, which counts for nothing where `data.path` is another.
        overrides: As `section.key=value`. Values are TOML, or plain text where they are none. Later ones win. An empty
            text unsets an optional key. Where they name another method than the file, the file's settings of its own
            method do not count: with a FedgmiWarning if any is not at its default.

    Returns:
        The configuration.

    Raises:
        ConfigError: For an unknown key, a value of another type, or settings that contradict each other.
    """
    source, overrides = path if path is not None else DEFAULT, list(overrides)
    table = {} if path is None and _own_data(overrides) else toml.read_toml(source)
    _change_method(table, overrides)
    alone = copy.deepcopy(table)
    toml.override(table, overrides)
    where = str(path) if path else "settings"
    try:
        config = from_table(toml.unset_empty(table), where)
    except ConfigError:
        if path is not None and overrides and _sound(alone):
            from_table(table, "--set")  # the file is not to blame
        raise
    check(config)
    return config


def _sound(table: toml.Table) -> bool:
    """Whether a file's settings are right by themselves."""
    try:
        from_table(toml.unset_empty(table), "")
    except ConfigError:
        return False
    return True


def _own_data(overrides: list[str]) -> bool:
    """Whether overrides name data other than the digits, for which the bundled settings are not meant."""
    words = [word.partition("=") for word in overrides]
    paths = [text.strip() for key, _, text in words if key.strip() == "data.path"]
    return bool(paths) and toml.parse_value(paths[-1]) != DataSettings().path


def _change_method(table: toml.Table, overrides: list[str]) -> None:
    """Drop what the table sets of its own method, where overrides name another one."""
    before: toml.Table = {}
    toml.override(before, [word for word in overrides if word.partition("=")[0].strip() in ("method", "method.name")])
    section, wanted = table.get("method"), before.get("method")
    if not isinstance(section, dict) or not isinstance(wanted, dict):
        return
    now, then = method_named(section), method_named(wanted)
    if now == then or now not in METHODS:
        return
    defaults = METHODS[now].settings.model_fields
    own = [key for key in section if key in defaults and key not in MethodSettings.model_fields]
    lost = [key for key in own if section.pop(key) != defaults[key].get_default()]
    if lost:
        names = ", ".join(f"method.{key}" for key in lost)
        warnings.warn(FedgmiWarning(f"{names}: settings of {now}, which do not count for {then}"), stacklevel=3)


def from_table(table: toml.Table, source: str) -> Config:
    """The configuration from nested tables, what they leave out at its default.

    Args:
        table: Sections by name.
        source: Where it comes from, for errors.

    Returns:
        The configuration.

    Raises:
        ConfigError: It names the key, what was found and what was expected.
    """
    method_of(table)
    _refuse_older(table, source)
    try:
        return Config.model_validate(_with_metric(table), strict=True)
    except ValidationError as error:
        raise explained(error, Config, table, source) from error


def _with_metric(table: toml.Table) -> toml.Table:
    """The table with the metric of its task, where it says none."""
    data, evaluation = table.get("data"), table.get("evaluation", {})
    task = data.get("task") if isinstance(data, Mapping) else None
    if task not in USUAL or not isinstance(evaluation, Mapping) or "metric" in evaluation:
        return table
    return table | {"evaluation": {**evaluation, "metric": USUAL[task]}}


def with_task(config: Config, task: TaskName) -> Config:
    """The settings for a task that the data say, with its metric where the settings say none.

    Raises:
        ConfigError: The settings say another task.
    """
    if config.data.task == task:
        return config
    if "task" in config.data.model_fields_set:
        raise ConfigError(
            f"it is {config.data.task}, and the federation's rows are for {task}",
            where="data.task",
            fix="leave it out, or make the federation with that task",
        )
    evaluation = config.evaluation
    if evaluation.metric == USUAL["classification"]:
        evaluation = evaluation.model_copy(update={"metric": USUAL[task]})
    return config.model_copy(update={"data": config.data.model_copy(update={"task": task}), "evaluation": evaluation})


def check_metric(metric: str, task: str) -> None:
    """Refuse a metric that the task does not have.

    Raises:
        ConfigError: It names those that the task has.
    """
    known = of_task(task)
    if metric not in known:
        raise ConfigError(
            f"the task is {task}, and {METRICS[metric].words} is a metric of {METRICS[metric].task}",
            where="evaluation.metric",
            fix=f"set it to one of {', '.join(known)}",
        )


def method_of(table: Mapping[str, Any]) -> type[MethodSettings]:
    """The class of the settings in the table's section `method`.

    Raises:
        ConfigError: For a method that there is not.
    """
    section = table.get("method", {})
    name = method_named(section) if isinstance(section, Mapping | Section) else DEFAULT_METHOD
    if name not in METHODS:
        raise unknown("method", name, METHODS, "method.name")
    return METHODS[name].settings


def explained(error: ValidationError, model: type[Section], table: Mapping[str, Any], source: str) -> ConfigError:
    """Pydantic's findings about a table with a section `method`, as one error in our own words."""
    chosen = method_of(table)
    name = str(chosen.model_fields["name"].default)

    def advice(key: str) -> str:
        section, _, inner = key.partition(".")
        return _advice(inner, name, "method.") if section == "method" and inner else ""

    return explain(error, model, source, unions={"method": (name, chosen)}, advice=advice)


def _refuse_older(table: Mapping[str, Any], source: str) -> None:
    """Refuse settings as an older fedgmi had them: a section for each method, or a key that has another name now."""
    section = table.get("method")
    keys = section if isinstance(section, Mapping) else {}
    heads = {key: inner for key, inner in keys.items() if key in METHODS and isinstance(inner, Mapping)}
    renamed = {key: now for key, now in RENAMED.items() if key in keys}
    if not heads and not renamed:
        return
    found = ", ".join(f"method.{key}" for key in (*renamed, *heads))
    fixes = [f"write {now} for {key}" for key, now in renamed.items()]
    name = method_named(keys) if "name" in keys or len(heads) != 1 else next(iter(heads))
    if name in heads:
        own = "".join(f" and {key}" for key in heads.pop(name))
        fixes.append(f'write name = "{name}"{own} directly under [method]')
    if heads:
        out = ", ".join(f"method.{key}" for key in heads)
        fixes.append(f"leave out {out}, or write [compare.{next(iter(heads))}] for fedgmi compare")
    raise ConfigError(
        f"these settings are as an older fedgmi had them: {found}",
        where=source,
        fix=f"{'; '.join(fixes)}. A results folder that an older fedgmi wrote needs that fedgmi",
    )


def _advice(key: str, name: str, prefix: str = "") -> str:
    """Where a key belongs that a method's settings do not know; "" where nobody knows."""
    meant = nearest(key, dict.fromkeys(f for entry in METHODS.usable().values() for f in entry.settings.model_fields))
    owners = [other for other, entry in METHODS.usable().items() if meant in entry.settings.model_fields]
    if not owners or name in owners:
        return ""
    those = " and ".join(filter(None, [", ".join(owners[:-1]), owners[-1]]))
    whose = f"{meant} is a setting of {those}, and {'method.name' if prefix else 'this method'} is {name}"
    return whose if meant == key else f"did you mean {prefix}{meant}? {whose}"


def loads(text: str, source: str) -> Config:
    """The configuration from TOML text, such as `dump` writes; `source` is named in errors."""
    return from_table(toml.unset_empty(toml.parse_toml(text, source)), source)


def dump(config: Config) -> str:
    """TOML text of all settings, which `load` reads back to an equal Config."""
    return toml.to_toml(config)


def check(config: Config) -> None:
    """Refuse settings that contradict each other, though each is fine alone.

    Raises:
        ConfigError: It names the setting and the likely fix.
    """
    from fedgmi.data.scenarios.scenarios import SCENARIOS  # a deployed site has no scenario, and does without

    spec = SCENARIOS.get(config.scenario.name)
    by_data = config.scenario.n_clients is None and spec is not None and "client_column" in spec.uses
    n_clients = math.inf if by_data else config.scenario.clients
    for where, n_components in (
        ("scenario.n_components", config.scenario.n_components),
        ("method.n_components", config.method.n_components),
    ):
        if isinstance(n_components, int) and n_components > n_clients:
            fix = f"set it to {n_clients} or less, or scenario.n_clients to {n_components} or more"
            raise too_many_components(n_components, n_clients, where=where, fix=fix)
    check_method(config.method, config.rounds)
    if spec is not None:
        spec.check(config.data, config.scenario)
        if not spec.has_truth and config.method.n_components is not None:
            why = f"method.n_components is {config.method.n_components}"
            refuse_without_effect(config.scenario, "scenario", ["n_components"], why)
    check_rates(config)
    check_communication(config.communication)
    check_metric(config.evaluation.metric, config.data.task)
    for name, own in config.compare.items():
        found = settings_of(name, own, "compare")
        if name == config.method.name:
            raise ConfigError(
                f"the settings of {name} stand in [method]",
                where=f"compare.{name}",
                fix=f"leave the section out, or set method.name to another method than {name}",
            )
        METHODS[name].check(found, config.rounds)


def check_rates(config: Config) -> None:
    """Refuse learning rates of methods that there are not.

    Raises:
        ConfigError: It names the nearest.
    """
    for name in config.training.lr if isinstance(config.training.lr, dict) else ():
        if name not in METHODS and name not in (*BOUNDS, "default"):
            raise unknown("method", name, [*METHODS, *BOUNDS, "default"], "training.lr")


def refuse_compare(config: Config) -> None:
    """Refuse settings of other methods where one method runs alone: they would be ignored in silence.

    Raises:
        ConfigError: It names the section.
    """
    if config.compare:
        raise ConfigError(
            f"settings of {', '.join(config.compare)} are for `fedgmi compare` alone",
            where="compare",
            fix="leave the section out, on the command line with --set compare={}",
        )


def check_method(method: MethodSettings, rounds: int) -> None:
    """Refuse a number of components for a method that has none, and what its own check refuses.

    Raises:
        ConfigError: It names the setting.
    """
    entry = METHODS[method.name]
    if method.n_components is not None and not entry.has_components:
        having = ", ".join(name for name, other in METHODS.usable().items() if other.has_components)
        raise ConfigError(
            f"{method.name} has no components, so it has no number of them",
            where="method.n_components",
            fix=f"unset it, or set method.name to one of {having}",
        )
    entry.check(method, rounds)


def settings_of(name: str, own: Mapping[str, Any], section: str) -> MethodSettings:
    """A method's settings from a table.

    Args:
        name: The method's.
        own: Its settings, but for its name.
        section: Where they stand, for errors.

    Returns:
        The settings.

    Raises:
        ConfigError: For a method that there is not, or a setting that is not its own.
    """
    if name not in METHODS:
        raise unknown("method", name, METHODS, section)
    where, kind = f"{section}.{name}", METHODS[name].settings
    if "name" in own:
        raise ConfigError("the section's own name says which method it is of", where=where, fix="leave name out")
    try:
        return kind.model_validate(dict(own) | {"name": name}, strict=True)
    except ValidationError as error:
        raise explain(error, kind, where, advice=lambda key: _advice(key, name)) from error


def seeds(words: Iterable[str], where: str) -> list[int]:
    """Seeds as numbers.

    Raises:
        ConfigError: For words that are none; `where` says where they stand.

    Examples:
        >>> seeds(["0", "7"], "--seeds")
        [0, 7]
    """
    numbers = []
    for word in words:
        if not (word.isascii() and word.isdigit()):  # "²" is a digit too, and no number
            raise ConfigError(f'"{word}" is no seed', where=where, fix="give whole numbers of at least 0: 0,1,2")
        numbers.append(int(word))
    return numbers
