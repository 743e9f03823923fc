"""Who holds which rows, and the truth about them: one function per scenario and one line in `SCENARIOS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedgmi.data.federation import Federation, check_federation
from fedgmi.data.rows import Client, Schema
from fedgmi.data.scenarios.gaussian import gaussian
from fedgmi.data.scenarios.mixing import Batch, Components, by_component, mix, unchanged
from fedgmi.data.scenarios.transforms import at_most, label_permutations, label_sets, rotate
from fedgmi.data.scenarios.truth import Scenario
from fedgmi.data.sources.by_column import split_by_column
from fedgmi.data.sources.sources import Source, load_source
from fedgmi.errors import ConfigError, DataError, unknown
from fedgmi.randomness import generator
from fedgmi.settings.run import DataSettings, ScenarioSettings

NOISE = 0.3


@dataclass(frozen=True)
class ScenarioSpec:
    """One scenario: a line about it, how it is built, and whether the components of rows are known.

    own_rows: it draws its rows itself, from densities known in the units that they have.
    """

    summary: str
    build: Callable[[DataSettings, ScenarioSettings, int], Scenario]
    has_truth: bool = True
    own_rows: bool = False


def build_scenario(data: DataSettings, scenario: ScenarioSettings, seed: int) -> Scenario:
    """The federation that the settings describe, checked, and the truth about it where there is one.

    >>> built = build_scenario(DataSettings(), ScenarioSettings(name="rotation", n_clients=4), seed=0)
    >>> built.federation.names, built.truth.drawn.shape
    (('client-00', 'client-01', 'client-02', 'client-03'), torch.Size([4, 3]))
    """
    if scenario.name not in SCENARIOS:
        raise unknown("scenario", scenario.name, SCENARIOS, "scenario.name")
    built = SCENARIOS[scenario.name].build(data, scenario, seed)
    check_federation(built.federation)
    return built


def wants_scale(data: DataSettings, scenario: ScenarioSettings, schema: Schema) -> bool:
    """Whether rows are to be standardised: as the settings say; "auto" does so for tables that a source gave.

    Raises:
        DataError: For pictures, which are in [0, 1] already.
    """
    if data.standardise == "auto":
        return schema.kind == "tabular" and not SCENARIOS[scenario.name].own_rows
    if data.standardise and schema.kind == "image":
        raise DataError(
            "pictures are in [0, 1] already", where="data.standardise", fix='leave it "auto", or set it to false'
        )
    return data.standardise


def rotation(data: DataSettings, scenario: ScenarioSettings, seed: int) -> Scenario:
    """P_i = Σ_k π_ik · p(R_k⁻¹x, y): component k turns pictures by 90°·k. At most four components."""
    at_most(4, scenario, "a picture has four quarter turns")
    source = _square_images(load_source(data), scenario)

    def turn(batch: Batch) -> tuple[Tensor, Tensor | None]:
        return by_component(batch, lambda x, k: torch.rot90(x, k, dims=(-2, -1))), batch.y

    return mix(source, scenario, seed, Components(scenario.n_components, turn))


def labels(data: DataSettings, scenario: ScenarioSettings, seed: int) -> Scenario:
    """P_i = Σ_k π_ik · (1/L)·Σ_{y ∈ Y_k} p(x | y): component k has L of the labels, uniformly; neighbours overlap."""
    source = _labelled(load_source(data), scenario)
    sets = label_sets(source.schema.n_classes, scenario)
    return mix(source, scenario, seed, Components(scenario.n_components, unchanged, sets))


def label_swap(data: DataSettings, scenario: ScenarioSettings, seed: int) -> Scenario:
    """P_i = p(x) · Σ_k π_ik · p(σ_k⁻¹(y) | x): the same x everywhere, component k renames the labels by σ_k."""
    source = _labelled(load_source(data), scenario)
    table = label_permutations(source.schema.n_classes, scenario, seed)

    def swap(batch: Batch) -> tuple[Tensor, Tensor | None]:
        return batch.x, None if batch.y is None else table[batch.component, batch.y]

    return mix(source, scenario, seed, Components(scenario.n_components, swap))


def domain(data: DataSettings, scenario: ScenarioSettings, seed: int) -> Scenario:
    """P_i = Σ_k π_ik · p_k, with p_0 plain pictures, p_1 inverted (1 − x), p_2 noisy (x + 0.3·ε, cut to [0, 1])."""
    at_most(3, scenario, "the domains are plain, inverted and noisy")
    source = _images(load_source(data), scenario)

    def change(batch: Batch) -> tuple[Tensor, Tensor | None]:
        x = by_component(batch, lambda x, k: 1 - x if k == 1 else x)
        for i in torch.nonzero(batch.component == 2).flatten().tolist():
            noise = torch.randn(x.shape[1:], generator=generator(seed, "noise", batch.split, int(batch.row[i])))
            x[i] = (x[i] + NOISE * noise).clamp(0, 1)
        return x, batch.y

    return mix(source, scenario, seed, Components(scenario.n_components, change))


def pathological(data: DataSettings, scenario: ScenarioSettings, seed: int) -> Scenario:
    """P_i = p(R_i⁻¹x, y): client i of N turns its pictures by 360°·i/N. No mixture of a few components fits."""
    source = _square_images(load_source(data), scenario)
    whole = mix(source, scenario.model_copy(update={"n_components": 1}), seed, Components(1, unchanged)).federation

    def turned(clients: tuple[Client, ...]) -> tuple[Client, ...]:
        return tuple(replace(c, x=rotate(c.x, 360 * i / len(clients))) for i, c in enumerate(clients))

    return Scenario(
        replace(
            whole, clients=turned(whole.clients), validation=turned(whole.validation), held_out=turned(whole.held_out)
        )
    )


def by_column(data: DataSettings, scenario: ScenarioSettings, seed: int) -> Scenario:
    """P_i = the rows whose `client_column` has the i-th value. Whether they are a mixture is for the data to say."""
    if scenario.client_column is None:
        raise ConfigError(
            "the by-column scenario needs to know whose row a row is",
            where="scenario.client_column",
            fix="set it to the column that says so, such as writer_id",
        )
    parts = split_by_column(
        load_source(data, extra_column=scenario.client_column),
        scenario.client_column,
        n_clients=scenario.n_clients,
        rows_per_client=scenario.rows_per_client,
        held_out_rows=scenario.held_out_rows,
        seed=seed,
    )
    return Scenario(Federation(*parts))


def _images(source: Source, scenario: ScenarioSettings) -> Source:
    if source.schema.kind != "image":
        raise DataError(
            f"{scenario.name} needs pictures, and these are tables",
            where=f"data.path {source.name!r}",
            fix="use the labels, label-swap or by-column scenario, or data with pictures",
        )
    return source


def _square_images(source: Source, scenario: ScenarioSettings) -> Source:
    height, width = _images(source, scenario).schema.shape[-2:]
    if height != width:
        raise DataError(
            f"{scenario.name} needs square pictures, and these are {height}×{width}",
            where=f"data.path {source.name!r}",
            fix=f"set data.size = {min(height, width)}",
        )
    return source


def _labelled(source: Source, scenario: ScenarioSettings) -> Source:
    if source.train.y is None or source.schema.n_classes < 2:
        raise DataError(
            f"{scenario.name} needs labels of at least two classes",
            where=f"data.path {source.name!r}",
            fix="name the column with data.label_column",
        )
    return source


SCENARIOS: dict[str, ScenarioSpec] = {
    "rotation": ScenarioSpec("pictures turned by 0, 90, 180 or 270 degrees", rotation),
    "labels": ScenarioSpec("each component has some of the labels; they overlap", labels),
    "label-swap": ScenarioSpec("the same rows, the labels renamed: only p(y | x) differs", label_swap),
    "domain": ScenarioSpec("plain, inverted and noisy pictures", domain),
    "gaussian": ScenarioSpec(
        "Gaussian rows with linear labels: every density in closed form; needs no data", gaussian, own_rows=True
    ),
    "pathological": ScenarioSpec("each client its own rotation: no mixture at all", pathological, has_truth=False),
    "by-column": ScenarioSpec("clients as a column of the data gives them", by_column, has_truth=False),
}
