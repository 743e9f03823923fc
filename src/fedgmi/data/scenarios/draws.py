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
    """The rows that one client asks for: component [n] and stratum [n] (the label, where components have their own)."""

    component: Index
    stratum: Index

    def __len__(self) -> int:
        return len(self.component)


def client_names(n: int) -> list[str]:
    """Names that sort as they count.

    >>> client_names(2)
    ['client-00', 'client-01']
    """
    width = max(2, len(str(n - 1)))
    return [f"client-{i:0{width}d}" for i in range(n)]


def client_sizes(scenario: ScenarioSettings, seed: int) -> list[int]:
    """Training rows per client: n_i = rows · r^(u_i − 1/2), u_1..u_N evenly spaced on [0, 1] in a seeded order.

    r = size_ratio is the factor between the largest and the smallest.

    >>> sorted(client_sizes(ScenarioSettings(n_clients=3, rows_per_client=100, size_ratio=100), seed=0))
    [10, 100, 1000]
    """
    n = scenario.n_clients
    u = np.linspace(0, 1, n) if n > 1 else np.array([0.5])
    sizes = scenario.rows_per_client * scenario.size_ratio ** (numpy_generator(seed, "sizes").permutation(u) - 0.5)
    return [max(1, round(float(size))) for size in sizes]


def rows_wanted(scenario: ScenarioSettings, seed: int) -> dict[str, list[int]]:
    """Rows per client and purpose: n_i to train on, max(20, n_i/10) for validation, max(50, n_i/5) held out.

    `held_out_rows`, where set, is the number of held-out rows of every client.
    """
    sizes = client_sizes(scenario, seed)
    return {
        "training": sizes,
        "validation": [max(20, n // 10) for n in sizes],
        "held-out": [scenario.held_out_rows or max(50, n // 5) for n in sizes],
    }


def draw_proportions(scenario: ScenarioSettings, n_components: int, seed: int) -> Proportions:
    """[C, K] π_i ~ Dirichlet(α, …, α), each client by itself: π_3 does not depend on how many clients follow."""
    alpha = np.full(n_components, scenario.alpha)
    return np.stack([numpy_generator(seed, "proportions", i).dirichlet(alpha) for i in range(scenario.n_clients)])


def draw_requests(
    purpose: str, sizes: Sequence[int], proportions: Proportions, labels: LabelSets | None, seed: int
) -> list[Request]:
    """For every row its component k ~ π_i, and its label, uniform over the component's own where it has some."""
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
    """[S] how many rows of each stratum all clients together ask for."""
    total = np.zeros(n_strata, dtype=np.int64)
    for request in requests:
        total += np.bincount(request.stratum, minlength=n_strata)
    return total
