"""What each client asks for: how many rows, and from which component and label each row is to come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedgmi.randomness import numpy_generator
from fedgmi.settings.run import ScenarioSettings

Index = npt.NDArray[np.int64]
Proportions = npt.NDArray[np.float64]
LabelSets = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Request:
    """The rows that one client asks for.

    Attributes:
        component: The component of each row. [n]
        stratum: The label of each row where components have labels of their own, 0 otherwise. [n]
    """

    component: Index
    stratum: Index

    def __len__(self) -> int:
        return len(self.component)


def client_sizes(scenario: ScenarioSettings, seed: int) -> list[int]:
    """Draw how many training rows each client has: n_i = rows · r^(u_i − 1/2).

    The u_i are evenly spaced on [0, 1], in an order that follows from the seed. r is `size_ratio`, the factor between
    the largest and the smallest client.

    Args:
        scenario: The section `scenario`.
        seed: The run's.

    Returns:
        n_i of each client, 1 at least. [C]

    Examples:
        >>> sorted(client_sizes(ScenarioSettings(n_clients=3, rows_per_client=100, size_ratio=100), seed=0))
        [10, 100, 1000]
    """
    n = scenario.clients
    u = np.linspace(0, 1, n) if n > 1 else np.array([0.5])
    sizes = scenario.rows * scenario.size_ratio ** (numpy_generator(seed, "sizes").permutation(u) - 0.5)
    return [max(1, round(float(size))) for size in sizes]


def rows_wanted(scenario: ScenarioSettings, seed: int) -> dict[str, list[int]]:
    """How many rows each client is to have: n_i to train on, max(20, n_i/10) for validation, max(50, n_i/5) held out.

    Args:
        scenario: The section `scenario`. Its `held_out_rows`, where set, holds for every client.
        seed: The run's.

    Returns:
        Rows of each client [C] by purpose: "training", "validation" and "held-out".
    """
    sizes = client_sizes(scenario, seed)
    return {
        "training": sizes,
        "validation": [max(20, n // 10) for n in sizes],
        "held-out": [scenario.held_out_rows or max(50, n // 5) for n in sizes],
    }


def draw_proportions(scenario: ScenarioSettings, n_components: int, seed: int) -> Proportions:
    """Draw every client's proportions: π_i ~ Dirichlet(α, …, α), each by itself.

    Args:
        scenario: The section `scenario`.
        n_components: K.
        seed: The run's.

    Returns:
        The proportions. Those of a client do not depend on how many others follow. [C, K]
    """
    alpha = np.full(n_components, scenario.alpha)
    return np.stack([numpy_generator(seed, "proportions", i).dirichlet(alpha) for i in range(scenario.clients)])


def draw_requests(
    purpose: str, sizes: Sequence[int], proportions: Proportions, labels: LabelSets | None, seed: int
) -> list[Request]:
    """Draw every row's component, k ~ π_i, and its label where components have labels of their own.

    Args:
        purpose: "training", "validation" or "held-out".
        sizes: How many rows each client asks for. [C]
        proportions: π. [C, K]
        labels: Each component's labels, of which one is drawn uniformly, or None. [K, L]
        seed: The run's.

    Returns:
        One request a client. [C]
    """
    requests = []
    for i, (n, pi) in enumerate(zip(sizes, proportions, strict=True)):
        component = numpy_generator(seed, "component", purpose, i).choice(len(pi), size=n, p=pi).astype(np.int64)
        stratum = np.zeros(n, dtype=np.int64)
        if labels is not None:
            table = np.array(labels, dtype=np.int64)
            stratum = table[component, numpy_generator(seed, "label", purpose, i).integers(table.shape[1], size=n)]
        requests.append(Request(component, stratum))
    return requests


def count_strata(requests: Sequence[Request], n_strata: int) -> Index:
    """Count the rows that all clients together ask for.

    Args:
        requests: One a client. [C]
        n_strata: S.

    Returns:
        How many rows of each stratum. [S]
    """
    total = np.zeros(n_strata, dtype=np.int64)
    for request in requests:
        total += np.bincount(request.stratum, minlength=n_strata)
    return total
