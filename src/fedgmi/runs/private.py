"""`[privacy]`: what a run's noise has to be, and what it has cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from fedgmi.data.ranges import agreed_scale
from fedgmi.data.rows import Schema
from fedgmi.data.standardise import Standardisation
from fedgmi.errors import ConfigError
from fedgmi.methods import BOUNDS, Method
from fedgmi.privacy.accountant import BOTH, GAUSSIAN, Spending, noise_multiplier
from fedgmi.protocol.private_sum import (
    NoiseOf,
    check_private,
    noise_of_seed,
    noisy_by_itself,
    private_rows,
    private_sum,
)
from fedgmi.protocol.step import Program, Step
from fedgmi.protocol.wrapper import Wrapper
from fedgmi.runs.config import Config
from fedgmi.settings.effects import refuse_without_effect
from fedgmi.settings.privacy import PrivacySettings

ROWS_METHODS = "fedavg", "fedgmi"
MOST_ROWS = 100_000
"""Of a client, with rows as the unit: its batch is all of its rows."""


def check_privacy(config: Config) -> None:
    """Refuse settings of a private run that contradict each other.

    Raises:
        ConfigError: It names the setting.
    """
    own = config.privacy
    given = [name for name in ("epsilon", "noise_multiplier") if getattr(own, name) is not None]
    if not own.on:
        if own != PrivacySettings():
            raise ConfigError(
                "privacy.clip is unset, so no update is bounded and there is no privacy",
                where="privacy",
                fix="set privacy.clip, to the length of a usual update, or leave the section out",
            )
        why = "[privacy] is off, and sums over rows make the scale"
        refuse_without_effect(config.data, "data", ["ranges"], why, fix="set privacy.clip")
        return
    if len(given) != 1:
        raise ConfigError(
            f"{' and '.join(given) or 'neither epsilon nor noise_multiplier'} {'are' if given else 'is'} given",
            where="privacy",
            fix="give one of epsilon and noise_multiplier",
        )
    if config.training.patience is not None or len(config.training.lr_candidates(config.method.name)) > 1:
        raise ConfigError(
            "validation rows would choose a round or a learning rate, and that is not accounted for",
            where="privacy",
            fix="unset training.patience, and give one training.lr",
        )

    if own.unit == "rows":
        _check_rows(config)


def _check_rows(config: Config) -> None:
    """Rows are the unit where a client's update is one step on all of its rows, and nothing else is sent."""
    training = config.training
    if config.method.name not in ROWS_METHODS:
        raise ConfigError(
            f"{config.method.name} has no bound on what a single row adds to all that is sent",
            where="privacy.unit",
            fix=f'set it to "clients", or method.name to one of {", ".join(ROWS_METHODS)}',
        )
    if config.method.n_components == "auto":
        raise ConfigError(
            "the survey before the run counts rows, and has no bound on what a single row adds",
            where="method.n_components",
            fix="give a number",
        )
    whole = training.optimizer == "sgd" and training.epochs == 1 and training.batch_size > MOST_ROWS
    if not whole or training.stragglers:
        raise ConfigError(
            "with rows as the unit a client takes one plain step on all of its rows",
            where="privacy.unit",
            fix=f'set training.optimizer = "sgd", training.epochs = 1 and training.batch_size = {MOST_ROWS + 1}, '
            "and leave training.stragglers out",
        )


def scale_of(config: Config, schema: Schema, wanted: bool) -> Standardisation | None:
    """The scale of a table in a private simulation: of ranges, for sums over rows have no bound.

    Args:
        config: The run's.
        schema: What rows look like.
        wanted: Whether rows are to be on one scale.

    Returns:
        The scale; None where rows are in their own units, or `[privacy]` is off.

    Raises:
        ConfigError: Where a scale is wanted and a column has no range, or ranges have no use.
    """
    if not config.privacy.on:
        return None
    if not wanted:
        why = "rows are in their own units here"
        refuse_without_effect(config.data, "data", ["ranges"], why)
        return None
    if schema.task != "classification" or schema.missing != "refuse":
        what = f"{schema.task} begins with sums of targets" if schema.missing == "refuse" else "means fill gaps"
        where = "data.task" if schema.missing == "refuse" else "data.missing"
        fix = "leave it out, or leave [privacy] out"
        raise ConfigError(f"{what}, and nothing bounds what a row adds to these", where=where, fix=fix)
    return agreed_scale(schema.features, config.data.ranges, "data.ranges")


def releases(program: Program, rounds: int) -> int:
    """In how many exchanges a client tells something that has noise of σ, at most."""

    def told(steps: Iterable[Step]) -> int:
        return sum(bool(step.tells) and not noisy_by_itself(step) for step in steps)

    return told((*program.prepare, *program.finish)) + rounds * told(program.round)


