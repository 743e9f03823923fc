"""The two files of a deployment: `federation.toml`, the same for all, and `site.toml`, each site's own."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationError

from fedgmi.data.missing import MARK
from fedgmi.data.ranges import agreed_scale
from fedgmi.data.rows import Schema
from fedgmi.deploy import private
from fedgmi.deploy.link import LinkSettings
from fedgmi.errors import ConfigError, LimitError
from fedgmi.methods import METHODS, Method
from fedgmi.methods.disclosing import disclosing
from fedgmi.protocol.codecs.coding import Coding, check_communication
from fedgmi.runs.config import DEFAULT_METHOD, AnyMethod, Config, check_method, explained, method_of
from fedgmi.runs.metrics import USUAL
from fedgmi.runs.private import Cost, cost_of, wrappers_of
from fedgmi.runs.setup import Setup
from fedgmi.settings import toml
from fedgmi.settings.base import Fraction, Limits, Name, PositiveFloat, PositiveInt, Rounds, Section, Seed
from fedgmi.settings.communication import CommunicationSettings
from fedgmi.settings.effects import changed
from fedgmi.settings.explain import explain
from fedgmi.settings.privacy import PrivacySettings
from fedgmi.settings.robust import RobustSettings
from fedgmi.settings.run import (
    ROUNDS,
    DataSettings,
    DensitySettings,
    EvaluationSettings,
    ExpertSettings,
    TaskName,
    TrainingSettings,
)

CHOSEN = {"communication.precision", "communication.top", "method.reference_rounds", "method.judge_turns"}
"""What a plan may choose; see `runs.budget`."""
LEAST_MASKED = 3
"""Sites of a masked sum. Of two each would know the other's numbers from the sum."""
SLOTS = 32
"""Masked sums that one agreement is for. A site has two kilobytes of public keys for it, and sends each other site
2.6 kilobytes of shares. The preset default asks 7 sums in a round of `deploy init`, so it agrees every fourth round."""
Item = TypeVar("Item")
Listed = Annotated[tuple[Item, ...], BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)]
"""A list of TOML, which has no tuples. What is in it is held to its type all the same."""


