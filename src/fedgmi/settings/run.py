"""Validated settings, read from TOML. An unknown key is an error that names the nearest known one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from fedgmi.errors import ConfigError
from fedgmi.settings import toml as settings_io
from fedgmi.settings.base import Fraction, PositiveFloat, PositiveInt, Section
from fedgmi.settings.baselines import (
    CflSettings,
    DittoSettings,
    FedProxSettings,
    FedSoftSettings,
    FlhcSettings,
    IfcaSettings,
)

DEFAULT = Path(__file__).parent / "default.toml"

LearningRate = PositiveFloat | Annotated[list[PositiveFloat], Field(min_length=1)]


class DataSettings(Section):
    """Where rows come from. `path`: "digits" (scikit-learn's), a local folder, or a hub id.

    standardise: numbers to mean 0 and deviation 1 by federated sums; "auto" does so for tables that come from a data
    set, not for pictures, and not for rows that a scenario draws itself.
    """

    path: str = "digits"
    train_split: str = "train"
    test_split: str | None = "test"
    image_column: str | None = None
    label_column: str | None = None
    feature_columns: list[str] | None = None
    invert: bool = False
    crop: Annotated[int, Field(ge=0)] = 0
    size: PositiveInt | None = None
    max_rows: PositiveInt | None = None
    standardise: bool | Literal["auto"] = "auto"


class ScenarioSettings(Section):
    """Who holds which rows."""

    name: str = "rotation"
    n_clients: PositiveInt = 20
    rows_per_client: PositiveInt = 70
    alpha: PositiveFloat = 0.5
    n_components: PositiveInt = 3
    labels_per_component: PositiveInt | None = None
    size_ratio: Annotated[float, Field(ge=1)] = 1.0
    held_out_rows: PositiveInt | None = None
    client_column: str | None = None
    n_features: PositiveInt = 8
    separation: PositiveFloat = 3.0


class DensitySettings(Section):
    """The model of one component's p(x). likelihood "auto": Bernoulli for images, Gaussian for tables."""

    name: str = "vae"
    architecture: Literal["mlp", "conv"] = "mlp"
    likelihood: Literal["auto", "bernoulli", "gaussian"] = "auto"
    hidden: PositiveInt = 256
    latent: PositiveInt = 16


class ExpertSettings(Section):
    """The model of one component's p(y | x).

    shared: whether fedgmi's experts have all layers but the last in common ("trunk") or are models apart ("none").
    """

    name: str = "mlp"
    hidden: PositiveInt = 200
    shared: Literal["trunk", "none"] = "trunk"


class TrainingSettings(Section):
    """Local training, the same for all methods.

    lr: one rate, or a list to choose from on validation rows, or a table of either by method's name with
    "default" for the others.
    """

    epochs: PositiveInt = 5
    batch_size: PositiveInt = 50
    lr: LearningRate | dict[str, LearningRate] = 1e-3
    max_steps: PositiveInt | None = None

    def lr_candidates(self, method: str) -> list[float]:
        """The learning rates to try for a method."""
        chosen = self.lr.get(method, self.lr.get("default", 1e-3)) if isinstance(self.lr, dict) else self.lr
        return list(chosen) if isinstance(chosen, list) else [chosen]


class MethodSettings(Section):
    """Which method, and what it may do.

    epsilon: each client's histogram of words goes out with noise under which any one row is ε-differentially private;
    nothing else that leaves a client is (docs/privacy.md). None: no noise.
    """

    name: str = "fedgmi"
    preset: Literal["default", "plain", "sketch"] = "default"
    n_components: PositiveInt | Literal["auto"] | None = None  # None: the scenario's; "auto": estimated
    participation: Fraction = 1.0
    codewords: PositiveInt = 20
    projection: PositiveInt = 32
    kmeans_rounds: PositiveInt = 10
    calibration_steps: PositiveInt = 8
    warm_up_rounds: PositiveInt = 5
    judge_rounds: PositiveInt = 15
    elbo_samples: PositiveInt = 1
    epsilon: Annotated[float, Field(ge=1e-6, allow_inf_nan=False)] | None = None
    fedprox: FedProxSettings = FedProxSettings()
    ditto: DittoSettings = DittoSettings()
    ifca: IfcaSettings = IfcaSettings()
    fedsoft: FedSoftSettings = FedSoftSettings()
    cfl: CflSettings = CflSettings()
    flhc: FlhcSettings = FlhcSettings()

    @property
    def has_histogram(self) -> bool:
        """Whether clients send a histogram of words."""
        return self.name == "fedgmi" and self.preset != "plain"


class EvaluationSettings(Section):
    """Which bounds and rivals are run beside the method."""

    fedavg: bool = True
    local: bool = True
    oracle: bool = True
    unseen_clients: Annotated[float, Field(ge=0, lt=1)] = 0.0  # the fraction that takes no part in training


class Config(Section):
    """A whole run."""

    seed: Annotated[int, Field(ge=0)] = 0
    rounds: PositiveInt = 10
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: PositiveInt | None = None
    data: DataSettings = DataSettings()
    scenario: ScenarioSettings = ScenarioSettings()
    method: MethodSettings = MethodSettings()
    density: DensitySettings = DensitySettings()
    expert: ExpertSettings = ExpertSettings()
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()

    def digest(self) -> str:
        """A hash of everything that decides a run's numbers: equal settings, however they were written, agree."""
        return hashlib.blake2b(dump(self).encode(), digest_size=16).hexdigest()


def load(path: Path | None, overrides: Iterable[str] = ()) -> Config:
    """The configuration from a TOML file (None: the bundled default) with `section.key=value` overrides.

    Values in overrides are TOML, or plain text where they are none; later ones win. An empty text unsets an
    optional key.
    """
    source = path if path is not None else DEFAULT
    table = settings_io.read_toml(source)
    settings_io.override(table, overrides)
    config = from_table(settings_io.unset_empty(table), str(path) if path else "settings")
    check(config)
    return config


def from_table(table: settings_io.Table, source: str) -> Config:
    """The configuration from nested tables, what they leave out at its default; `source` is named in errors."""
    try:
        return Config.model_validate(table, strict=True)
    except ValidationError as error:
        raise settings_io.explain(error, Config, source) from error


def loads(text: str, source: str) -> Config:
    """The configuration from TOML text, such as `dump` writes; `source` is named in errors."""
    return from_table(settings_io.unset_empty(settings_io.parse_toml(text, source)), source)


def dump(config: Config) -> str:
    """TOML text of all settings, which `load` reads back to an equal Config."""
    return settings_io.to_toml(config)


def check(config: Config) -> None:
    """Contradictions between settings that are each fine alone."""
    n_clients = config.scenario.n_clients
    for where, n_components in (
        ("scenario.n_components", config.scenario.n_components),
        ("method.n_components", config.method.n_components),
    ):
        if isinstance(n_components, int) and n_components > n_clients:
            raise ConfigError(
                f"{n_components} components cannot be told apart from {n_clients} client{'s' * (n_clients != 1)}",
                where=where,
                fix=f"set it to {n_clients} or less, or scenario.n_clients to {n_components} or more",
            )
    if config.method.epsilon is not None and not config.method.has_histogram:
        asked = "the preset plain" if config.method.name == "fedgmi" else f"the method {config.method.name}"
        raise ConfigError(
            f"{asked} sends no histogram that noise could be added to, and nothing else that it sends is protected",
            where="method.epsilon",
            fix='unset it, or set method.name = "fedgmi" with the preset default or sketch',
        )
    if config.method.name == "flhc" and config.method.flhc.joint_rounds >= config.rounds:
        raise ConfigError(
            f"clients are clustered after that many rounds, and there are {config.rounds} in all",
            where="method.flhc.joint_rounds",
            fix="lower it, or raise rounds",
        )


def seeds(words: Iterable[str], where: str) -> list[int]:
    """Seeds as numbers; raises ConfigError for words that are none.

    >>> seeds(["0", "7"], "--seeds")
    [0, 7]
    """
    numbers = []
    for word in words:
        if not word.isdigit():
            raise ConfigError(f'"{word}" is no seed', where=where, fix="give whole numbers of at least 0: 0,1,2")
        numbers.append(int(word))
    return numbers
