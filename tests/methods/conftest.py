"""Every method of the tables, each of fedgmi's presets by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from federations import make_task
from fedgmi.data import Scenario
from fedgmi.methods import BOUNDS, METHODS, Entry, Method, Task

PRESETS = ("default", "plain", "sketch")
CASES = {name: (name, "default", "trunk") for name in (*METHODS, *BOUNDS) if name != "fedgmi"}
CASES |= {f"fedgmi-{preset}": ("fedgmi", preset, "trunk") for preset in PRESETS}
CASES |= {"fedgmi-apart": ("fedgmi", "default", "none")}  # experts that share no layers


@dataclass(frozen=True)
class Case:
    """One entry of the tables."""

    name: str
    preset: str
    shared: Literal["trunk", "none"]
    make: Entry[Any]

    def task(self, scenario: Scenario, n_components: int = 3, **settings: Any) -> Task:
        own = {"preset": self.preset} if self.name in ("fedgmi", "oracle") else {}
        schema = scenario.federation.schema
        return make_task(schema, n_components, method=self.name, shared=self.shared, **(own | settings))

    def method(self, scenario: Scenario, n_components: int = 3, **settings: Any) -> Method:
        return self.make(self.task(scenario, n_components, **settings))


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request: pytest.FixtureRequest) -> Case:
    name, preset, shared = request.param
    return Case(name, preset, shared, (METHODS | BOUNDS)[name])
