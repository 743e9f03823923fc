"""Tables of what settings can name: fedgmi's own entries, and those of outside packages (entry points).

An outside package is asked nothing before its entry is used, or listed. One that is broken says so when it is asked
for, and the others work.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from fedgmi.errors import ConfigError, FedgmiWarning

T = TypeVar("T")


class Table(MutableMapping[str, T]):
    """Entries by name. Names of outside packages are there at once, and their entries once they are used.

    Args:
        kind: What an entry is: "method". Outside packages name theirs in the entry-point group `fedgmi.methods`.
        plural: The last part of the group's name: "methods".
        own: fedgmi's own entries, or where they are: "module:NAME", which is loaded once it is used.
        check: (name, entry) → what is wrong with an outside entry, or "".

    Examples:
        >>> table = Table("expert", "experts", {"mlp": len}, lambda name, entry: "")
        >>> "mlp" in table, table["mlp"]([1, 2])
        (True, 2)
    """

    def __init__(self, kind: str, plural: str, own: Mapping[str, T | str], check: Callable[[str, Any], str]) -> None:
        self.kind, self.group = kind, f"fedgmi.{plural}"
        self._own, self._check = dict(own), check
        self._loaded: dict[str, T] = {}

    @cached_property
    def _points(self) -> dict[str, list[EntryPoint]]:
        """Outside entries by name. A name of fedgmi's own stays fedgmi's."""
        found: dict[str, list[EntryPoint]] = {}
        for point in entry_points(group=self.group):
            if point.name in self._own:
                what = f"the {self.kind} {point.name!r} of {package(point)} is left out: fedgmi has one of that name"
                warnings.warn(FedgmiWarning(what), stacklevel=3)
            else:
                found.setdefault(point.name, []).append(point)
        return found

    def __getitem__(self, name: str) -> T:
        """The entry of that name.

        Raises:
            KeyError: There is none.
            ConfigError: It is an outside package's, and cannot be used.
        """
        if name not in self._loaded:
            own = self._own.get(name)
            if own is None:
                self._loaded[name] = self._load(name, self._points[name])
            else:
                self._loaded[name] = EntryPoint(name, own, self.group).load() if isinstance(own, str) else own
        return self._loaded[name]

    def _load(self, name: str, points: list[EntryPoint]) -> T:
        if len(points) > 1:
            raise ConfigError(
                f"{' and '.join(sorted(map(package, points)))} both have a {self.kind} {name!r}",
                where=f"entry points {self.group}",
                fix="uninstall one of them",
            )
        [point] = points
        try:
            entry = point.load()
        except Exception as error:
            wrong = f"{type(error).__name__}: {error}"
            raise self._broken(point, wrong) from error
        if wrong := self._check(name, entry):
            raise self._broken(point, wrong)
        loaded: T = entry
        return loaded

    def _broken(self, point: EntryPoint, why: str) -> ConfigError:
        return ConfigError(
            f"the {self.kind} {point.name!r} of {package(point)} cannot be used ({why})",
            where=f"entry point {self.group}, {point.value}",
            fix="repair that package, or uninstall it; everything else works",
        )

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._points

    def __iter__(self) -> Iterator[str]:
        return iter([*self._own, *self._points])

    def __len__(self) -> int:
        return len(self._own) + len(self._points)

    def __setitem__(self, name: str, entry: T) -> None:
        self._own[name] = entry
        self._loaded.pop(name, None)

    def __delitem__(self, name: str) -> None:
        del self._own[name]
        self._loaded.pop(name, None)

    def __or__(self, other: Mapping[str, T]) -> dict[str, T]:
        return {**self.usable(), **other}

    def usable(self) -> dict[str, T]:
        """All entries that can be used. Broken ones of outside packages are left out.

        Returns:
            By name.
        """
        found = {}
        for name in self:
            try:
                found[name] = self[name]
            except ConfigError:
                continue
        return found


def package(point: EntryPoint) -> str:
    """The name of the package that an entry point comes from."""
    return f"the package {point.dist.name}" if point.dist is not None else f"the module {point.module}"


def function_of_two(name: str, entry: Any) -> str:
    """What is wrong with an entry that is to be a function (settings, schema) → model, or ""."""
    return "" if callable(entry) else f"it is a {type(entry).__name__}, not a function (settings, schema)"
