"""Densities by name. To add one: a file with a function (settings, schema) → Density, and a line in DENSITIES."""

from __future__ import annotations

from collections.abc import Callable

from fedgmi.data.rows import Schema
from fedgmi.errors import unknown
from fedgmi.models.densities.gaussian import gaussian
from fedgmi.models.densities.vae import vae
from fedgmi.models.density import Density
from fedgmi.models.own import Own, own_density
from fedgmi.plugins import Table, function_of_two
from fedgmi.settings.run import DensitySettings

Maker = Callable[[DensitySettings, Schema], Density]
DENSITIES: Table[Maker] = Table("density", "densities", {"vae": vae, "gaussian": gaussian}, function_of_two)

__all__ = ["DENSITIES", "Density", "make_density"]


def make_density(settings: DensitySettings, schema: Schema, own: Own = None) -> Density:
    """The density that the settings name, for rows of this schema, or one of the user's own.

    Args:
        settings: `density.*`.
        schema: Of the rows.
        own: A module, a function that makes one, or one that makes a `Density`; None: the one that is named.

    Returns:
        The density.

    Raises:
        ConfigError: No density has that name, or its settings do not suit such rows.
        UserError: The module cannot be used.
    """
    if own is not None:
        return own_density(own, settings, schema)
    if settings.name not in DENSITIES:
        raise unknown("density", settings.name, DENSITIES, "density.name")
    return DENSITIES[settings.name](settings, schema)
