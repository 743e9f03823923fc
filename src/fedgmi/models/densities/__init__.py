"""Densities by name. To add one: a file with a function (settings, schema) → Density, and a line in DENSITIES."""

from __future__ import annotations

from collections.abc import Callable

from fedgmi.data.rows import Schema
from fedgmi.errors import unknown
from fedgmi.models.densities.gaussian import gaussian
from fedgmi.models.densities.vae import vae
from fedgmi.models.density import Density
from fedgmi.plugins import Table, function_of_two
from fedgmi.settings.run import DensitySettings

Maker = Callable[[DensitySettings, Schema], Density]
DENSITIES: Table[Maker] = Table("density", "densities", {"vae": vae, "gaussian": gaussian}, function_of_two)

__all__ = ["DENSITIES", "Density", "make_density"]


def make_density(settings: DensitySettings, schema: Schema) -> Density:
    """The density that the settings name, for rows of this schema.

    Args:
        settings: `density.*`.
        schema: Of the rows.

    Returns:
        The density.

    Raises:
        ConfigError: No density has that name, or its settings do not suit such rows.
    """
    if settings.name not in DENSITIES:
        raise unknown("density", settings.name, DENSITIES, "density.name")
    return DENSITIES[settings.name](settings, schema)
