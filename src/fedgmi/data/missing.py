"""Missing values: columns of 0 and 1 that say where they stand, so that a rule fills them everywhere in the same way.

    "refuse"       a missing value is an error
    "mean"         it becomes the column's mean over all clients; a missing text, the shares of all texts
    "indicator"    the mean, and `age=(missing)` says where; a missing text is a text of its own, `sex=(missing)`

The mean is made of federated sums, in `methods/standardising.py`. Until then NaN stands in x.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor

from fedgmi.data.rows import Missing
from fedgmi.errors import ConfigError, DataError

MARK = "(missing)"

RULE = ', or set missing = "mean" or "indicator" (data.missing in settings)'
"""Which rule helps against missing values, after "fill or drop these rows"."""


def marker_of(column: str) -> str:
    """The name of the column that says where another one has missing values.

    Examples:
        >>> marker_of("age")
        'age=(missing)'
    """
    return f"{column}={MARK}"


def marked_numbers(features: Sequence[str]) -> dict[str, int]:
    """The columns of numbers whose missing values are marked.

    Args:
        features: As in `Schema.features`.

    Returns:
        By the marking column's name, the place of the column that it is about.

    Examples:
        >>> marked_numbers(["age", "sex=f", "sex=(missing)", "age=(missing)"])
        {'age=(missing)': 0}
    """
    markers = {marker_of(name): place for place, name in enumerate(features)}
    return {name: markers[name] for name in features if name in markers}


def with_markers(x: Tensor, features: Sequence[str]) -> Tensor:
    """Rows of numbers with the columns that mark their missing values.

    Args:
        x: Rows without these columns, NaN where a value is missing. [n, D − M]
        features: The names of all D columns, M of which mark missing numbers.

    Returns:
        The rows. [n, D], float32

    Examples:
        >>> with_markers(torch.tensor([[float("nan")], [3.0]]), ["age", "age=(missing)"])
        tensor([[nan, 1.],
                [3., 0.]])
    """
    marked = marked_numbers(features)
    if not marked:
        return x
    given = iter(x.unbind(1))
    columns = {name: next(given) for name in features if name not in marked}
    gaps = {name: columns[features[place]].isnan().to(x) for name, place in marked.items()}
    return torch.stack([(columns | gaps)[name] for name in features], 1)


def mark(
    groups: Sequence[Sequence[Tensor]], features: Sequence[str], numbers: Sequence[str], missing: Missing
) -> tuple[list[list[Tensor]], tuple[str, ...]]:
    """By the rule "indicator", rows with a marking column for every column of numbers that lacks a value somewhere.

    Args:
        groups: Rows of the same columns, such as those of all clients. [n, D] each
        features: The names of the columns. [D]
        numbers: Those of them that hold numbers.
        missing: The rule. By the others, rows stay as they are.

    Returns:
        The rows, and the names of their columns.

    Raises:
        DataError: For columns in which no row has a value, unless missing values are refused anyway.
    """
    xs = [x for group in groups for x in group]
    if missing == "refuse" or not xs or not sum(map(len, xs)):
        return [list(group) for group in groups], tuple(features)
    gaps = torch.stack([x.isnan().any(0) for x in xs]).any(0)
    empty = torch.stack([x.isnan().all(0) for x in xs]).all(0)
    if empty.any():
        lacking = ", ".join(repr(features[place]) for place in empty.nonzero().flatten().tolist())
        raise DataError("no client has a value", where=f"column {lacking}", fix="leave it out")
    if missing != "indicator":
        return [list(group) for group in groups], tuple(features)
    marked = [name for place, name in enumerate(features) if gaps[place] and name in numbers]
    names = (*features, *map(marker_of, marked))
    return [[with_markers(x, names) for x in group] for group in groups], names


def check_rule(missing: str) -> None:
    """Refuse a rule that there is not.

    Raises:
        ConfigError: It names those that there are.
    """
    if missing not in get_args(Missing):
        known = ", ".join(map(repr, get_args(Missing)))
        raise ConfigError(f"{missing!r} is no rule for missing values", where="missing", fix=f"choose one of {known}")


def no_rule_for_pictures(where: str) -> ConfigError:
    """The error for a rule that pictures have no use for."""
    fix = 'leave it "refuse", and leave broken pictures out'
    return ConfigError("pictures have no missing values, so the rule would have no effect", where=where, fix=fix)
