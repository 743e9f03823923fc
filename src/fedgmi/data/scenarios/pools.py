"""Which image goes to whom: disjoint pools for training, validation and held-out rows, and how they are dealt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedgmi.data.scenarios.draws import Index, Request
from fedgmi.data.sources.sources import Source, Split
from fedgmi.errors import DataError
from fedgmi.randomness import numpy_generator
from fedgmi.settings.run import ScenarioSettings

KEPT_WITHOUT_TEST_SPLIT = 0.1
"""The share of the train split that training may not use, where there is no test split."""

KEPT_WITH_TEST_SPLIT = 0.02
"""The same where there is one."""

LABEL_MARGIN = 0.95
"""Advice on numbers of rows is so much lower where labels count: how many rows a label needs varies with the draw."""


@dataclass(frozen=True)
class Pool:
    """Rows of one split that serve one purpose.

    Attributes:
        split: The split.
        strata: Their places in the split, in an order that follows from the seed: one stratum per label, or one in all.
            [S]
    """

    split: Split
    strata: tuple[Index, ...]


def make_pools(
    source: Source, scenario: ScenarioSettings, wanted: Mapping[str, Index], n_labels: int, seed: int
) -> dict[str, Pool]:
    """Divide a data set's rows into pools with no row in two of them.

    With a test split, all of it is held out, and validation takes rows of the train split that training leaves.
    Without one, a quarter of the train split is kept, or what training leaves if that is less (a tenth at least). A
    quarter of what is kept is for validation, and the rest is held out.

    Args:
        source: The data set.
        scenario: The section `scenario`.
        wanted: Rows by purpose. [S] each
        n_labels: S, or 0 for one stratum of all rows.
        seed: The run's.

    Returns:
        The pools by purpose: "training", "validation" and "held-out".

    Raises:
        DataError: Where there are too few rows to train on.
    """
    strata = _stratify(source.train, n_labels, seed, "train")
    _check_supply(source, scenario, strata, wanted["training"])
    training, validation, held_out = [], [], []
    for rows, needed, checked in zip(strata, wanted["training"], wanted["validation"], strict=True):
        spare = len(rows) - int(needed)
        kept = min(spare, max(2, len(rows) // 4 if source.test is None else int(checked)))
        n_validation = max(1, kept // 4) if source.test is None else kept
        validation.append(rows[:n_validation])
        held_out.append(rows[n_validation:kept])
        training.append(rows[kept:])
    if source.test is not None:
        held_out = list(_stratify(source.test, n_labels, seed, "test"))
    return {
        "training": Pool(source.train, tuple(training)),
        "validation": Pool(source.train, tuple(validation)),
        "held-out": Pool(source.test or source.train, tuple(held_out)),
    }


def deal(pool: Pool, requests: Sequence[Request]) -> list[Index]:
    """Deal a pool to clients, round and round.

    No row goes out twice before all have gone out once, and none goes twice to the same client for the same component.
    A request for more than the whole pool is cut short.

    Args:
        pool: The rows.
        requests: What each client asks for. [C]

    Returns:
        For each client the places of its rows in the pool's split, one for each row that it asked for. A place is −1
        where the pool has no more to give.
    """
    cursor = [0] * len(pool.strata)
    dealt = []
    for request in requests:
        rows = np.full(len(request), -1, dtype=np.int64)
        for k, s in np.unique(np.stack([request.component, request.stratum]), axis=1).T:
            stock = pool.strata[s]
            places = np.flatnonzero((request.component == k) & (request.stratum == s))[: len(stock)]
            rows[places] = stock[(cursor[s] + np.arange(len(places))) % max(len(stock), 1)]
            cursor[s] += len(places)
        dealt.append(rows)
    return dealt


def check_stocks(pools: Mapping[str, Pool], used: Sequence[int], source: Source, scenario: ScenarioSettings) -> None:
    """Refuse pools that lack rows which some component needs, or that cannot give every client its `held_out_rows`.

    Args:
        pools: By purpose.
        used: The strata that some component uses.
        source: The data set.
        scenario: The section `scenario`.

    Raises:
        DataError: It names the purpose and the label.
    """
    for purpose, pool in pools.items():
        for s in used:
            if not len(pool.strata[s]):
                raise DataError(
                    f"there are no {purpose} rows{_of_label(source, s, pool.strata)}",
                    where=f"data.path {source.name!r}",
                    fix="use more rows of the data (data.max_rows) or fewer for training (scenario.rows_per_client)",
                )
    there = sum(len(pools["held-out"].strata[s]) for s in used)
    if scenario.held_out_rows is not None and scenario.held_out_rows > there:
        raise DataError(
            f"{scenario.held_out_rows} held-out rows per client are asked for, but only {there} are left for them",
            where="scenario.held_out_rows",
            fix=f"set it to {there} or less",
        )


def _stratify(split: Split, n_labels: int, seed: int, name: str) -> tuple[Index, ...]:
    order = numpy_generator(seed, "pool", name).permutation(len(split)).astype(np.int64)
    if not n_labels or split.y is None:
        return (order,)
    y = split.y.numpy()[order]
    return tuple(order[y == label] for label in range(n_labels))


def _check_supply(source: Source, scenario: ScenarioSettings, strata: Sequence[Index], needed: Index) -> None:
    kept = KEPT_WITHOUT_TEST_SPLIT if source.test is None else KEPT_WITH_TEST_SPLIT
    usable = np.array([int(len(rows) * (1 - kept)) for rows in strata])
    short = np.flatnonzero(needed > usable)
    if not len(short):
        return
    worst = short[np.argmin(usable[short] / needed[short])]
    share = usable[worst] / needed[worst] * (1 if len(strata) == 1 else LABEL_MARGIN)
    rows, clients = int(scenario.rows * share), int(scenario.clients * share)
    advice = [
        f"scenario.rows_per_client to {rows}" if rows else "",
        f"scenario.n_clients to {clients}" if clients else "",
    ]
    raise DataError(
        f"the clients need {needed[worst]} training rows{_of_label(source, int(worst), strata)}. There are "
        f"{len(strata[worst])}, and {usable[worst]} of them may be used for training",
        where=f"data.path {source.name!r}",
        fix=f"set {' or '.join(filter(None, advice))}, or less" if any(advice) else "use more data",
    )


def _of_label(source: Source, stratum: int, strata: Sequence[Index]) -> str:
    return f" of label {source.schema.classes[stratum]!r}" if len(strata) > 1 else ""
