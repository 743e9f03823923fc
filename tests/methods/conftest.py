"""Every method of the tables, each of fedgmi's presets by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from federations import make_task
from fedgmi.data import Scenario
from fedgmi.methods import BOUNDS, METHODS, Method, Task

PRESETS = ("default", "plain", "sketch")
CASES = [(name, "default") for name in METHODS if name != "fedgmi"]
CASES += [("fedgmi", preset) for preset in PRESETS] + [(name, "default") for name in BOUNDS]


@dataclass(frozen=True)
class Case:
    """One entry of the tables."""

    name: str
    preset: str
    make: Callable[[Task], Method]

    def task(self, scenario: Scenario, n_components: int = 3, **settings: Any) -> Task:
        return make_task(scenario.federation.schema, n_components, preset=self.preset, **settings)

    def method(self, scenario: Scenario, n_components: int = 3, **settings: Any) -> Method:
        return self.make(self.task(scenario, n_components, **settings))


@pytest.fixture(params=CASES, ids=[name if name != "fedgmi" else f"{name}-{preset}" for name, preset in CASES])
def case(request: pytest.FixtureRequest) -> Case:
    name, preset = request.param
    return Case(name, preset, (METHODS | BOUNDS)[name])
