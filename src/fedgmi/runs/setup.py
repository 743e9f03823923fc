"""One opening for run, fit, diagnose and deployments: from settings and a schema to tasks and methods.

It stays light: a deployed site imports it for every message.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch

from fedgmi.data.rows import Schema
from fedgmi.data.standardise import Standardisation
from fedgmi.errors import ConfigError, FedgmiWarning
from fedgmi.methods import BOUNDS, METHODS, Entry, Method, Task
from fedgmi.methods.contract import Charge, joins_as_newcomer
from fedgmi.methods.standardising import prepared
from fedgmi.models.densities import make_density
from fedgmi.models.experts import make_expert
from fedgmi.models.memory import require_memory
from fedgmi.models.own import Own
from fedgmi.protocol.codecs.coding import Coding, check_fractions
from fedgmi.protocol.losses import Losses
from fedgmi.protocol.secure_sum import check_maskable
from fedgmi.runs.config import Config
from fedgmi.settings.effects import refuse_without_effect

SMALL = 100_000
"""Parameters. Models below it are trained by one thread. The digits' have 46,000, MNIST's 415,000."""


@dataclass(frozen=True)
class Setup:
    """What tasks and methods are made from.

    Attributes:
        config: The settings.
        schema: What rows look like.
        n_components: K.
        standardise: Whether rows are brought to one scale, as a step of every method.
        scale: One that was agreed on beforehand; None: there is none.
        expert: The user's own, in place of the one that the settings name: a module, or a function that makes one.
        density: Likewise.
    """

    config: Config
    schema: Schema
    n_components: int
    standardise: bool = False
    expert: Own = None
    density: Own = None
    scale: Standardisation | None = None

    def task(
        self,
        name: str | None = None,
        *,
        lr: float | None = None,
        secret: str | None = None,
        part: float = 1.0,
        charge: Charge | None = None,
    ) -> Task[Any]:
        """The task of a method.

        Args:
            name: The method's; None: that of the settings. One that the settings are not of has its settings' defaults,
                and the common ones of theirs.
            lr: The learning rate; None: the first of those to choose from.
            secret: A site's own; see `Task`.
            part: A site's own; see `Task`.
            charge: A site's own; see `Task`.

        Returns:
            The task.

        Raises:
            ConfigError: Settings of models have no effect, or this machine could not hold one of the models in
                training.
        """
        self.check()
        config = self.config
        name = name or config.method.name
        density = make_density(config.density, self.schema, self.density)
        if not density.noise_size:
            why = f"the density {density.name} is no bound"
            refuse_without_effect(config.method, "method", ["elbo_samples"], why)
        expert = make_expert(config.expert, self.schema, self.expert)
        for model, size in ((f"density {density.name}", density.size), (f"expert {expert.name}", expert.size)):
            require_memory(model, size)
        return Task(
            schema=self.schema,
            n_components=self.n_components,
            density=density,
            expert=expert,
            training=config.training,
            settings=settings_for(config, name),
            lr=lr or config.training.lr_candidates(name)[0],
            seed=config.seed,
            secret=secret,
            part=part,
            charge=charge,
            clip_rows=config.privacy.clip if config.privacy.unit == "rows" else None,
            private=config.privacy.on,
        )

    def coding(self) -> Coding:
        """How models travel."""
        settings = self.config.communication
        return Coding(settings, self.config.seed, self._layers() if settings.layers < 1 else {})

    def _layers(self) -> dict[int, tuple[int, ...]]:
        """The lengths of layers, by that of a flat model: of densities, experts, their trunks and their heads."""
        task = self.task()
        found = {task.density.size: task.density.layers or (task.density.size,)}
        expert = task.expert
        layers = expert.layers or (expert.size,)
        lower = next((n for n in range(len(layers)) if sum(layers[: n + 1]) > expert.trunk), len(layers))
        trunk, head = layers[:lower], layers[lower:]
        if sum(trunk) == expert.trunk:
            found |= {expert.trunk: trunk, sum(head): head}
        return found | {expert.size: layers}

    def threads(self) -> int:
        """Of the CPU: those of the settings; else one where the models are small, and otherwise as many as torch takes.

        Two threads bring small models nothing on a quiet machine, and on a crowded one they wait for each other
        (benchmarks/README.md). The rule goes by size alone, so that the same settings give the same bits.
        """
        if self.config.threads is not None:
            return self.config.threads
        task = self.task()
        return 1 if max(task.density.size, task.expert.size) < SMALL else torch.get_num_threads()

    def check(self) -> None:
        """Refuse settings of models that are not made: there are no labels, or models of the user's own instead.

        Raises:
            ConfigError: It names the setting.
        """
        expert, density, labels = self.config.expert, self.config.density, self.schema.labelled
        if not labels and self.expert is not None:
            raise ConfigError("rows without labels have no expert", where="expert", fix="leave it out, or give labels")
        if not labels:
            refuse_without_effect(expert, "expert", type(expert).model_fields, "there are no labels")
        if self.expert is not None:
            refuse_without_effect(expert, "expert", ("name", "hidden"), "the expert is one of your own")
        if self.density is not None:
            refuse_without_effect(density, "density", type(density).model_fields, "the density is one of your own")

    def say_remarks(self) -> None:
        """Warn of what there is to know of the models: once a run, for tasks are made several times in it.

        Raises:
            ConfigError: For a fraction by which nothing of them would travel.
        """
        task = self.task()
        check_fractions(self.config.communication, self._layers(), self.config.rounds)
        for remark in (*task.density.remarks, *task.expert.remarks):
            warnings.warn(FedgmiWarning(remark), stacklevel=2)

    def method(
        self,
        name: str | None = None,
        *,
        lr: float | None = None,
        secret: str | None = None,
        part: float = 1.0,
        charge: Charge | None = None,
    ) -> Method:
        """The method, on standardised and complete rows where they are to be; arguments as those of `task`."""
        built = entry_of(name or self.config.method.name)(
            self.task(name, lr=lr, secret=secret, part=part, charge=charge)
        )
        method = prepared(built, self.schema, standardise=self.standardise, agreed=self.scale)
        if self.config.communication.secure:
            check_maskable(method.program, method.name)
        return method


def entry_of(name: str) -> Entry[Any]:
    """The table's entry of a method or a bound."""
    return METHODS[name] if name in METHODS else BOUNDS[name]


