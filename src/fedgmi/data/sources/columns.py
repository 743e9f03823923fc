"""Which column of a table is what."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fedgmi.data.problems import Problems
from fedgmi.data.sources.row_numbers import without_row_numbers
from fedgmi.errors import ConfigError, DataError, nearest
from fedgmi.settings.effects import refuse_without_effect
from fedgmi.settings.run import DataSettings

LABEL_NAMES = ("label", "labels", "target", "character", "y")
"""A column of one of these names holds labels, unless the settings name another."""

Kind = Literal["image", "class", "number", "text", "empty", "other"]
USABLE: tuple[Kind, ...] = ("number", "text", "class", "empty")


@dataclass(frozen=True)
class Roles:
    """Which columns of a data set are read, and what for.

    Attributes:
        image: The column of pictures, or None for a table.
        features: The table's columns of features; empty for pictures.
        label: The column of classes or targets, or None.
        event: For survival, the column that says whether a time ended in an event.
        extra: The column that names each row's client, or None.
    """

    image: str | None
    features: tuple[str, ...]
    label: str | None
    extra: str | None
    event: str | None = None

    @property
    def all(self) -> tuple[str, ...]:
        """The columns that are read."""
        return tuple(
            name for name in (self.image, *self.features, self.label, self.event, self.extra) if name is not None
        )


def kind_of(feature: Any) -> Kind:
    """What a column of a `datasets` table holds.

    Args:
        feature: The column's entry in the table's `features`.

    Returns:
        "image", "class" (numbers with names), "number" (truth values too), "text", "empty" (no value at all), or
        "other".
    """
    name, dtype = type(feature).__name__, str(getattr(feature, "dtype", ""))
    if name == "Image":
        return "image"
    if name == "ClassLabel":
        return "class"
    if name == "Value" and dtype in ("string", "large_string", "string_view"):
        return "text"
    if name == "Value" and dtype.startswith(("int", "uint", "float", "bool", "decimal")):
        return "number"
    return "empty" if name == "Value" and dtype == "null" else "other"


def require(column: str, columns: Sequence[str], *, where: str) -> str:
    """Check that there is such a column.

    Args:
        column: Its name.
        columns: The names of those that there are.
        where: The setting or file that the name comes from.

    Returns:
        The name.

    Raises:
        DataError: Where there is none. It names those that there are, and the nearest.
    """
    if column in columns:
        return column
    guess = nearest(column, columns)
    raise DataError(
        f"no column {column!r}; there are {', '.join(columns) or 'none'}",
        where=where,
        fix=f"did you mean {guess!r}?" if guess else "choose one of them",
    )


def find_roles(features: Mapping[str, Any], settings: DataSettings, extra: str | None) -> Roles:
    """Tell what each column is for.

    Settings say so where they name columns. Otherwise it is the first picture, the first class label or the first
    column with a label's name, and for a table all numbers and texts.

    Args:
        features: The columns' kinds by name, as `datasets` gives them.
        settings: The section `data`.
        extra: The column that names each row's client, or None. It is never taken for a feature or a label.

    Returns:
        The columns to read.

    Raises:
        DataError: For a column that is missing or of the wrong kind, and where no column can be used.
        ConfigError: Where the settings name a picture and a table's columns.
    """
    names = list(features)
    if extra is not None:
        require(extra, names, where="scenario.client_column")
    if settings.image_column and settings.feature_columns:
        raise ConfigError(
            "both a picture and table columns are named",
            where="data",
            fix="keep image_column or feature_columns, not both",
        )
    kinds = {name: kind_of(feature) for name, feature in features.items()}
    free = [name for name in names if name != extra]
    event = _find_event(free, kinds, settings)
    label = _find_label(free, kinds, settings)
    if settings.feature_columns is not None:
        taken = {extra: "the clients' names", label: "the label", event: "the event"}
        return Roles(None, _named_features(names, kinds, features, settings, taken), label, extra, event)
    image = _find_image(names, kinds, settings)
    rest = [name for name in free if name not in (label, event)]
    if image is None:
        rest = without_row_numbers(rest, where=settings.path, keep="name it in data.feature_columns")
    if image is None and not any(kinds[name] in USABLE for name in rest):
        raise DataError(
            f"neither a picture nor a numeric column among {', '.join(names)}",
            where=settings.path,
            fix="name the columns with data.image_column or data.feature_columns",
        )
    if image is None:
        _refuse_others(rest, kinds, features, settings.path)
    return Roles(image, () if image else tuple(rest), label, extra, event)


def _named_features(
    names: list[str],
    kinds: Mapping[str, Kind],
    features: Mapping[str, Any],
    settings: DataSettings,
    taken: Mapping[str | None, str],
) -> tuple[str, ...]:
    """The columns that the settings name, none of which is taken for something else."""
    problems, chosen = Problems(), list(settings.feature_columns or [])
    for name in chosen:
        with problems.noted():
            require(name, names, where="data.feature_columns")
            if name in taken:
                what = f"column {name!r} is {taken[name]}"
                raise DataError(what, where="data.feature_columns", fix="leave it out")
            if chosen.count(name) > 1:
                raise DataError(f"column {name!r} is named twice", where="data.feature_columns", fix="name it once")
            if kinds[name] not in USABLE:
                what = f"column {name!r} holds {_held(features[name])}, neither numbers nor texts"
                raise DataError(what, where="data.feature_columns", fix="leave it out")
    problems.tell()
    return tuple(chosen)


def _refuse_others(rest: list[str], kinds: Mapping[str, Kind], features: Mapping[str, Any], path: str) -> None:
    """Refuse columns that no model can take, rather than leave them out without a word."""
    problems = Problems()
    usable = [name for name in rest if kinds[name] in USABLE]
    for name in rest:
        with problems.noted():
            if name not in usable:
                fix = "turn it into numbers or texts"
                if usable:
                    fix += f", or name the other columns: data.feature_columns = {json.dumps(usable[:8])}"
                raise DataError(f"it holds {_held(features[name])}", where=f"{path}, column {name!r}", fix=fix)
    problems.tell()


def _held(feature: Any) -> str:
    """What a column holds, in words."""
    dtype = str(getattr(feature, "dtype", ""))
    if dtype.startswith(("timestamp", "date", "time", "duration")):
        return f"dates or times ({dtype})"
    return "lists or records" if type(feature).__name__ in ("List", "Sequence", "dict", "list") else dtype or "objects"


def _find_event(free: list[str], kinds: Mapping[str, Kind], settings: DataSettings) -> str | None:
    """The column of events, which together with that of times is never guessed."""
    if settings.task != "survival":
        refuse_without_effect(settings, "data", ["event_column"], f"data.task is {settings.task}")
        return None
    for key, what in (("label_column", "time"), ("event_column", "event")):
        if getattr(settings, key) is None:
            fix = f"set it to the column of the {what}"
            raise ConfigError(f"survival needs the column of each row's {what}", where=f"data.{key}", fix=fix)
    chosen = require(str(settings.event_column), free, where="data.event_column")
    if chosen == settings.label_column or kinds[chosen] not in ("number", "class"):
        what = "is the time" if chosen == settings.label_column else "holds no numbers"
        raise DataError(f"column {chosen!r} {what}", where="data.event_column", fix="choose a column of 0 and 1")
    return chosen


def _find_label(free: list[str], kinds: Mapping[str, Kind], settings: DataSettings) -> str | None:
    if settings.label_column is not None:
        chosen = require(settings.label_column, free, where="data.label_column")
        if kinds[chosen] not in USABLE:
            raise DataError(
                f"column {chosen!r} holds neither numbers nor texts",
                where="data.label_column",
                fix="choose another column",
            )
        return chosen
    taken = settings.feature_columns or []
    classes = [name for name in free if kinds[name] == "class" and name not in taken]
    named = [name for wanted in LABEL_NAMES for name in free if name.lower() == wanted and name not in taken]
    found = next((name for name in named if name in classes), next(iter(classes + named), None))
    beside = {name.lower() for name in free}
    if found is not None and found.lower() == "y" and kinds[found] == "number" and "x" in beside:
        raise DataError(
            f"column {found!r} may hold labels or, beside 'x', a coordinate",
            where=settings.path,
            fix=f'set data.label_column = "{found}" if it holds labels, and data.feature_columns if it does not',
        )
    return found


def _find_image(names: list[str], kinds: Mapping[str, Kind], settings: DataSettings) -> str | None:
    images = [name for name in names if kinds[name] == "image"]
    if settings.image_column is None:
        return images[0] if images else None
    chosen = require(settings.image_column, names, where="data.image_column")
    if chosen not in images:
        raise DataError(
            f"column {chosen!r} holds no pictures",
            where="data.image_column",
            fix=f"choose {images[0]!r}" if images else "for a table set data.feature_columns instead",
        )
    return chosen
