"""`[rows]` of federation.toml: what every site's rows look like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Literal, TypeVar

from pydantic import BeforeValidator, Field

from fedgmi.data.missing import MARK
from fedgmi.data.rows import Schema
from fedgmi.errors import ConfigError
from fedgmi.settings.base import Limits, Name, PositiveInt, Section
from fedgmi.settings.run import TaskName

Item = TypeVar("Item")
Listed = Annotated[tuple[Item, ...], BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)]
"""A list of TOML, which has no tuples. What is in it is held to its type all the same."""


class RowSettings(Section):
    """What every site's rows look like.

    Attributes:
        kind: "tabular" or "image".
        features: A table's columns; `column=value` for a value of a text column.
        shape: [channels, height, width] of a picture.
        classes: The labels in order: texts, whole numbers, or false and true; empty without labels.
        ranges: [least, greatest] of some features.
        task: What labels are: classes, or for "regression" a number to predict. Then there are no classes.
        missing: What becomes of missing values: "refuse", "mean" or "indicator". By the last, `age=(missing)` and
            `sex=(missing)` stand among the features, for those columns that may lack values.
    """

    kind: Literal["image", "tabular"]
    features: Listed[Name] = ()
    shape: Listed[PositiveInt] = ()
    classes: Listed[Name | bool | int] = ()
    ranges: dict[Name, Limits] = Field(default_factory=dict)
    missing: Literal["refuse", "mean", "indicator"] = "refuse"
    task: TaskName = "classification"

    def as_schema(self) -> Schema:
        """The schema that methods know.

        Returns:
            It.

        Raises:
            ConfigError: Where the keys contradict each other.
        """
        for key, what, fix in self._contradictions():
            raise ConfigError(what, where=f"rows.{key}", fix=fix)
        shape = self.shape if self.kind == "image" else (len(self.features),)
        given = next(iter({type(name).__name__ for name in self.classes}), "")
        label_type = {"int": "int64"}.get(given, given)
        classes = tuple(map(str, self.classes))
        ranges = tuple((name, least, greatest) for name, (least, greatest) in self.ranges.items())
        return Schema(
            shape, len(classes), self.kind, classes, self.features, label_type, self.missing, self.task, ranges
        )

    def _contradictions(self) -> Iterator[tuple[str, str, str]]:
        """What is wrong between the keys: which key, what, and the likely fix."""
        if self.kind == "image" and len(self.shape) != 3:
            yield "shape", f"pictures have {len(self.shape)} sides", "set it to [channels, height, width]"
        if self.kind == "tabular" and not self.features:
            yield "features", "the rows of a table have no features", "name the columns that all sites have"
        other = "features" if self.kind == "image" else "shape"
        if getattr(self, other):
            yield other, f'rows of kind "{self.kind}" have none', "leave it out, or change rows.kind"
        for key, names in (("features", self.features), ("classes", self.classes)):
            twice = next((name for name, n in Counter(names).items() if n > 1), None)
            if twice is not None:
                yield key, f"{twice!r} is named twice", "name each once"
        if len({type(name) for name in self.classes}) > 1:
            yield "classes", "the labels are of several types", "give texts, or whole numbers, or [false, true]"
        if self.classes and self.task != "classification":
            yield "classes", f"rows.task is {self.task}, whose labels are no classes", "leave rows.classes out"
        if self.classes and isinstance(self.classes[0], bool) and self.classes != (False, True):
            yield "classes", "truth values are in another order", "write [false, true]"
        marked = [name for name in self.features if name.endswith(f"={MARK}")]
        if marked and self.missing != "indicator":
            yield "features", f"{marked[0]!r} marks missing values", 'set rows.missing = "indicator", or leave it out'
        if self.kind == "image" and self.missing != "refuse":
            yield "missing", "pictures have no missing values", "leave it out"
        known = set(self.features)
        for name, (least, greatest) in self.ranges.items():
            if name not in known:
                yield "ranges", f"{name!r} is no feature", "name one of rows.features"
            if not least <= greatest:
                yield "ranges", f"the range of {name!r} is [{least:g}, {greatest:g}]", "write [least, greatest]"


def also_private(missing: str) -> str:
    """What is to be known of a rule for missing values before a federation with `[privacy]` has it.

    Args:
        missing: The rule.

    Returns:
        A line; "" where there is nothing to know.

    Examples:
        >>> also_private("refuse")
        ''
    """
    if missing == "refuse":
        return ""
    what = f'missing = "{missing}": a federation with [privacy] refuses this rule, and takes rows without gaps alone'
    return f"{what}. For such a one fill gaps at the sites, replace texts that are not told, and describe the rows anew"
