"""Settings that have no effect where they stand are refused. One at its default is as good as left out."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel

from fedgmi.errors import ConfigError
from fedgmi.settings.explain import show


def changed(section: BaseModel, names: Iterable[str]) -> list[str]:
    """Which of some settings are not at their defaults.

    Args:
        section: The settings.
        names: Of those to look at.

    Returns:
        Names, in the order of the section.
    """
    fields, wanted = type(section).model_fields, set(names)
    return [
        name
        for name, field in fields.items()
        if name in wanted and getattr(section, name) != field.get_default(call_default_factory=True)
    ]


def refuse_without_effect(section: BaseModel, prefix: str, names: Iterable[str], why: str, *, fix: str = "") -> None:
    """Refuse settings that would be ignored in silence.

    Args:
        section: The settings.
        prefix: The section's name.
        names: Those that have no effect here.
        why: A sentence's second half, after "it has no effect, for".
        fix: What to do instead of leaving it out.

    Raises:
        ConfigError: For the first of them that is not at its default.
    """
    for name in changed(section, names):
        raise ConfigError(
            f"it is {show(getattr(section, name)).rpartition(' (')[0] or 'unset'} and has no effect, for {why}",
            where=f"{prefix}.{name}",
            fix=f"leave it out{', or ' if fix else ''}{fix}",
        )


def all_but(section: BaseModel, used: Iterable[str]) -> list[str]:
    """A section's settings without those that are used, and without its `name`.

    Args:
        section: The settings.
        used: Those that have an effect.

    Returns:
        The names of the others.
    """
    return [name for name in type(section).model_fields if name not in {*used, "name"}]
