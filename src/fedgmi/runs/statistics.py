"""A comparison's numbers: means and spreads per method, and paired differences with a test.

The test is Wilcoxon's signed-rank test (1945) on differences of `evaluation.metric` (by default the accuracy), paired
by seed and client, two-sided, adjusted by Holm's rule (1979) over the methods that stand against the best. Clients of
one seed share their models, so they are less independent than the test believes. The spread over seeds stands beside
it.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from fedgmi.mixture.multiple_tests import holm
from fedgmi.runs.metrics import METRICS

SIGNIFICANT = 0.05
"""The best method is called so where every adjusted p-value is below this."""

Cell = dict[str, Any]
"""What a comparison keeps of one run (`runs.compare.result`)."""


def compared(
    scenario: str, methods: list[str], seeds: list[int], cells: list[Cell], metric: str = "accuracy"
) -> dict[str, Any]:
    """What `comparison.json` holds.

    Args:
        scenario: Its name.
        methods: Their names, in the order of the command line.
        seeds: In the order of the command line.
        cells: One of each method and seed.
        metric: By which methods are compared.

    Returns:
        The cells, a summary per method, paired differences to the best, and the best where it is one.
    """
    finished = {method: [c for c in cells if c["method"] == method and "failed" not in c] for method in methods}
    summary = {method: summarise(found) for method, found in finished.items() if found}
    paired = differences({method: finished[method] for method in summary}, metric)
    words = "client accuracy" if metric == "accuracy" else f"the clients' {METRICS[metric].words}"
    return {
        "scenario": scenario,
        "metric": metric,
        "methods": methods,
        "seeds": seeds,
        "cells": cells,
        "summary": summary,
        "paired": paired,
        "test": f"Wilcoxon signed-rank on {words} paired by seed and client, two-sided, Holm-adjusted",
        "significant": SIGNIFICANT,
        "best": paired["best"] if paired and all(d["p"] < SIGNIFICANT for d in paired["against"].values()) else None,
    }


def summarise(cells: Sequence[Cell]) -> dict[str, Any]:
    """Mean and standard deviation over seeds of one method's numbers.

    Args:
        cells: Of one method, finished.

    Returns:
        By number, [mean, deviation]. None where no cell has such a number.
    """
    rounds = [cell["seconds"] / max(1, cell["rounds"]) for cell in cells]
    matrices = [cell["expert_accuracy"] for cell in cells if cell["expert_accuracy"]]
    return {
        "seeds": [cell["seed"] for cell in cells],
        "client_accuracy": _spread([cell["client_accuracy"] for cell in cells]),
        "worst_decile": _spread([worst_decile(cell["client_accuracy_per_client"]) for cell in cells]),
        "majority_accuracy": _spread([cell.get("majority_accuracy") for cell in cells]),
        "metrics": {name: _over_seeds(cells, name) for name in METRICS} if any(map(_metrics, cells)) else None,
        "proportion_tv": _spread([cell["proportion_tv"] for cell in cells]),
        "bytes_down": _spread([cell["bytes_down"] for cell in cells]),
        "bytes_up": _spread([cell["bytes_up"] for cell in cells]),
        "mb_per_client": _spread([cell.get("mb_per_client") for cell in cells]),
        "seconds_per_round": _spread(rounds),
        "expert_accuracy": _mean_matrix(matrices),
    }


def worst_decile(accuracies: Sequence[float | None] | None) -> float | None:
    """The mean accuracy of the tenth of clients that fare worst, at least one client.

    Args:
        accuracies: Of every client. None where nobody knows.

    Returns:
        The mean, or None where no accuracy is known.

    >>> worst_decile([0.9, 0.5, 0.8, 0.7])
    0.5
    """
    return METRICS["accuracy"].worst_tenth(accuracies or ())


def differences(finished: dict[str, list[Cell]], metric: str = "accuracy") -> dict[str, Any] | None:
    """How far every method is behind the one with the best mean.

    Args:
        finished: The finished cells of each method.
        metric: By which they are compared.

    Returns:
        `best`, and `against`: by method `difference`, which is positive where the best one is better, `pairs` and the
        adjusted `p`; `least_p`, see there. None where fewer than two methods have any such number.
    """
    rank = METRICS[metric].rank
    pairs = {method: _by_client(cells, metric) for method, cells in finished.items()}
    pairs = {method: values for method, values in pairs.items() if values}
    if len(pairs) < 2:
        return None
    best = max(pairs, key=lambda method: rank(statistics.mean(pairs[method].values())))
    against, p_values = {}, []
    for method, values in pairs.items():
        common = sorted(values.keys() & pairs[best].keys())
        if method == best or not common:
            continue
        gaps = [rank(pairs[best][key]) - rank(values[key]) for key in common]
        p_values.append(signed_rank(gaps))
        against[method] = {"difference": statistics.mean(gaps), "pairs": len(gaps)}
    adjusted = zip(against.items(), holm(p_values), strict=True)
    return {
        "best": best,
        "against": {method: found | {"p": p} for (method, found), p in adjusted},
        "least_p": least_p(max((int(found["pairs"]) for found in against.values()), default=0), len(against)),
    }


def least_p(pairs: int, methods: int) -> float:
    """The smallest adjusted p there can be: that of one method of which every pair says the same.

    Args:
        pairs: Of seed and client.
        methods: How many stand against the best.

    >>> least_p(4, 1), least_p(4, 3), least_p(9, 1) < 0.05
    (0.125, 0.375, True)
    """
    return min(1.0, methods * signed_rank(range(1, pairs + 1)))


def signed_rank(gaps: Sequence[float]) -> float:
    """The p-value of Wilcoxon's signed-rank test (1945), two-sided. Differences of zero count half on either side.

    Args:
        gaps: Paired differences.

    Returns:
        The p-value, 1 where there is no difference at all.
    """
    from scipy.stats import wilcoxon

    return 1.0 if not any(gaps) else float(wilcoxon(gaps, zero_method="zsplit").pvalue)


def _by_client(cells: Sequence[Cell], metric: str) -> dict[tuple[int, int], float]:
    return {
        (cell["seed"], i): value
        for cell in cells
        for i, value in enumerate(_per_client(cell, metric))
        if value is not None
    }


def _per_client(cell: Cell, metric: str) -> Sequence[float | None]:
    if metric == "accuracy":
        return cell["client_accuracy_per_client"] or ()
    found: Sequence[float | None] = _metrics(cell).get(metric, {}).get("per_client", ())
    return found


def _metrics(cell: Cell) -> dict[str, Any]:
    return cell.get("metrics") or {}


def _over_seeds(cells: Sequence[Cell], name: str) -> dict[str, Any]:
    found = [_metrics(cell).get(name, {}) for cell in cells]
    return {key: _spread([one.get(key) for one in found]) for key in ("mean", "worst_tenth")}


def _spread(values: Sequence[float | None]) -> list[float] | None:
    known = [value for value in values if value is not None]
    return [statistics.mean(known), statistics.stdev(known) if len(known) > 1 else 0.0] if known else None


def _mean_matrix(matrices: Sequence[list[list[float | None]]]) -> list[list[float | None]] | None:
    """Mean over seeds, entry by entry; None where a component has no expert in some seed."""
    if not matrices or len({(len(m), len(m[0])) for m in matrices}) > 1:
        return None

    def mean(entries: Sequence[float | None]) -> float | None:
        known = [entry for entry in entries if entry is not None]
        return statistics.mean(known) if len(known) == len(entries) else None

    stacked = zip(*matrices, strict=True)
    return [[mean(entries) for entries in zip(*same_row, strict=True)] for same_row in stacked]