def settings_for(config: Config, name: str) -> Any:
    """A method's own settings: those of the configuration where it is of this method, else their defaults."""
    kind = entry_of(name).settings
    settings = config.method
    if not isinstance(settings, kind):
        settings = kind(name=kind.model_fields["name"].default, participation=settings.participation)
    return entry_of(name).settle(settings, config.rounds)


def losses_of(config: Config, method: Method | None = None) -> Losses | None:
    """Whose replies a simulation loses.

    Args:
        config: Its `communication.lost`, its seed, and its number of rounds.
        method: By which clients that missed the preparation begin; None where nobody joins late.

    Returns:
        The losses; None: nobody's.
    """
    share = config.communication.lost
    if not share:
        return None
    if method is None or not joins_as_newcomer(method, round=1):
        return Losses(share, config.seed, config.rounds)
    return Losses(share, config.seed, config.rounds, method.predictor.infer_client, method.predictor.reads)


def open_process(threads: int | None = None) -> None:
    """What a program of ours sets at its start, for good, before torch starts its threads: they take it over.

    In a process that is the user's, `fedgmi.modes.own_modes` sets it for as long as a block runs.

    Args:
        threads: Of the CPU; None: as they are.
    """
    torch.set_flush_denormal(True)  # on many CPUs denormal numbers are ten times slower
    if threads is not None:
        torch.set_num_threads(threads)


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" takes the GPU where there is one.

    Raises:
        ConfigError: For "cuda" where there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("no CUDA device is available here", where="device", fix='set device = "auto" or "cpu"')
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
