"""What federation.toml lets a site's sums be, beyond what any rows could."""

from __future__ import annotations

from fedgmi.deploy.settings import RowSettings
from fedgmi.methods.plausible import wrong_moments
from fedgmi.methods.standardising import STANDARDISE
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import Check, Step
from fedgmi.tree import Tree


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