class RowSettings(Section):
    """What every site's rows look like.

    Attributes:
        kind: "tabular" or "image".
        features: A table's columns; `column=value` for a value of a text column.
        shape: [channels, height, width] of a picture.
        classes: The labels in order: texts, whole numbers, or false and true; empty without labels.
        ranges: [least, greatest] of some features.
        task: What labels are: classes, or for "regression" a number to predict. Then there are no classes.
        missing: What becomes of missing values: "refuse", "mean" or "indicator". By the last, `age=(missing)` and
            `sex=(missing)` stand among the features, for those columns that may lack values.
    """

    kind: Literal["image", "tabular"]
    features: Listed[Name] = ()
    shape: Listed[PositiveInt] = ()
    classes: Listed[Name | bool | int] = ()
    ranges: dict[Name, Limits] = Field(default_factory=dict)
    missing: Literal["refuse", "mean", "indicator"] = "refuse"
    task: TaskName = "classification"

    def as_schema(self) -> Schema:
        """The schema that methods know.

        Returns:
            It.

        Raises:
            ConfigError: Where the keys contradict each other.
        """
        for key, what, fix in self._contradictions():
            raise ConfigError(what, where=f"rows.{key}", fix=fix)
        shape = self.shape if self.kind == "image" else (len(self.features),)
        given = next(iter({type(name).__name__ for name in self.classes}), "")
        label_type = {"int": "int64"}.get(given, given)
        classes = tuple(map(str, self.classes))
        return Schema(shape, len(classes), self.kind, classes, self.features, label_type, self.missing, self.task)

    def _contradictions(self) -> Iterator[tuple[str, str, str]]:
        """What is wrong between the keys: which key, what, and the likely fix."""
        if self.kind == "image" and len(self.shape) != 3:
            yield "shape", f"pictures have {len(self.shape)} sides", "set it to [channels, height, width]"
        if self.kind == "tabular" and not self.features:
            yield "features", "the rows of a table have no features", "name the columns that all sites have"
        other = "features" if self.kind == "image" else "shape"
        if getattr(self, other):
            yield other, f'rows of kind "{self.kind}" have none', "leave it out, or change rows.kind"
        for key, names in (("features", self.features), ("classes", self.classes)):
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                yield key, f"{twice!r} is named twice", "name each once"
        if len({type(name) for name in self.classes}) > 1:
            yield "classes", "the labels are of several types", "give texts, or whole numbers, or [false, true]"
        if self.classes and self.task != "classification":
            yield "classes", f"rows.task is {self.task}, whose labels are no classes", "leave rows.classes out"
        if self.classes and isinstance(self.classes[0], bool) and self.classes != (False, True):
            yield "classes", "truth values are in another order", "write [false, true]"
        marked = [name for name in self.features if name.endswith(f"={MARK}")]
        if marked and self.missing != "indicator":
            yield "features", f"{marked[0]!r} marks missing values", 'set rows.missing = "indicator", or leave it out'
        if self.kind == "image" and self.missing != "refuse":
            yield "missing", "pictures have no missing values", "leave it out"
        for name, (least, greatest) in self.ranges.items():
            if name not in self.features:
                yield "ranges", f"{name!r} is no feature", "name one of rows.features"
            if not least <= greatest:
                yield "ranges", f"the range of {name!r} is [{least:g}, {greatest:g}]", "write [least, greatest]"


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
        if self.masked:
            self._check_masks()
        if self.training.patience is not None:
            raise ConfigError(
                "a deployment cannot end with its best round: sites would have to tell after every round how well they "
                "predict, and they tell it once, at the end",
                where="training.patience",
                fix="leave it out, and set rounds",
            )
        if self.training.stragglers:
            raise ConfigError(
                "stragglers are drawn in a simulation; a deployment's sites are slow by themselves",
                where="training.stragglers",
                fix="leave it out; a slow site says so itself, by part_of_steps in its site.toml",
            )
        if self.communication.lost:
            raise ConfigError(
                "replies are lost in a simulation; a deployment's sites fail by themselves",
                where="communication.lost",
                fix="leave it out",
            )
        if len(self.training.lr_candidates(self.method.name)) > 1:
            raise ConfigError(
                "a deployment trains once, at one learning rate", where="training.lr", fix="give one rate"
            )
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

    def _check_masks(self) -> None:
        """Refuse what masks leave nothing of."""
        least, asked = LEAST_MASKED, math.ceil(self.method.participation * self.sites - 1e-9)
        if self.robust.on:
            key = "max_norm" if self.robust.max_norm is not None else "aggregation"
            what, fix = "robust rules read every site's update by itself, and masks show none", "leave it out"
            raise ConfigError(what, where=f"robust.{key}", fix=f"{fix}, or communication.secure")
        for where, n in (("sites", self.sites), ("min_sites", self.min_sites), ("method.participation", asked)):
            if n is not None and n < least:
                what = f"masks are for {least} sites or more in every exchange, and this allows {n}"
                raise ConfigError(
                    what, where=where, fix=f"raise it to {least} sites, or leave communication.secure out"
                )

    def planned(self, chosen: object) -> FederationSettings:
        """The settings with what the coordinator's plan has chosen, within the budget that all have agreed on.

        Args:
            chosen: Values by the names of settings, as a request has them; None: nothing was chosen.

        Returns:
            The settings.

        Raises:
            ConfigError: Where there is no budget, for settings that no plan chooses, for those that federation.toml
                sets itself, and for values that cannot be.
        """
        if chosen is None or chosen == {}:
            return self
        if not isinstance(chosen, dict) or not chosen.keys() <= CHOSEN or not self.communication.limited:
            raise _wrong_plan("would change other settings than a budget's")
        table = self.model_dump()
        for key, value in chosen.items():
            section, _, inner = key.partition(".")
            self._check_choice(section, inner, value)
            table[section][inner] = value
        try:
            planned = FederationSettings.model_validate(table)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise _wrong_plan(f"has {where} = {first['input']!r:.40}: {first['msg']}") from error
        planned.setup()  # which checks those that depend on one another
        return planned

    def _check_choice(self, section: str, name: str, value: object) -> None:
        """Refuse a choice that no plan makes, or that federation.toml has made."""
        from fedgmi.runs.budget.ladder import RUNGS  # where there is no budget, sites do without

        own, said = getattr(self, section), f"{section}.{name}"
        if isinstance(value, bool) or name not in type(own).model_fields:
            raise _wrong_plan(f"has {said} = {value!r:.40}, which no plan chooses")
        if changed(own, [name]) and value != getattr(own, name):
            raise _wrong_plan(f"would change {said}, which federation.toml sets to {getattr(own, name)!r}")
        if section == "method" and (not isinstance(value, int) or value > getattr(own, name)):
            raise _wrong_plan(
                f"has {said} = {value!r:.40}, and federation.toml {getattr(own, name)}: a plan only lowers it"
            )
        if section == "communication" and value not in [getattr(rung, name) for rung in RUNGS]:
            raise _wrong_plan(f"has {said} = {value!r:.40}, which no plan chooses")

    def coding(self) -> Coding:
        """How models travel: the same at the coordinator and at all sites."""
        return self.setup().coding()

    def digest(self) -> str:
        """A hash of all that sites and coordinator must agree on. What is the coordinator's alone is left out."""
        agreed = self.model_dump_json(exclude={"min_sites", "max_rows", "wait_s", "robust", "warm_start"})
        return hashlib.blake2b(agreed.encode(), digest_size=16).hexdigest()


