"""Every method of the tables, with each preset of fedgmi and each start of IFCA by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, NamedTuple

import pytest

from federations import gaussian_scenario, make_task, run
from fedgmi.data.scenarios.truth import Scenario
from fedgmi.methods import BOUNDS, METHODS, Entry, Method, Task
from fedgmi.tree import Tree


@dataclass(frozen=True)
class Case:
    """One entry of the tables, with some of its settings."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    shared: Literal["trunk", "none"] = "trunk"

    @property
    def make(self) -> Entry[Any]:
        return (METHODS | BOUNDS)[self.name]

    def task(self, scenario: Scenario, n_components: int = 3, **settings: Any) -> Task:
        schema = scenario.federation.schema
        return make_task(schema, n_components, method=self.name, shared=self.shared, **(self.settings | settings))

    def method(self, scenario: Scenario, n_components: int = 3, **settings: Any) -> Method:
        return self.make(self.task(scenario, n_components, **settings))


class Trained(NamedTuple):
    """A method after two rounds with the small federation, for tests that only read it."""

    method: Method
    server: Tree
    states: Tree


TRUNKS = ("ifca", "fedsoft", "fedem", "fedgmm", "cfl", "flhc", "bcfl", "flux")
CASES = {name: Case(name) for name in (*METHODS, *BOUNDS) if name != "fedgmi"}
CASES |= {f"fedgmi-{preset}": Case("fedgmi", {"preset": preset}) for preset in ("default", "plain", "sketch")}
CASES |= {"fedgmi-closed": Case("fedgmi", {"judges": "closed", "judge_turns": 4})}
CASES |= {"fedgmi-apart": Case("fedgmi", {"preset": "default"}, "none")}  # experts that share no layers
CASES |= {"fedgmi-vaes": Case("fedgmi", {"density": "vaes apart", "judges": "density"})}
CASES |= {f"ifca-{start}": Case("ifca", {"init": start, "draws": 3}) for start in ("balanced", "farthest")}
CASES |= {f"{name}-trunk": Case(name, {"shared_trunk": True}) for name in TRUNKS}
CASES |= {"ifca-warm": Case("ifca", {"warm_rounds": 1})}


@pytest.fixture(params=CASES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def case(name: str) -> Case:
    return CASES[name]


@pytest.fixture(scope="session")
def runs() -> Callable[[str], Trained]:
    """A case's run, made once."""

    @cache
    def made(name: str) -> Trained:
        scenario = gaussian_scenario()
        method = CASES[name].method(scenario)
        server, states, _ = run(method, scenario)
        return Trained(method, server, states)

    return made


@pytest.fixture
def trained(name: str, runs: Callable[[str], Trained]) -> Trained:
    """The case's method after two rounds. A test changes nothing of it."""
    return runs(name)
