"""`fedgmi deploy merge`: the sites' proposals of `[rows]` as one, and what of them cannot be brought together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedgmi.data.missing import MARK, marker_of
from fedgmi.deploy.settings import RowSettings, also_private
from fedgmi.errors import ConfigError

STRICT = ("refuse", "mean", "indicator")
"""Rules for missing values: each allows for all that the ones before it do."""


@dataclass(frozen=True)
class Merged:
    """What came of it.

    Attributes:
        rows: The federation's; None where there are conflicts.
        notes: What some sites have and others do not.
        conflicts: What sites have to settle among themselves.
    """

    rows: RowSettings | None
    notes: tuple[str, ...]
    conflicts: tuple[str, ...]


@dataclass
class _Merger:
    """All proposals, by the name of their file, and what is noted of them."""

    sites: Mapping[str, RowSettings]
    notes: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)


def merge(sites: Mapping[str, RowSettings]) -> Merged:
    """Bring the sites' rows together: features that all have, the union of texts and classes, and ranges that hold all.

    Args:
        sites: What each has, by a name for messages.

    Returns:
        What came of it.

    Raises:
        ConfigError: Where there is no site.

    Examples:
        >>> north = RowSettings(kind="tabular", features=("age", "sex=f"), classes=("ill",))
        >>> south = RowSettings(kind="tabular", features=("sex=m", "age", "pulse"), classes=("well",))
        >>> found = merge({"north": north, "south": south})
        >>> found.rows.features, found.rows.classes, found.notes[-1]
        (('age', 'sex=f', 'sex=m'), ('ill', 'well'), 'pulse: left out, for north does not have it')
    """
    if not sites:
        raise ConfigError("there is nothing to merge", where="fedgmi deploy merge", fix="give a file for each site")
    of = _Merger(sites)
    found = {"kind": _same(of, "kind"), "task": _same(of, "task"), "shape": _same(of, "shape")}
    found["classes"] = _classes(of)
    found |= _features(of)
    if found["kind"] == "tabular" and not found["features"] and not of.conflicts:
        of.conflicts.append("features: there is no column that all sites have. Likely fix: the same names at all sites")
    if of.conflicts:
        return Merged(None, tuple(of.notes), tuple(of.conflicts))
    rows = RowSettings.model_validate(found)
    rows.as_schema()
    of.notes += filter(None, [also_private(rows.missing)])
    return Merged(rows, tuple(of.notes), ())


def _same(of: _Merger, key: str) -> Any:
    """What all have to have in the same way."""
    found: dict[Any, list[str]] = {}
    for name, rows in of.sites.items():
        found.setdefault(getattr(rows, key), []).append(name)
    if len(found) > 1:
        told = "; ".join(f"{_shown(value)} at {_names(names)}" for value, names in found.items())
        of.conflicts.append(f"{key}: {told}")
    return next(iter(found))


def _classes(of: _Merger) -> list[Any]:
    """The union, sorted where all were; of one type."""
    lists = {name: list(rows.classes) for name, rows in of.sites.items()}
    without = [name for name, classes in lists.items() if not classes]
    if 0 < len(without) < len(lists):
        of.conflicts.append(f"classes: {_names(without)} has no labels, and others have. Likely fix: --label COLUMN")
    kinds: dict[str, list[str]] = {}
    for name, classes in lists.items():
        if classes:
            kinds.setdefault(type(classes[0]).__name__, []).append(name)
    if len(kinds) > 1:
        words = {"str": "texts", "int": "whole numbers", "bool": "false and true"}
        told = "; ".join(f"{words[kind]} at {_names(names)}" for kind, names in kinds.items())
        of.conflicts.append(f"classes: {told}. Likely fix: one way to write labels at all sites")
        return []
    union = list(dict.fromkeys(label for classes in lists.values() for label in classes))
    known = {name: set(classes) for name, classes in lists.items() if classes}
    for label in union:
        lacking = [name for name, classes in known.items() if label not in classes]
        if lacking:
            of.notes.append(f"class {label!r}: not at {_names(lacking)}")
    return sorted(union) if all(classes == sorted(classes) for classes in lists.values()) else union


def _features(of: _Merger) -> dict[str, Any]:
    """Features, ranges and the rule for missing values."""
    columns = {name: columns_of(rows.features) for name, rows in of.sites.items()}
    features: list[str] = []
    marks: list[str] = []
    ranges: dict[str, list[float]] = {}
    rule = max((rows.missing for rows in of.sites.values()), key=STRICT.index)
    for column in dict.fromkeys(column for own in columns.values() for column in own):
        lacking = [name for name, own in columns.items() if column not in own]
        if lacking:
            verb = "does" if len(lacking) == 1 else "do"
            of.notes.append(f"{column}: left out, for {_names(lacking)} {verb} not have it")
            continue
        numbers = [name for name, own in columns.items() if own[column].number]
        if 0 < len(numbers) < len(columns):
            texts = [name for name in columns if name not in numbers]
            of.conflicts.append(f"{column}: numbers at {_names(numbers)}, and texts at {_names(texts)}")
            continue
        gaps = any(own[column].gaps for own in columns.values())
        if numbers:
            features.append(column)
            marks += [marker_of(column)] if gaps else []
            ranges |= _range(of, column)
        else:
            features += [f"{column}={text}" for text in _texts(of, column, columns)]
            features += [marker_of(column)] if gaps else []
    return {"features": [*features, *marks], "ranges": ranges, "missing": rule}


def _texts(of: _Merger, column: str, columns: Mapping[str, Mapping[str, Column]]) -> list[str]:
    known = {name: set(own[column].texts) for name, own in columns.items()}
    union = sorted(set().union(*known.values()))
    for text in union:
        lacking = [name for name, texts in known.items() if text not in texts]
        if lacking:
            of.notes.append(f"{column}={text}: not at {_names(lacking)}")
    return union


def _range(of: _Merger, column: str) -> dict[str, list[float]]:
    """That which holds all sites'; none where a site tells none, for its rows could be outside."""
    told = {name: rows.ranges[column] for name, rows in of.sites.items() if column in rows.ranges}
    if len(told) < len(of.sites):
        if told:
            lacking = [name for name in of.sites if name not in told]
            of.notes.append(f"{column}: without a range, for {_names(lacking)} tells no range")
        return {}
    lows, highs = sorted(low for low, _ in told.values()), sorted(high for _, high in told.values())
    both = [lows[0], highs[-1]]
    for name, own in told.items() if len(told) > 1 else ():
        others = [lows[own[0] == lows[0]], highs[-1 - (own[1] == highs[-1])]]
        if others != both:
            of.notes.append(f"{column}: {name} widens the range {_widened(others, both)}")
    return {column: both}


