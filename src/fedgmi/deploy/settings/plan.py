"""What the coordinator's plan for a budget may change of the settings that all have agreed on."""

from __future__ import annotations

from pydantic import ValidationError

from fedgmi.deploy.settings.federation import FederationSettings
from fedgmi.errors import ConfigError
from fedgmi.settings.base import Section
from fedgmi.settings.effects import changed

CHOSEN = {"communication.precision", "communication.top", "method.reference_rounds", "method.judge_turns"}
"""What a plan may choose; see `runs.budget`."""


def planned(federation: FederationSettings, chosen: object) -> FederationSettings:
    """The settings with what the coordinator's plan has chosen, within the budget that all have agreed on.

    Args:
        federation: The settings that all have agreed on.
        chosen: Values by the names of settings, as a request has them; None: nothing was chosen.

    Returns:
        The settings.

    Raises:
        ConfigError: Where there is no budget, for settings that no plan chooses, for those that federation.toml
            sets itself, and for values that cannot be.
    """
    if chosen is None or chosen == {}:
        return federation
    if not isinstance(chosen, dict) or not chosen.keys() <= CHOSEN or not federation.communication.limited:
        raise _wrong_plan("would change other settings than a budget's")
    table = federation.model_dump()
    for key, value in chosen.items():
        section, _, inner = key.partition(".")
        _check_choice(getattr(federation, section), section, inner, value)
        table[section][inner] = value
    try:
        planned = FederationSettings.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise _wrong_plan(f"has {where} = {first['input']!r:.40}: {first['msg']}") from error
    planned.setup()  # which checks those that depend on one another
    return planned


def _check_choice(own: Section, section: str, name: str, value: object) -> None:
    """Refuse a choice that no plan makes, or that federation.toml has made."""
    from fedgmi.runs.budget.ladder import RUNGS  # where there is no budget, sites do without

    said = f"{section}.{name}"
    if isinstance(value, bool) or name not in type(own).model_fields:
        raise _wrong_plan(f"has {said} = {value!r:.40}, which no plan chooses")
    if changed(own, [name]) and value != getattr(own, name):
        raise _wrong_plan(f"would change {said}, which federation.toml sets to {getattr(own, name)!r}")
    if section == "method" and (not isinstance(value, int) or value > getattr(own, name)):
        raise _wrong_plan(
            f"has {said} = {value!r:.40}, and federation.toml {getattr(own, name)}: a plan only lowers it"
        )
    if section == "communication" and value not in [getattr(rung, name) for rung in RUNGS]:
        raise _wrong_plan(f"has {said} = {value!r:.40}, which no plan chooses")


def _wrong_plan(what: str) -> ConfigError:
    """A plan that cannot be."""
    fix = "ask the coordinator; both sides need the same fedgmi and federation.toml"
    return ConfigError(f"the coordinator's plan {what}", where="federation.toml", fix=fix)
