"""What federation.toml lets a site's sums be, beyond what any rows could."""

from __future__ import annotations

import math

import torch

from fedgmi.deploy.settings import FederationSettings, RowSettings
from fedgmi.methods.plausible import wrong_moments
from fedgmi.methods.standardising import STANDARDISE
from fedgmi.protocol.message import Message
from fedgmi.protocol.private_sum import most_length, sensitivity
from fedgmi.protocol.step import Check, Step
from fedgmi.runs.private import Cost
from fedgmi.tree import Tree

SLACK = 1e-3  # of sums in float32


def within_ranges(rows: RowSettings) -> Check | None:
    """Sums of features in their own units, held to `rows.ranges`; None where there are no ranges."""
    places = {name: rows.features.index(name) for name in rows.ranges}
    if not places:
        return None

    def check(server: Tree, message: Message, client: int, n_rows: int) -> str | None:
        sums = message.sums
        for name, at in places.items():
            first, second = sums["sum"][at], sums["squares"][at]
            count = sums["count"] if sums["count"].ndim == 0 else sums["count"][at]
            limits = (first.new_tensor(rows.ranges[name][0]), first.new_tensor(rows.ranges[name][1]))
            why = wrong_moments(f"its values of {name!r}", count, first, second, limits)
            if why is not None:
                return f"{why} within {rows.ranges[name]}"
        return None

    return check


def check_of(step: Step, rows: RowSettings) -> Check | None:
    """What a step's messages are held to besides the step's own check."""
    return within_ranges(rows) if step.name == STANDARDISE else None


def within_length(cost: Cost, federation: FederationSettings, step: Step, n_sites: int = 1) -> Check:
    """What `[privacy]` lets a message be: its update has a length, and its noise one that is hardly ever passed.

    Args:
        cost: The run's, with its bound and its noise.
        federation: federation.toml.
        step: Whose messages.
        n_sites: Of how many the message is the sum. Their parts of the noise are then sized for more than half of them.

    Returns:
        The check.
    """
    scale = 1.0 if n_sites == 1 else math.sqrt(2.0)

    def check(server: Tree, message: Message, client: int, n_rows: int) -> str | None:
        change = step.row_change or 0.0  # at least what a row adds to sums
        if change and message.sums:
            sums = torch.cat([leaf.double().flatten() for leaf in message.sums.values()])
            return too_long("its sums have", sums, change * n_rows, change * cost.noise_multiplier)
        if not message.models:
            return None
        single = [float(part.mass) for part in message.models.values() if len(part.mass) == 1]
        if not by_rows and any(abs(mass - n_sites) > SLACK for mass in single):
            return f"its weight is {single[0]:g}, and with [privacy] each site has one voice"
        if by_rows:
            rate = federation.training.lr_candidates(federation.method.name)[0]
            bound, deviation = rate * cost.clip * n_rows, 2 * rate * cost.clip * cost.noise_multiplier
        else:
            deviation = cost.noise_multiplier * sensitivity(message)
            shares = [part.mass.double() for part in message.models.values() if len(part.mass) > 1]
            most = most_length(sum(map(len, shares)), n_sites * math.sqrt(len(shares)), scale * deviation)
            found = float(torch.cat(shares).norm()) if shares else 0.0
            if found > most * (1 + SLACK):
                return f"its shares of components have length {found:.3g}, expected {most:.3g} at most"
            bound, deviation = n_sites * cost.clip, cost.clip * deviation
        updates = torch.cat([part.total.double().flatten() for part in message.models.values()])
        return too_long("its update has", updates, bound, deviation)

    def too_long(what: str, numbers: torch.Tensor, bound: float, deviation: float) -> str | None:
        length, most = float(numbers.norm()), most_length(len(numbers), bound, scale * deviation)
        if length > most * (1 + SLACK):
            return f"{what} length {length:.3g}, and with [privacy] no more than {most:.3g} can be"
        return None

    by_rows = cost.unit == "rows"
    return check
