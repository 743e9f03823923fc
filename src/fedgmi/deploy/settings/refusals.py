"""Settings of a run that a deployment refuses: what a simulation alone has, and what masks leave nothing of."""

from __future__ import annotations

import math

from fedgmi.errors import ConfigError, made_up
from fedgmi.settings.communication import CommunicationSettings
from fedgmi.settings.robust import RobustSettings
from fedgmi.settings.run import TrainingSettings

LEAST_MASKED = 3
"""Sites of a masked sum. Of two each would know the other's numbers from the sum."""
SLOTS = 32
"""Masked sums that one agreement is for. A site has two kilobytes of public keys for it, and sends each other site
2.6 kilobytes of shares. The preset default asks 7 sums in a round of `deploy init`, so it agrees every fourth round."""


def check_simulated(training: TrainingSettings, communication: CommunicationSettings, method: str) -> None:
    """Refuse what a simulation alone can do, or draws by itself.

    Args:
        training: How local training goes.
        communication: How models travel.
        method: The name of the method.

    Raises:
        ConfigError: It names the setting.
    """
    if training.patience is not None:
        raise ConfigError(
            "a deployment cannot end with its best round: sites would have to tell after every round how well they "
            "predict, and they tell it once, at the end",
            where="training.patience",
            fix="leave it out, and set rounds",
        )
    if training.stragglers:
        raise ConfigError(
            "stragglers are drawn in a simulation; a deployment's sites are slow by themselves",
            where="training.stragglers",
            fix="leave it out; a slow site says so itself, by part_of_steps in its site.toml",
        )
    if communication.lost:
        raise ConfigError(
            "replies are lost in a simulation; a deployment's sites fail by themselves",
            where="communication.lost",
            fix="leave it out",
        )
    if len(training.lr_candidates(method)) > 1:
        raise ConfigError("a deployment trains once, at one learning rate", where="training.lr", fix="give one rate")


def check_masks(robust: RobustSettings, sites: int, min_sites: int | None, participation: float) -> None:
    """Refuse what masks leave nothing of.

    Args:
        robust: How the coordinator guards it
        sites: How many there are at most.
        min_sites: How many have to be there before the first round; None: all.
        participation: The share of them that a round asks.

    Raises:
        ConfigError: It names the setting.
    """
    least, asked = LEAST_MASKED, math.ceil(participation * sites - 1e-9)
    if robust.on:
        key = "max_norm" if robust.max_norm is not None else "aggregation"
        what, fix = "robust rules read every site's update by itself, and masks show none", "leave it out"
        raise ConfigError(what, where=f"robust.{key}", fix=f"{fix}, or communication.secure")
    for where, n in (("sites", sites), ("min_sites", min_sites), ("method.participation", asked)):
        if n is not None and n < least:
            what = f"masks are for {least} sites or more in every exchange, and this allows {n}"
            raise ConfigError(what, where=where, fix=f"raise it to {least} sites, or leave communication.secure out")


def too_many(n_components: int, sites: int) -> str:
    """What is to be known of a deployment that has more components than sites: it is not refused.

    Args:
        n_components: K.
        sites: How many sites there are at most.

    Returns:
        What it means and the likely fix; "" where there are enough.

    Examples:
        >>> too_many(3, 2)[-71:]
        'Likely fix: set method.n_components to the number of sites, 2, or less.'
    """
    more = made_up(n_components, sites, "site")
    return f"{more} Likely fix: set method.n_components to the number of sites, {sites}, or less." if more else ""
