"""`federation.toml`: what all sites and the coordinator agree on."""

from __future__ import annotations

import hashlib

from fedgmi.data.ranges import agreed_scale
from fedgmi.deploy import private
from fedgmi.deploy.settings import refusals
from fedgmi.deploy.settings.rows import RowSettings
from fedgmi.errors import ConfigError
from fedgmi.methods import METHODS, Method
from fedgmi.methods.disclosing import disclosing
from fedgmi.protocol.codecs.coding import Coding, check_communication
from fedgmi.runs.config import DEFAULT_METHOD, AnyMethod, Config, check_method
from fedgmi.runs.metrics import USUAL
from fedgmi.runs.private import Cost, cost_of, wrappers_of
from fedgmi.runs.setup import Setup
from fedgmi.settings.base import Name, PositiveFloat, PositiveInt, Rounds, Section, Seed
from fedgmi.settings.communication import CommunicationSettings
from fedgmi.settings.privacy import PrivacySettings
from fedgmi.settings.robust import RobustSettings
from fedgmi.settings.run import (
    ROUNDS,
    DataSettings,
    DensitySettings,
    EvaluationSettings,
    ExpertSettings,
    TrainingSettings,
)


class FederationSettings(Section):
    """`federation.toml`.

    Attributes:
        name: The federation's.
        sites: How many there are at most.
        min_sites: How many have to be there before the first round; None: all.
        max_rows: The most that a site may say it trains on, for its rows are its weight; None: any number.
        wait_s: How long they are waited for, in seconds.
        deadline_s: A site that has not answered after it is absent this round, in seconds.
        warm_start: The results folder of an earlier run, whose model this one begins with in place of a preparation.
            Relative to where the SuperLink runs, as `out` is. It is the coordinator's alone.
        seed: Of all draws.
        rounds: R.
        rows: What rows look like.
        method: What is run, with its own settings.
        density: The model of p(x).
        expert: The model of p(y | x).
        training: How local training goes.
        robust: How the coordinator guards itself against a site that lies.
        communication: How models travel.
        privacy: Differential privacy of the whole run; see docs/privacy.md.
    """

    name: Name
    sites: PositiveInt
    min_sites: PositiveInt | None = None
    max_rows: PositiveInt | None = None
    wait_s: PositiveFloat = 600.0
    deadline_s: PositiveFloat = 600.0
    warm_start: str | None = None
    seed: Seed = 0
    rounds: Rounds = ROUNDS
    rows: RowSettings
    method: AnyMethod = METHODS[DEFAULT_METHOD].settings(name=DEFAULT_METHOD)
    density: DensitySettings = DensitySettings()
    expert: ExpertSettings = ExpertSettings()
    training: TrainingSettings = TrainingSettings()
    robust: RobustSettings = RobustSettings()
    communication: CommunicationSettings = CommunicationSettings()
    privacy: PrivacySettings = PrivacySettings()

    def config(self) -> Config:
        """The run's settings, as `fedgmi run` has them; `fedgmi.runs.config.dump` writes them."""
        return Config(
            seed=self.seed,
            rounds=self.rounds,
            method=self.method,
            density=self.density,
            expert=self.expert,
            training=self.training,
            communication=self.communication,
            privacy=self.privacy,
            data=DataSettings(task=self.rows.task),
            evaluation=EvaluationSettings(fedavg=False, local=False, oracle=False, metric=USUAL[self.rows.task]),
        )

    def setup(self) -> Setup:
        """What the methods of coordinator and sites are made from.

        Raises:
            ConfigError: For a number of components that is not told, or settings that contradict each other.
        """
        entry = METHODS[self.method.name]
        check_method(self.method, self.rounds)
        check_communication(self.communication)
        if self.min_sites is not None and self.min_sites > self.sites:
            what = f"{self.min_sites} sites have to be there, and there are {self.sites} at most"
            raise ConfigError(what, where="min_sites", fix=f"set it to {self.sites} or less, or leave it out")
        if self.masked:
            refusals.check_masks(self.robust, self.sites, self.min_sites, self.method.participation)
        refusals.check_simulated(self.training, self.communication, self.method.name)
        if entry.has_components and not isinstance(self.method.n_components, int):
            raise ConfigError(
                "a deployment is told how many components there are",
                where="method.n_components",
                fix="set a whole number",
            )
        n_components = self.method.n_components if isinstance(self.method.n_components, int) else 1
        self.check_private()
        return self.setup_of(n_components)

    def check_private(self) -> None:
        """Refuse what does not go with `[privacy]`; see `private.check_federation`."""
        private.check_federation(self.config(), self.robust, self.rows.missing)
        if self.privacy.on and self.rows.kind == "tabular":
            agreed_scale(self.rows.features, self.rows.ranges)

    def setup_of(self, n_components: int) -> Setup:
        """What methods with so many components are made from; settings are not checked."""
        table, on = self.rows.kind == "tabular", self.privacy.on
        scale = agreed_scale(self.rows.features, self.rows.ranges) if table and on else None
        return Setup(self.config(), self.rows.as_schema(), n_components, standardise=table and not on, scale=scale)

    @property
    def masked(self) -> bool:
        """Whether sums are masked, so that the coordinator sees no site's addend."""
        return self.communication.secure == "masks"

    @property
    def noisy(self) -> bool:
        """Whether noise is to hide sites' rows: `method.epsilon`, or `[privacy]`."""
        return self.epsilon is not None or self.privacy.on

    @property
    def epsilon(self) -> float | None:
        """Of the noise on a site's histogram; None: there is no noise, or the method has no such setting."""
        found: float | None = self.method.model_dump().get("epsilon")
        return found

    def running(self, method: Method) -> Method:
        """The method as coordinator and sites run it: each site tells its proportions at the end, but with masks or
        `[privacy]`.

        Raises:
            ConfigError: For a method that tells more than `[privacy]` can bound.
        """
        if self.privacy.on:
            wrappers_of(self.config(), method)  # it refuses what cannot be bounded
            return private.said(method, self.privacy)
        return method if self.masked else disclosing(method)

    def cost(self, method: Method) -> Cost | None:
        """What a run costs each site; None without `[privacy]`."""
        return cost_of(self.config(), method.program)

    def coding(self) -> Coding:
        """How models travel: the same at the coordinator and at all sites."""
        return self.setup().coding()

    def digest(self) -> str:
        """A hash of all that sites and coordinator must agree on. What is the coordinator's alone is left out."""
        agreed = self.model_dump_json(exclude={"min_sites", "max_rows", "wait_s", "robust", "warm_start"})
        return hashlib.blake2b(agreed.encode(), digest_size=16).hexdigest()