def _wrong_plan(what: str) -> ConfigError:
    """A plan that cannot be."""
    fix = "ask the coordinator; both sides need the same fedgmi and federation.toml"
    return ConfigError(f"the coordinator's plan {what}", where="federation.toml", fix=fix)


class SiteSettings(Section):
    """`site.toml`.

    Attributes:
        name: The site's. No other site has it.
        folder: Where its state, models and results are kept. Paths are relative to the file.
        data: Where its rows are.
        held_out: The fraction of rows that training never sees. They test the site's predictor.
        validation: The fraction of the other rows that training does not see either. They choose what the site has of
            its own, and choose with the other sites' rows what methods leave to rows for validation.
        device: Where it trains.
        threads: Of the CPU; None: as torch has them.
        mask_secret: A text that all sites have agreed on without the coordinator, of 16 letters or more. With masks it
            shows that keys are the sites' own, and none of the coordinator's making. It is never sent.
        only_masked: Whether the site answers nothing that shows its own numbers: sums have masks, and histograms noise.
        same_sites: Whether all masked sums of the site are over the same sites, in all runs. A site that fails then
            stops a run until it is back. See `deploy.site.sums`.
        part_of_steps: The part of its local steps that the site makes in a round, where it would be too slow for all of
            them: ⌈u·steps⌉ of each model's. Its models count by their rows all the same.
        max_runs: How many runs there may be over one version of the rows; None: any number. See `deploy.site.guard`.
        max_epsilon: What all noisy releases of the site's rows together may cost; None: no limit. See `privacy.ledger`.
        max_releases: How many there may be; None: any number.
        max_delta: The δ of all noisy releases together. With one above 0 their ε is less than the sum, where there are
            many (`privacy.accountant`); 0: ε add up, and what `[privacy]` adds, which needs a δ, is beyond a limit.
        max_request_mb: A request of more megabytes is refused unread.
        tell_metrics: Whether the coordinator is told how good the site's predictor is on rows held out: exact functions
            of these rows, which neither noise nor masks cover. None: where the federation has no `method.epsilon`.
        superlink: Where `fedgmi site serve` finds the coordinator, and by which key it is known there.
    """

    name: Annotated[Name, Field(min_length=1)]
    folder: str = "site"
    data: DataSettings
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.2
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: PositiveInt | None = None
    mask_secret: Annotated[str, Field(min_length=16)] | None = None
    only_masked: bool = False
    same_sites: bool = False
    part_of_steps: Fraction = 1.0
    max_runs: PositiveInt | None = 5
    max_epsilon: PositiveFloat | None = None
    max_releases: PositiveInt | None = None
    max_delta: Annotated[float, Field(ge=0, lt=1)] = 0.0
    max_request_mb: PositiveFloat = 1024.0
    tell_metrics: bool | None = None
    superlink: LinkSettings = LinkSettings()

    @property
    def most_delta(self) -> float | None:
        """δ of all noisy releases together at most; None: nothing is limited."""
        return None if self.max_epsilon is None and self.max_delta == 0 else self.max_delta


