"""What can be compared, by name: known before anything heavy is imported, so that a mistyped name is told at once."""

from __future__ import annotations

from collections.abc import Sequence

from fedgmi.errors import ConfigError, unknown
from fedgmi.methods import METHODS

ORACLE = "oracle"
PRESETS = ("plain", "sketch")


def check_contestants(methods: Sequence[str]) -> None:
    """Refuse methods that cannot be compared.

    Args:
        methods: Names of METHODS, `fedgmi-PRESET`, or "oracle".

    Raises:
        ConfigError: A method is unknown, one is named twice or none is, or the oracle is without fedgmi.
    """
    known = [*METHODS, *(f"fedgmi-{preset}" for preset in PRESETS), ORACLE]
    for name in methods:
        if name not in known:
            raise unknown("method", name, known, "--methods")
    check_once("--methods", methods)
    if ORACLE in methods and "fedgmi" not in methods:
        raise ConfigError("the oracle runs beside fedgmi", where="--methods", fix="add fedgmi")


def check_once(where: str, values: Sequence[str]) -> None:
    """Refuse an empty list, and one that names a thing twice.

    Args:
        where: The option, for the message.
        values: What was named.

    Raises:
        ConfigError: It says which is named twice.
    """
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice is not None:
        raise ConfigError(f"{twice} is named twice", where=where, fix="name each once")
    if not values:
        raise ConfigError("there is none", where=where, fix="name at least one")