def _widened(others: Sequence[float], both: Sequence[float]) -> str:
    """From which range to which: a mistyped value, or another unit, shows by the factor."""
    before, after = (f"[{low:.12g}, {high:.12g}]" for low, high in (others, both))
    widths = others[1] - others[0], both[1] - both[0]
    times = f", {widths[1] / widths[0]:,.3g} times as wide" if widths[0] > 0 and math.isfinite(widths[1]) else ""
    return f"from {before}, which holds the other sites', to {after}{times}"


@dataclass
class Column:
    """A site's column.

    Attributes:
        number: Whether it holds numbers.
        texts: Its texts, where it holds such.
        gaps: Whether missing values are marked.
    """

    number: bool = False
    texts: list[str] = field(default_factory=list)
    gaps: bool = False


def columns_of(features: Sequence[str]) -> dict[str, Column]:
    """The columns that features are made of.

    Examples:
        >>> columns_of(["age", "sex=f", "age=(missing)"])["age"]
        Column(number=True, texts=[], gaps=True)
    """
    found: dict[str, Column] = {}
    for feature in features:
        name, equals, text = feature.partition("=")
        column = found.setdefault(name, Column())
        if not equals:
            column.number = True
        elif text == MARK:
            column.gaps = True
        else:
            column.texts.append(text)
    return found


def _names(names: Sequence[str]) -> str:
    return ", ".join(names)


def _shown(value: Any) -> str:
    return "×".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)