def check_limits(site: SiteSettings, federation: FederationSettings) -> None:
    """Refuse a federation that a site does not take part in, and a limit that would limit nothing.

    Args:
        site: site.toml.
        federation: federation.toml.

    Raises:
        LimitError: Where a site limits what noisy releases cost, and the federation adds no noise; where it insists on
            masks and noise, and the federation lacks them.
    """
    _check_masked(site, federation)
    limits = [name for name in ("max_epsilon", "max_releases") if getattr(site, name) is not None]
    noisy = federation.epsilon is not None or federation.privacy.on
    if limits and not noisy:
        raise LimitError(
            f"{limits[0]} limits releases with noise, and neither method.epsilon nor [privacy] is set: what leaves is "
            "exact",
            where=f"settings of site {site.name!r}",
            fix=f"ask the coordinator for one of them, or leave {limits[0]} out",
        )


def _check_masked(site: SiteSettings, federation: FederationSettings) -> None:
    where, method = f"settings of site {site.name!r}", federation.method
    insists = [name for name in ("only_masked", "same_sites") if getattr(site, name)]
    if insists and not federation.masked:
        raise LimitError(
            f"{insists[0]} is set, and federation.toml has no masks: the coordinator would see this site's own numbers",
            where=where,
            fix=f'ask the coordinator for communication.secure = "masks", or leave {insists[0]} out',
        )
    seen = METHODS[method.name].has_histogram(method) and federation.epsilon is None
    if site.only_masked and seen:
        raise LimitError(
            "only_masked is set, and method.epsilon is unset: the histogram of words is seen singly and would be exact",
            where=where,
            fix='ask the coordinator for method.epsilon or preset = "plain", or leave only_masked out',
        )


def tells_metrics(site: SiteSettings, federation: FederationSettings) -> bool:
    """Whether a site tells how good its predictor is on rows held out: never with `[privacy]` or `only_masked`."""
    if federation.privacy.on or site.only_masked:
        return False
    if site.tell_metrics is not None:
        return site.tell_metrics
    return federation.epsilon is None


AnySettings = TypeVar("AnySettings", FederationSettings, SiteSettings)
WRITTEN_BY = {
    FederationSettings: "the coordinator's comes from `fedgmi deploy init`; a site gets it from the coordinator, "
    "and puts it beside its site.toml",
    SiteSettings: "write it from site.toml.example, which the coordinator has from `fedgmi deploy init`",
}
"""Where the two files come from."""


def read(kind: type[AnySettings], path: Path) -> AnySettings:
    """Settings from TOML.

    Args:
        kind: Which of the two files it is.
        path: The file.

    Returns:
        The settings.

    Raises:
        ConfigError: For an unknown key, or a value that cannot be. A number in quotes is none.
    """
    if not path.exists():
        raise ConfigError("there is no such file", where=str(path), fix=WRITTEN_BY[kind])
    table = toml.unset_empty(toml.read_toml(path))
    if kind is FederationSettings:
        method_of(table)
    try:
        return kind.model_validate(table, strict=True)
    except ValidationError as error:
        if kind is FederationSettings:
            raise explained(error, kind, table, str(path)) from error
        raise explain(error, kind, str(path)) from error


@contextmanager
def named(path: Path) -> Iterator[None]:
    """What is wrong with settings that contradict each other is told with the name of their file.

    Args:
        path: The file.

    Raises:
        ConfigError: As it was raised, with the file in front of the setting.
    """
    try:
        yield
    except ConfigError as error:
        if str(path) in error.where:
            raise
        where = f"{path}: {error.where}" if error.where else str(path)
        raise ConfigError(error.what, where=where, fix=error.fix) from error


def read_rows(path: Path) -> RowSettings:
    """The section `[rows]` of a file that `fedgmi site describe` wrote, or of a federation.toml.

    Args:
        path: The file.

    Returns:
        The section.

    Raises:
        ConfigError: Where there is none, or it cannot be.
    """
    table = toml.read_toml(path).get("rows")
    if not isinstance(table, dict):
        fix = "give what `fedgmi site describe … --out rows.toml` wrote"
        raise ConfigError("there is no section [rows]", where=str(path), fix=fix)
    try:
        found = RowSettings.model_validate(table, strict=True)
    except ValidationError as error:
        raise explain(error, RowSettings, str(path)) from error
    found.as_schema()
    return found
