"""Settings of a deployment from their files, and what is told of a file that is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from fedgmi.deploy.settings.federation import FederationSettings
from fedgmi.deploy.settings.rows import RowSettings
from fedgmi.deploy.settings.site import SiteSettings
from fedgmi.errors import ConfigError
from fedgmi.runs.config import explained, method_of
from fedgmi.settings import toml
from fedgmi.settings.explain import explain

AnySettings = TypeVar("AnySettings", FederationSettings, SiteSettings)
WRITTEN_BY = {
    FederationSettings: "the coordinator's comes from `fedgmi deploy init`; a site gets it from the coordinator, "
    "and puts it beside its site.toml",
    SiteSettings: "write it from site.toml.example, which the coordinator has from `fedgmi deploy init`",
}
"""Where the two files come from."""


def read(kind: type[AnySettings], path: Path) -> AnySettings:
    """Settings from TOML.

    Args:
        kind: Which of the two files it is.
        path: The file.

    Returns:
        The settings.

    Raises:
        ConfigError: For an unknown key, or a value that cannot be. A number in quotes is none.
    """
    if not path.exists():
        raise ConfigError("there is no such file", where=str(path), fix=WRITTEN_BY[kind])
    table = toml.unset_empty(toml.read_toml(path))
    if kind is FederationSettings:
        method_of(table)
    try:
        return kind.model_validate(table, strict=True)
    except ValidationError as error:
        if kind is FederationSettings:
            raise explained(error, kind, table, str(path)) from error
        raise explain(error, kind, str(path)) from error


@contextmanager
def named(path: Path) -> Iterator[None]:
    """What is wrong with settings that contradict each other is told with the name of their file.

    Args:
        path: The file.

    Raises:
        ConfigError: As it was raised, with the file in front of the setting.
    """
    try:
        yield
    except ConfigError as error:
        if str(path) in error.where:
            raise
        where = f"{path}: {error.where}" if error.where else str(path)
        raise ConfigError(error.what, where=where, fix=error.fix) from error


def read_rows(path: Path) -> RowSettings:
    """The section `[rows]` of a file that `fedgmi site describe` wrote, or of a federation.toml.

    Args:
        path: The file.

    Returns:
        The section.

    Raises:
        ConfigError: Where there is none, or it cannot be.
    """
    table = toml.read_toml(path).get("rows")
    if not isinstance(table, dict):
        fix = "give what `fedgmi site describe … --out rows.toml` wrote"
        raise ConfigError("there is no section [rows]", where=str(path), fix=fix)
    try:
        found = RowSettings.model_validate(table, strict=True)
    except ValidationError as error:
        raise explain(error, RowSettings, str(path)) from error
    with named(path):
        found.as_schema()
    return found
