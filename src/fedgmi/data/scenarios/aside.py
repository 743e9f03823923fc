"""Rows for validation where a federation came without any, and a method chooses by such rows."""

from __future__ import annotations

from dataclasses import replace

import torch

from fedgmi.data.scenarios.truth import Scenario
from fedgmi.data.split import drawn, rows_of

SHARE = 0.2
"""Of each client's rows."""
FEWEST = 5
"""A client with fewer rows keeps them all for training."""


def fifth_aside(scenario: Scenario, seed: int) -> Scenario:
    """A fifth of every client's training rows becomes rows for validation.

    Args:
        scenario: Its federation has no rows for validation.
        seed: Of the draw, client by client.

    Returns:
        The scenario with rows for validation; as it was where no client has five rows.
    """
    federation, truth = scenario.federation, scenario.truth
    places = [drawn(client, SHARE, seed, "set aside", fewest=FEWEST) for client in federation.clients]
    if not any(len(taken) for _, taken in places):
        return scenario
    both = list(zip(federation.clients, places, strict=True))
    changed = replace(
        federation,
        clients=tuple(rows_of(client, stay) for client, (stay, _) in both),
        validation=tuple(rows_of(client, taken) for client, (_, taken) in both),
    )
    if truth is not None:
        kept = (z[torch.as_tensor(stay)] for z, (stay, _) in zip(truth.components, places, strict=True))
        truth = replace(truth, components=tuple(kept))
    return Scenario(changed, truth)
