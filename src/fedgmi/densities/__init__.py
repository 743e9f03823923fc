"""Densities by name. Adding one: a file with a function (settings, schema) → Density, and a line here."""

from __future__ import annotations

from collections.abc import Callable

from fedgmi.config import DensitySettings
from fedgmi.data.federation import Schema
from fedgmi.densities.base import Density
from fedgmi.densities.gaussian import gaussian
from fedgmi.densities.vae import vae
from fedgmi.errors import unknown

DENSITIES: dict[str, Callable[[DensitySettings, Schema], Density]] = {"vae": vae, "gaussian": gaussian}

__all__ = ["DENSITIES", "Density", "make_density"]


def make_density(settings: DensitySettings, schema: Schema) -> Density:
    """The density that the settings name, for rows of this schema."""
    if settings.name not in DENSITIES:
        raise unknown("density", settings.name, DENSITIES, "density.name")
    return DENSITIES[settings.name](settings, schema)
