"""A scale for tables that is made of no row: of ranges that are generally known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from fedgmi.data.standardise import UNIFORM, Standardisation
from fedgmi.errors import ConfigError


def agreed_scale(
    features: Sequence[str], ranges: Mapping[str, Sequence[float]], where: str = "rows.ranges"
) -> Standardisation:
    """A scale for a table that is made of no row: the middle of each feature's agreed range, and the deviation of
    numbers that are spread evenly in it, (b − a)/√12. `column=value` is 0 or 1.

    Args:
        features: The table's columns.
        ranges: [least, greatest] by feature.
        where: The setting that has them.

    Returns:
        The scale. [D] each

    Raises:
        ConfigError: Where a feature has no range, a range is of no feature, or has no ends in order.

    Examples:
        >>> scale = agreed_scale(["age", "sex=f"], {"age": [0, 120]})
        >>> scale.mean.tolist(), [round(float(one), 3) for one in scale.std]
        ([60.0, 0.5], [34.641, 0.289])
    """
    for name, (least, greatest) in ranges.items():
        if name not in features:
            known = ", ".join(features[:20]) or "none"
            raise ConfigError(f"{name!r} is no feature; there are {known}", where=where, fix="name one of these")
        if not (math.isfinite(least) and math.isfinite(greatest) and least <= greatest):
            what = f"the range of {name!r} is [{least:g}, {greatest:g}], and a scale is made of it"
            raise ConfigError(what, where=where, fix="write [least, greatest], two numbers")
    limits = {name: [0.0, 1.0] for name in features if "=" in name} | dict(ranges)
    without = [name for name in features if name not in limits]
    if without:
        raise ConfigError(
            f"{without[0]!r} has no range, and with [privacy] a table's scale cannot be made of sums over its rows",
            where=where,
            fix="name the least and the greatest value that every column may have, from what is generally known",
        )
    ends = torch.tensor([list(limits[name]) for name in features], dtype=torch.float64)
    width = ends[:, 1] - ends[:, 0]
    return Standardisation(ends.mean(1), torch.where(width > 0, width / UNIFORM, 1.0))
