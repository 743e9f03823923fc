"""Data: sources, scenarios, and the federation that they make.

The names are imported when first asked for: a site that has rows of its own needs no scenarios.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedgmi.data.federation import Federation as Federation
    from fedgmi.data.federation import check_federation as check_federation
    from fedgmi.data.rows import Client as Client
    from fedgmi.data.rows import Rows as Rows
    from fedgmi.data.rows import Schema as Schema
    from fedgmi.data.rows import pack as pack
    from fedgmi.data.scenarios.gaussian import gaussian_components as gaussian_components
    from fedgmi.data.scenarios.scenarios import SCENARIOS as SCENARIOS
    from fedgmi.data.scenarios.scenarios import ScenarioSpec as ScenarioSpec
    from fedgmi.data.scenarios.scenarios import build_scenario as build_scenario
    from fedgmi.data.scenarios.scenarios import wants_scale as wants_scale
    from fedgmi.data.scenarios.truth import Scenario as Scenario
    from fedgmi.data.scenarios.truth import Truth as Truth
    from fedgmi.data.sources.sources import Source as Source
    from fedgmi.data.sources.sources import Split as Split
    from fedgmi.data.sources.sources import load_source as load_source
    from fedgmi.data.standardise import Standardisation as Standardisation

EXPORTS = {
    "federation": ("Federation", "check_federation"),
    "rows": ("Client", "Rows", "Schema", "pack"),
    "scenarios.gaussian": ("gaussian_components",),
    "scenarios.scenarios": ("SCENARIOS", "ScenarioSpec", "build_scenario", "wants_scale"),
    "scenarios.truth": ("Scenario", "Truth"),
    "sources.sources": ("Source", "Split", "load_source"),
    "standardise": ("Standardisation",),
}
"""Where the package's names come from."""

__all__ = [
    "SCENARIOS",
    "Client",
    "Federation",
    "Rows",
    "Scenario",
    "ScenarioSpec",
    "Schema",
    "Source",
    "Split",
    "Standardisation",
    "Truth",
    "build_scenario",
    "check_federation",
    "gaussian_components",
    "load_source",
    "pack",
    "wants_scale",
]


def __getattr__(name: str) -> Any:
    file = next((file for file, names in EXPORTS.items() if name in names), None)
    if file is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{file}"), name)
