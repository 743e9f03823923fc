"""Clients set aside: they take no part in training, and show what a newcomer is worth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from fedgmi.data.scenarios.truth import Scenario
from fedgmi.errors import ConfigError
from fedgmi.randomness import numpy_generator

T = TypeVar("T")


def set_aside(scenario: Scenario, fraction: float, seed: int) -> tuple[Scenario, Scenario | None]:
    """Set aside ⌈fraction·N⌉ clients, drawn by the seed.

    Args:
        scenario: All clients.
        fraction: The share of clients to set aside.
        seed: The run's.

    Returns:
        The scenario without these clients, and one with these clients alone, or None for a fraction of 0.

    Raises:
        ConfigError: Where no client would be left to train.
    """
    n_clients = len(scenario.federation.clients)
    if fraction == 0:
        return scenario, None
    n_unseen = math.ceil(fraction * n_clients - 1e-9)
    if n_unseen >= n_clients:
        raise ConfigError(
            f"setting {n_unseen} of {n_clients} clients aside leaves none to train",
            where="evaluation.unseen_clients",
            fix="choose a smaller fraction",
        )
    drawn = numpy_generator(seed, "unseen clients").choice(n_clients, n_unseen, replace=False)
    unseen = sorted(int(i) for i in drawn)
    seen = [i for i in range(n_clients) if i not in unseen]
    return only(scenario, seen), only(scenario, unseen)


def only(scenario: Scenario, ids: Sequence[int]) -> Scenario:
    """The scenario with some of its clients alone.

    Args:
        scenario: All clients.
        ids: Which of them to keep, by index.

    Returns:
        These clients in the order of `ids`. The pure rows of components stay.
    """

    def pick(items: tuple[T, ...]) -> tuple[T, ...]:
        return tuple(items[i] for i in ids) if items else items

    old, truth = scenario.federation, scenario.truth
    federation = replace(old, clients=pick(old.clients), validation=pick(old.validation), held_out=pick(old.held_out))
    if truth is None:
        return Scenario(federation)
    kept = replace(
        truth,
        drawn=truth.drawn[list(ids)],
        components=pick(truth.components),
        held_out_components=pick(truth.held_out_components),
    )
    return Scenario(federation, kept)
