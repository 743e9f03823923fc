"""Densities by name. Adding one: a file with a function (settings, schema) → Density, and a line here."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches

from fedgmi.config import DensitySettings
from fedgmi.data.federation import Schema
from fedgmi.densities.base import Density
from fedgmi.densities.gaussian import gaussian
from fedgmi.densities.vae import vae
from fedgmi.errors import ConfigError

DENSITIES: dict[str, Callable[[DensitySettings, Schema], Density]] = {"vae": vae, "gaussian": gaussian}

__all__ = ["DENSITIES", "Density", "make_density"]


def make_density(settings: DensitySettings, schema: Schema) -> Density:
    """The density that the settings name, for rows of this schema."""
    if settings.name not in DENSITIES:
        nearest = get_close_matches(settings.name, DENSITIES, n=1, cutoff=0.0)[0]
        raise ConfigError(
            f"no density is called {settings.name!r}; there are {', '.join(DENSITIES)}",
            where="density.name",
            fix=f"write {nearest!r}",
        )
    return DENSITIES[settings.name](settings, schema)
