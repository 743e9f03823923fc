"""The machinery that all mixtures share: P_i = Σ_k π_ik · p_k, with π_i drawn and every row's component known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedgmi.data.federation import Federation
from fedgmi.data.rows import Client, client_names
from fedgmi.data.scenarios.draws import (
    Index,
    LabelSets,
    count_strata,
    draw_proportions,
    draw_requests,
    rows_wanted,
)
from fedgmi.data.scenarios.pools import Pool, check_stocks, deal, make_pools
from fedgmi.data.scenarios.truth import Scenario, Truth
from fedgmi.data.sources.sources import Source
from fedgmi.settings.run import ScenarioSettings

PURE_ROWS = 1000
"""So many rows of each component alone are made for the evaluation, at most."""


@dataclass(frozen=True)
class Batch:
    """Rows on their way from the source to a client.

    Attributes:
        x: The features. [n, *shape]
        y: The labels, or None. [n]
        component: The component of each row. [n]
        row: Each row's place in the split. [n]
        split: "train" or "test".
    """

    x: Tensor
    y: Tensor | None
    component: Tensor
    row: Tensor
    split: str


Change = Callable[[Batch], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class Components:
    """What tells the components p_1..p_K apart.

    Attributes:
        n: K.
        change: What components do to the rows that are drawn for them. It returns the new x and y.
        labels: The labels that each component draws from, uniformly. [K, L] None where all draw from all rows.
    """

    n: int
    change: Change
    labels: LabelSets | None = None


def unchanged(batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Leave the rows as they are."""
    return batch.x, batch.y


def by_component(batch: Batch, change: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Change each component's rows together.

    Args:
        batch: Rows.
        change: (x of the rows of component k, k) → their new x.

    Returns:
        The new x of all rows. [n, *shape]
    """
    x = batch.x.clone()
    for k in sorted(set(batch.component.tolist())):
        rows = batch.component == k
        x[rows] = change(batch.x[rows], k)
    return x


def mix(source: Source, scenario: ScenarioSettings, seed: int, components: Components) -> Scenario:
    """Make clients whose rows come from a mixture of components, out of a data set's rows.

    Training rows: each row of the data set goes to one client at most.

    Validation and held-out rows: they come at the client's own π_i, from rows disjoint from those for training and from
    one another. Where there are too few for everybody, clients share them. No client gets a row twice for the same
    component, so a client may get fewer than it asks for.

    Pure rows: up to 1000 per component, from the held-out rows. Components that draw from all rows have the same ones.

    Args:
        source: The data set.
        scenario: The section `scenario`.
        seed: The run's.
        components: What tells the components apart.

    Returns:
        The federation and the truth about it.

    Raises:
        DataError: Where the data set has too few rows.
    """
    n_labels = 0 if components.labels is None else source.schema.n_classes
    used = [0] if components.labels is None else sorted({label for labels in components.labels for label in labels})
    drawn = draw_proportions(scenario, components.n, seed)
    wanted = rows_wanted(scenario, seed)
    requests = {p: draw_requests(p, sizes, drawn, components.labels, seed) for p, sizes in wanted.items()}
    totals = {purpose: count_strata(asked, max(n_labels, 1)) for purpose, asked in requests.items()}
    pools = make_pools(source, scenario, totals, n_labels, seed)
    check_stocks(pools, used, source, scenario)
    clients: dict[str, tuple[Client, ...]] = {}
    truths: dict[str, tuple[Tensor, ...]] = {}
    for purpose, asked in requests.items():
        pool = pools[purpose]
        made = [
            _make_client(name, source, pool, rows, request.component, components)
            for name, request, rows in zip(client_names(len(asked)), asked, deal(pool, asked), strict=True)
        ]
        clients[purpose] = tuple(client for client, _ in made)
        truths[purpose] = tuple(component for _, component in made)
    pure = tuple(_pure_rows(k, source, pools["held-out"], components) for k in range(components.n))
    return Scenario(
        Federation(source.schema, clients["training"], clients["validation"], clients["held-out"]),
        Truth(torch.from_numpy(drawn), truths["training"], truths["held-out"], pure),
    )


def _make_client(
    name: str, source: Source, pool: Pool, rows: Index, component: Index, components: Components
) -> tuple[Client, Tensor]:
    """A client with these rows of the pool's split, changed by their components; and their components."""
    given = rows >= 0
    row, k = torch.from_numpy(rows[given]), torch.from_numpy(component[given])
    y = None if pool.split.y is None else pool.split.y[row]
    split = "train" if pool.split is source.train else "test"
    x, y = components.change(Batch(pool.split.x[row], y, k, row, split))
    return Client(name, x, y), k


def _pure_rows(k: int, source: Source, pool: Pool, components: Components) -> Client:
    """Up to 1000 held-out rows of component k alone, in equal numbers for each of its labels."""
    strata = [pool.strata[label] for label in components.labels[k]] if components.labels else list(pool.strata)
    each = min(PURE_ROWS // len(strata), *(len(rows) for rows in strata))
    rows = np.concatenate([stratum[:each] for stratum in strata])
    return _make_client(f"component-{k}", source, pool, rows, np.full(len(rows), k, dtype=np.int64), components)[0]
