"""Data: sources, scenarios, and the federation that they make."""

from fedgmi.data.federation import Federation, check_federation
from fedgmi.data.rows import Client, Rows, Schema, pack
from fedgmi.data.scenarios.gaussian import gaussian_components
from fedgmi.data.scenarios.scenarios import SCENARIOS, ScenarioSpec, build_scenario, wants_scale
from fedgmi.data.scenarios.truth import Scenario, Truth
from fedgmi.data.sources.sources import Source, Split, load_source
from fedgmi.data.standardise import Standardisation

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