def counts_of(config: Config, program: Program) -> tuple[float, ...]:
    """ε of each count that a row in another's place changes, of the histogram of words: it changes two."""
    counted = any(noisy_by_itself(step) for step in program.all_steps)
    epsilon = getattr(config.method, "epsilon", None)
    return (epsilon, epsilon) if counted and epsilon is not None else ()


def multiplier_of(config: Config, program: Program) -> float:
    """σ: as it is given, or as ε asks for."""
    own = config.privacy
    if own.noise_multiplier is not None:
        return own.noise_multiplier
    assert own.epsilon is not None
    counts = counts_of(config, program)
    spent_on_counts = Spending(pure=counts).epsilon(own.delta)
    if spent_on_counts >= own.epsilon:
        raise ConfigError(
            f"a row in another's place changes two counts of words, which costs {spent_on_counts:.3g}, and that is not "
            f"less than privacy.epsilon = {own.epsilon:g}",
            where="method.epsilon",
            fix=f"set it to a fifth of privacy.epsilon, {own.epsilon / 5:g}",
        )
    return noise_multiplier(own.epsilon, own.delta, releases(program, config.rounds), counts)


def wrappers_of(config: Config, method: Method, noise_of: NoiseOf = noise_of_seed) -> tuple[Wrapper, ...]:
    """What `[privacy]` does to a method's messages.

    Args:
        config: The run's.
        method: What is run.
        noise_of: Where noise comes from.

    Returns:
        The wrapper; nothing where `[privacy]` is off, or nothing is sent.

    Raises:
        ConfigError: For a method that tells more than models; it names the step.
    """
    own = config.privacy
    if own.clip is None or not releases(method.program, config.rounds):
        return ()
    check_private(method.name, method.program, own.unit.removesuffix("s"))
    sigma = multiplier_of(config, method.program)
    if own.unit == "rows":
        rate = config.training.lr_candidates(method.name)[0]
        return (private_rows(rate, own.clip, sigma, config.training.batch_size, noise_of),)
    return (private_sum(own.clip, sigma, noise_of),)


def check_bounded(config: Config, method: Method) -> None:
    """Refuse a method of a run, or one beside it, that `[privacy]` cannot bound.

    Raises:
        ConfigError: It names the step; of the oracle, the setting by which it runs.
    """
    if config.privacy.on and method.name in BOUNDS and releases(method.program, config.rounds):
        what = f"the bound {method.name} tells more than models, and [privacy] cannot bound that"
        raise ConfigError(what, where=f"evaluation.{method.name}", fix="set it to false")
    wrappers_of(config, method)


@dataclass(frozen=True)
class Cost:
    """What a whole run costs.

    Attributes:
        unit: Whose presence is hidden.
        epsilon: ε of all that is sent.
        delta: δ.
        noise_multiplier: σ, of each release.
        clip: The bound.
        releases: How many there are.
        counts: ε of each count that one row changes, of a histogram that has noise of its own.
    """

    unit: str
    epsilon: float
    delta: float
    noise_multiplier: float
    clip: float
    releases: int
    counts: tuple[float, ...] = ()

    def about(self, times: int | None = None) -> dict[str, float | str]:
        """For a ledger: the mechanism that so many Gaussian releases are together; by default all, with the counts."""
        sigma = self.noise_multiplier / (self.releases if times is None else times) ** 0.5
        found = {"mechanism": GAUSSIAN, "noise_multiplier": sigma, "unit": self.unit, "clip": self.clip}
        if times is not None or not self.counts:
            return found
        return found | {"mechanism": BOTH, "count_epsilon": max(self.counts), "counts": float(len(self.counts))}

    @property
    def epsilon_of_one(self) -> float:
        """ε of a single release, at the same δ."""
        return Spending().gaussian(self.noise_multiplier).epsilon(self.delta)


def cost_of(config: Config, program: Program) -> Cost | None:
    """What a run costs; None where `[privacy]` is off."""
    own = config.privacy
    if own.clip is None:
        return None
    times = releases(program, config.rounds)
    sigma = multiplier_of(config, program) if times else 0.0
    counts = counts_of(config, program)
    cost = Spending(pure=counts).gaussian(sigma, times).epsilon(own.delta) if times else 0.0
    return Cost(own.unit, cost, own.delta, sigma, own.clip, times, counts)


def spent(config: Config, method: Method) -> dict[str, Any] | None:
    """What a run has cost, for its summary; None where `[privacy]` is off."""
    found = cost_of(config, method.program)
    return None if found is None else asdict(found) | {"counts": list(found.counts)}
