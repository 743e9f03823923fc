"""Small federations, tasks for them, and a run from the first exchange to the last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from fedgmi.data.federation import Federation
from fedgmi.data.rows import Client, Rows, Schema, pack
from fedgmi.data.scenarios.scenarios import build_scenario
from fedgmi.data.scenarios.truth import Scenario
from fedgmi.methods import BOUNDS, METHODS, Method, Predictor, Task
from fedgmi.methods.standardising import prepared
from fedgmi.models.densities import make_density
from fedgmi.models.experts import make_expert
from fedgmi.protocol.in_process import InProcess
from fedgmi.protocol.losses import Losses
from fedgmi.protocol.rounds import Progress, run_rounds
from fedgmi.protocol.step import Program, check_program
from fedgmi.settings.run import DataSettings, DensitySettings, ExpertSettings, ScenarioSettings
from fedgmi.settings.run import TrainingSettings as Training
from fedgmi.tree import Tree

SMALL: dict[str, dict[str, Any]] = {
    "fedgmi": {"codewords": 5, "kmeans_rounds": 3, "calibration_steps": 2, "judge_turns": 2, "warm_up_rounds": 1},
    "flhc": {"joint_rounds": 1},
    "flux": {"joint_rounds": 1, "reach": 0.5},
}
"""Settings by method, for few exchanges."""
BY_CLASS = ("knn-per", "flux")
"""Methods that count by class, and refuse other tasks."""
FEW: dict[str, Any] = {"hidden": 8, "latent": 2, "likelihood": "gaussian"}
"""Of a small VAE."""
SMALL_DENSITIES: dict[str, DensitySettings] = {
    "vae": DensitySettings(**FEW),
    "vaes apart": DensitySettings(shared="none", **FEW),
}
"""By name."""


def rows_of(counts: Sequence[int], x: Tensor | None = None) -> Rows:
    """Rows of clients of these sizes, without labels."""
    x = torch.zeros(sum(counts), 1) if x is None else x
    return pack([Client(str(i), part) for i, part in enumerate(x.split(list(counts)))])


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dirichlet(n_clients: int, n_components: int, alpha: float = 1.0, seed: int = 0) -> Tensor:
    """Proportions [C, K] float64, by gamma draws."""
    concentration = torch.full((n_clients, n_components), alpha, dtype=torch.float64)
    gamma = torch._standard_gamma(concentration, generator=draw(seed)).clamp(min=1e-9)
    return gamma / gamma.sum(1, keepdim=True)


def gaussian_scenario(n_clients: int = 6, rows: int = 20, seed: int = 0, **settings: Any) -> Scenario:
    """Gaussian components with linear labels; D = 8 features, K = 3."""
    settings = {"name": "gaussian", "n_clients": n_clients, "rows_per_client": rows} | settings
    return build_scenario(DataSettings(), ScenarioSettings(**settings), seed)


def without_labels(scenario: Scenario) -> Scenario:
    """The same rows, and nobody has labels."""

    def strip(clients: Sequence[Client]) -> tuple[Client, ...]:
        return tuple(replace(client, y=None) for client in clients)

    old = scenario.federation
    schema = replace(old.schema, n_classes=0, classes=())
    federation = Federation(schema, strip(old.clients), strip(old.validation), strip(old.held_out))
    assert scenario.truth is not None
    return Scenario(federation, replace(scenario.truth, pure=strip(scenario.truth.pure)))


def make_task(
    schema: Schema,
    n_components: int = 3,
    *,
    method: str = "fedgmi",
    density: str = "vae",
    shared: Literal["trunk", "none"] = "trunk",
    seed: int = 0,
    **settings: Any,
) -> Task:
    """A task of small models for a method of the table, or the oracle; `settings` are the method's own."""
    kind = (METHODS | BOUNDS)[method].settings
    own = SMALL.get(str(kind.model_fields["name"].default), {})
    return Task(
        schema=schema,
        n_components=n_components,
        density=make_density(SMALL_DENSITIES.get(density) or DensitySettings(name=density), schema),
        expert=make_expert(ExpertSettings(hidden=8, shared=shared), schema),
        training=Training(epochs=1, batch_size=10),
        settings=kind.model_validate(own | settings),
        lr=1e-2,
        seed=seed,
    )


def transport_for(method: Method, scenario: Scenario, losses: Losses | None = None) -> InProcess:
    """The in-process transport; the oracle's carries the truth."""
    truth = scenario.truth.components if method.name == "oracle" and scenario.truth is not None else None
    rows = scenario.federation
    return InProcess(rows.clients, method.program, components=truth, validation=rows.validation, losses=losses)


def run(
    method: Method,
    scenario: Scenario,
    *,
    rounds: int = 2,
    participation: float = 1.0,
    seed: int = 0,
    transport: InProcess | None = None,
) -> tuple[Tree, Tree, Progress]:
    """All phases of a method → server state, client states, and where it ended."""
    transport = transport or transport_for(method, scenario)
    end = run_rounds(
        method.name,
        method.program,
        transport,
        Progress(method.program.init()),
        n_clients=len(scenario.federation.clients),
        rounds=rounds,
        participation=participation,
        seed=seed,
    )
    return end.server, transport.states, end


def payload(
    method: Method, scenario: Scenario, rounds: int = 3, participation: float = 1.0
) -> dict[str, tuple[int, int]]:
    """Bytes down and up by kind, without headers and other statistics."""
    transport = transport_for(method, scenario)
    run(method, scenario, rounds=rounds, participation=participation, transport=transport)
    return {kind: both for kind, both in transport.ledger.by_kind().items() if kind != "statistics"}


def bare_method(name: str, predict: Any = None, *, metrics: Any = None, **parts: Any) -> Method:
    """A method made by hand: `parts` are of its program, or of its predictor."""
    of_program = {field.name for field in fields(Program)}
    program = Program(**{"init": dict, "client_init": lambda ids: {}, "round": ()} | {
        key: value for key, value in parts.items() if key in of_program
    })  # fmt: skip
    predict = predict or (lambda server, states, rows: rows.x)
    predictor = Predictor(predict, **{key: value for key, value in parts.items() if key not in of_program})
    return Method(name, program, predictor, **({"metrics": metrics} if metrics else {}))


def with_predictor(method: Method, **changes: Any) -> Method:
    """The method with other functions of its predictor."""
    return replace(method, predictor=replace(method.predictor, **changes))


def with_program(method: Method, **changes: Any) -> Method:
    """The method with other parts of its program."""
    return replace(method, program=replace(method.program, **changes))


def run_on_one_scale(name: str, federation: Federation) -> tuple[Method, Tree, Tree]:
    """Two rounds of a method with two components, targets and features on one scale → (method, server, states)."""
    schema = federation.schema
    task = make_task(schema, 2, method=name, density="gaussian" if name == "fedgmi" else "vae")
    method = prepared(METHODS[name](task), schema, standardise=True)
    check_program(method.name, method.program, method.program.init())
    server, states, _ = run(method, Scenario(federation), rounds=2)
    return method, server, states
