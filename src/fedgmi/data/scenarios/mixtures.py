"""Scenarios that make clients out of a data set's rows: by what is done to pictures, and by labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from fedgmi.data.federation import Federation
from fedgmi.data.rows import Client
from fedgmi.data.scenarios.mixing import Batch, Components, by_component, mix, unchanged
from fedgmi.data.scenarios.transforms import at_most, label_permutations, label_sets, rotate
from fedgmi.data.scenarios.truth import Scenario
from fedgmi.data.sources.sources import Source, load_source
from fedgmi.errors import DataError
from fedgmi.randomness import generator
from fedgmi.settings.run import DataSettings, ScenarioSettings

NOISE = 0.3
"""The deviation of the noise in the domain of noisy pictures, where pixels are in [0, 1]."""


def rotation(data: DataSettings, scenario: ScenarioSettings, seed: int) -> Scenario:
    """P_i = Σ_k π_ik · p(R_k⁻¹x, y): component k turns pictures by 90°·k.

    Args:
        data: The section `data`.
        scenario: The section `scenario`.
        seed: The run's.

    Returns:
        The federation and the truth about it.

    Raises:
        ConfigError: For more than four components.
        DataError: For rows that are not square pictures, and for too few of them.
    """
    at_most(4, scenario, "a picture has four quarter turns")
    source = _square_images(load_source(data), scenario)
    return mix(source, scenario, seed, Components(scenario.n_components, _quarter_turns))


def _quarter_turns(batch: Batch) -> tuple[Tensor, Tensor | None]:
    return by_component(batch, lambda x, k: torch.rot90(x, k, dims=(-2, -1))), batch.y


def labels(data: DataSettings, scenario: ScenarioSettings, seed: int) -> Scenario:
    """P_i = Σ_k π_ik · (1/L)·Σ_{y ∈ Y_k} p(x | y): component k has L of the labels, uniformly. Neighbours overlap.

    Args:
        data: The section `data`.
        scenario: The section `scenario`.
        seed: The run's.

    Returns:
        The federation and the truth about it.

    Raises:
        ConfigError: For labels that cannot be divided so; see `label_sets`.
        DataError: For data without labels, and for too few rows.
    """
    source = _labelled(load_source(data), scenario)
    sets = label_sets(source.schema.n_classes, scenario)
    return mix(source, scenario, seed, Components(scenario.n_components, unchanged, sets))


def label_swap(data: DataSettings, scenario: ScenarioSettings, seed: int) -> Scenario:
    """P_i = p(x) · Σ_k π_ik · p(σ_k⁻¹(y) | x): x is the same everywhere, and component k renames the labels by σ_k.

    Args:
        data: The section `data`.
        scenario: The section `scenario`.
        seed: The run's.

    Returns:
        The federation and the truth about it.

    Raises:
        ConfigError: For more components than labels.
        DataError: For data without labels, and for too few rows.
    """
    source = _labelled(load_source(data), scenario)
    table = label_permutations(source.schema.n_classes, scenario, seed)

    def swap(batch: Batch) -> tuple[Tensor, Tensor | None]:
        return batch.x, None if batch.y is None else table[batch.component, batch.y]

    return mix(source, scenario, seed, Components(scenario.n_components, swap))


def domain(data: DataSettings, scenario: ScenarioSettings, seed: int) -> Scenario:
    """P_i = Σ_k π_ik · p_k, with p_0 plain pictures, p_1 inverted (1 − x), p_2 noisy (x + 0.3·ε, cut to [0, 1]).

    Args:
        data: The section `data`.
        scenario: The section `scenario`.
        seed: The run's.

    Returns:
        The federation and the truth about it.

    Raises:
        ConfigError: For more than three components.
        DataError: For rows that are not pictures, and for too few of them.
    """
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
    """P_i = p(R_i⁻¹x, y): client i of N turns its pictures by 360°·i/N. No mixture of a few components fits.

    Args:
        data: The section `data`.
        scenario: The section `scenario`.
        seed: The run's.

    Returns:
        The federation. There is no truth about components.

    Raises:
        DataError: For rows that are not square pictures, and for too few of them.
    """
    source = _square_images(load_source(data), scenario)
    whole = mix(source, scenario.model_copy(update={"n_components": 1}), seed, Components(1, unchanged)).federation
    return Scenario(_each(whole, lambda i, c: replace(c, x=rotate(c.x, 360 * i / len(whole.clients)))))


def mixed(data: DataSettings, scenario: ScenarioSettings, seed: int) -> Scenario:
    """`rotation` for two thirds of the clients; the last third of them, n, turn their pictures by 360°·(j + ½)/n.

    Args:
        data: The section `data`.
        scenario: The section `scenario`.
        seed: The run's.

    Returns:
        The federation. There is no truth about components: a third of the clients is no mixture of them.

    Raises:
        ConfigError: For more than four components.
        DataError: For rows that are not square pictures, and for too few of them.
    """
    mixture = rotation(data, scenario, seed).federation
    source = _square_images(load_source(data), scenario)
    plain = mix(source, scenario, seed, Components(scenario.n_components, unchanged)).federation  # the same rows
    first = len(plain.clients) - len(plain.clients) // 3
    step = 360 / max(1, len(plain.clients) - first)

    def own(i: int, client: Client) -> Client:
        return replace(client, x=rotate(client.x, step * (i - first + 0.5)))

    turned = _each(plain, own)
    return Scenario(
        replace(
            mixture,
            clients=mixture.clients[:first] + turned.clients[first:],
            validation=mixture.validation[:first] + turned.validation[first:],
            held_out=mixture.held_out[:first] + turned.held_out[first:],
        )
    )


def _each(federation: Federation, change: Callable[[int, Client], Client]) -> Federation:
    """The federation with every client's rows changed: (its number, the client) → the client."""

    def all_of(clients: tuple[Client, ...]) -> tuple[Client, ...]:
        return tuple(change(i, client) for i, client in enumerate(clients))

    return replace(
        federation,
        clients=all_of(federation.clients),
        validation=all_of(federation.validation),
        held_out=all_of(federation.held_out),
    )


def _images(source: Source, scenario: ScenarioSettings) -> Source:
    if source.schema.kind != "image":
        raise DataError(
            f"{scenario.name} needs pictures, but this is a table",
            where=f"data.path {source.name!r}",
            fix="use the labels, label-swap or by-column scenario, or data with pictures",
        )
    return source


def _square_images(source: Source, scenario: ScenarioSettings) -> Source:
    height, width = _images(source, scenario).schema.shape[-2:]
    if height != width:
        raise DataError(
            f"{scenario.name} needs square pictures, but these are {height}×{width}",
            where=f"data.path {source.name!r}",
            fix=f"set data.size = {min(height, width)}",
        )
    return source


def _labelled(source: Source, scenario: ScenarioSettings) -> Source:
    if source.train.y is None or source.schema.n_classes < 2:
        task = source.schema.task
        classes = "name the column with data.label_column"
        raise DataError(
            f"{scenario.name} needs labels of at least two classes",
            where=f"data.path {source.name!r}",
            fix=classes if task == "classification" else f"{task} has none: choose rotation, domain or by-column",
        )
    return source
