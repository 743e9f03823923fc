"""`[privacy]`: what a run's noise has to be, and what it has cost."""

from __future__ import annotations

from typing import Any

from fedgmi.errors import ConfigError
from fedgmi.methods import Method
from fedgmi.privacy.accountant import Spending, noise_multiplier
from fedgmi.protocol.private_sum import private_rows, private_sum
from fedgmi.protocol.step import Program
from fedgmi.protocol.wrapper import Wrapper
from fedgmi.runs.config import Config
from fedgmi.settings.privacy import PrivacySettings

ROWS_METHOD = "fedavg"
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
    if config.method.name != ROWS_METHOD:
        raise ConfigError(
            f"{config.method.name} has no bound on what a single row adds to all that is sent",
            where="privacy.unit",
            fix=f'set it to "clients", or method.name = "{ROWS_METHOD}"',
        )
    whole = training.optimizer == "sgd" and training.epochs == 1 and training.batch_size > MOST_ROWS
    if not whole or training.stragglers:
        raise ConfigError(
            "with rows as the unit a client takes one plain step on all of its rows",
            where="privacy.unit",
            fix=f'set training.optimizer = "sgd", training.epochs = 1 and training.batch_size = {MOST_ROWS + 1}, '
            "and leave training.stragglers out",
        )


def releases(program: Program, rounds: int) -> int:
    """In how many exchanges a client tells something, at most."""
    once, each = (*program.prepare, *program.finish), program.round
    return sum(bool(step.tells) for step in once) + rounds * sum(bool(step.tells) for step in each)


def multiplier_of(config: Config, program: Program) -> float:
    """σ: as it is given, or as ε asks for."""
    own = config.privacy
    if own.noise_multiplier is not None:
        return own.noise_multiplier
    assert own.epsilon is not None
    return noise_multiplier(own.epsilon, own.delta, releases(program, config.rounds))


def wrappers_of(config: Config, method: Method) -> tuple[Wrapper, ...]:
    """What `[privacy]` does to a method's messages; nothing where it is off, or nothing is sent."""
    own = config.privacy
    if own.clip is None or not releases(method.program, config.rounds):
        return ()
    sigma = multiplier_of(config, method.program)
    if own.unit == "rows":
        rate = config.training.lr_candidates(method.name)[0]
        return (private_rows(rate, own.clip, sigma, config.training.batch_size),)
    return (private_sum(own.clip, sigma),)


def spent(config: Config, method: Method) -> dict[str, Any] | None:
    """What a run has cost, for its summary; None where `[privacy]` is off."""
    own = config.privacy
    if own.clip is None:
        return None
    times = releases(method.program, config.rounds)
    sigma = multiplier_of(config, method.program) if times else 0.0
    cost = Spending().gaussian(sigma, times).epsilon(own.delta) if times else 0.0
    return {
        "unit": own.unit,
        "epsilon": cost,
        "delta": own.delta,
        "noise_multiplier": sigma,
        "clip": own.clip,
        "releases": times,
    }
