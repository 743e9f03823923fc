"""An estimator's parameters as a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fedgmi.errors import ConfigError
from fedgmi.runs.config import Config, from_table
from fedgmi.settings.effects import refuse_without_effect

METHOD = "fedgmi"
ELSEWHERE: dict[str, tuple[str, ...]] = {
    "data": ("standardise", "missing", "task"),
    "scenario": (),
    "evaluation": ("metric",),
}
"""Sections that say what `fedgmi run` reads and compares, and which of their settings count for FedGMI too."""


def seed_of(seed: Any, random_state: Any) -> int:
    """The seed: `random_state` is scikit-learn's name for it.

    Args:
        seed: 0 where nobody has said anything.
        random_state: A seed; a generator of NumPy's, from which one is drawn; or None: `seed` counts.

    Returns:
        The seed.

    Raises:
        ConfigError: For two that differ, and for what is no seed.

    Examples:
        >>> seed_of(3, None), seed_of(0, 3)
        (3, 3)
    """
    if random_state is None:
        return whole(seed, "seed")
    if isinstance(random_state, np.random.RandomState):
        found = int(random_state.randint(2**31 - 1))
    elif isinstance(random_state, np.random.Generator):
        found = int(random_state.integers(2**31 - 1))
    else:
        found = whole(random_state, "random_state")
    if seed not in (0, found):
        raise ConfigError(f"seed is {seed} and random_state is {found}", where="FedGMI", fix="give one of the two")
    return found


def whole(value: Any, name: str, least: int = 0, where: str = "FedGMI") -> int:
    """A whole number.

    Args:
        value: Any.
        name: What it is called.
        least: The smallest that will do.
        where: Where it was given.

    Raises:
        ConfigError: For anything else.
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer) or value < least:
        raise ConfigError(f"{name} is {value!r}", where=where, fix=f"give a whole number of at least {least}")
    return int(value)


def config_of(table: dict[str, Any], settings: Mapping[str, Any] | None) -> Config:
    """The configuration that parameters stand for.

    Args:
        table: Sections by name.
        settings: Any other setting, as {"section.key": value} or {"section": {key: value}}. It comes last.

    Returns:
        The configuration.

    Raises:
        ConfigError: For a setting that is not there, out of its range, or of another method.
    """
    if settings is not None and not isinstance(settings, Mapping):
        what = f"settings is a {type(settings).__name__}"
        raise ConfigError(what, where="FedGMI", fix='give a dict such as {"training.patience": 5}')
    for key, value in (settings or {}).items():
        section, _, name = str(key).rpartition(".")
        place = table.setdefault(section, {}) if section else table
        both = isinstance(value, Mapping) and isinstance(place.get(name), dict)
        place[name] = {**place[name], **value} if both else value
    name = table.get("method", {}).get("name", METHOD)
    if name != METHOD:
        what = f"FedGMI is the method {METHOD}, not {name}"
        fix = f"leave it out, or run the other method with: fedgmi run --set method.name={name}"
        raise ConfigError(what, where="method.name", fix=fix)
    config = from_table(_plain(table), "FedGMI")
    why = "FedGMI is given a federation, and fits one method to it"
    for section, used in ELSEWHERE.items():
        part = getattr(config, section)
        unused = [name for name in type(part).model_fields if name not in used]
        refuse_without_effect(part, section, unused, why, fix="use fedgmi run")
    return config


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's: settings are strict about types."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else value
