"""Rounds of one model for all, after which clients are clustered once: FL+HC and FLUX have them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from fedgmi.errors import ConfigError
from fedgmi.methods.shared_trunk import TrunkSettings
from fedgmi.settings.base import PositiveInt


class JointSettings(TrunkSettings):
    """What methods that cluster once, after rounds for all, have in common.

    Attributes:
        joint_rounds: n, the rounds of FedAvg before the clustering. Unset: the method's usual number, and no more than
            half of the run's.
    """

    joint_rounds: PositiveInt | None = None


J = TypeVar("J", bound=JointSettings)


def settle_joint_rounds(usual: int) -> Callable[[J, int], J]:
    """What fills in n for a run of so many rounds.

    Args:
        usual: n of a long run.

    Returns:
        (settings, rounds) → settings with n.

    Examples:
        >>> [settle_joint_rounds(5)(JointSettings(name="any"), rounds).joint_rounds for rounds in (1, 5, 30)]
        [1, 2, 5]
    """

    def settle(settings: J, rounds: int) -> J:
        return settings.model_copy(update={"joint_rounds": settings.joint_rounds or max(1, min(usual, rounds // 2))})

    return settle


def check_joint_rounds(settings: JointSettings, rounds: int) -> None:
    """Refuse a clustering that comes after the last round.

    Raises:
        ConfigError: It names the setting.
    """
    if settings.joint_rounds is not None and settings.joint_rounds >= rounds:
        raise ConfigError(
            f"clients are clustered after that many rounds, and there are {rounds} in all",
            where="method.joint_rounds",
            fix="lower it, or raise rounds",
        )
