"""A summary as an experiment writes it, and a diagnosis, both made by hand."""

from __future__ import annotations

from typing import Any

from fedgmi import __version__
from fedgmi.runs.records import VERSION


def make_summary(n_clients: int = 4, *, truth: bool = True, extra: bool = False) -> dict[str, Any]:
    """A run of two true components; `extra` adds a third estimated one."""
    true = [[i / (n_clients - 1), 1 - i / (n_clients - 1)] for i in range(n_clients)]
    estimated = [[0.9 * a + 0.05, 0.9 * b + 0.05] for a, b in true]
    if extra:
        estimated = [[a, b - 0.04, 0.04] for a, b in estimated]
    accuracy = [0.9 - 0.001 * i for i in range(n_clients)]
    return {
        "version": VERSION,
        "fedgmi": __version__,
        "method": "fedgmi",
        "preset": "default",
        "scenario": "rotation",
        "seed": 3,
        "n_components": len(estimated[0]),
        "rounds": 10,
        "bytes_down": 2_500_000,
        "bytes_up": 1_200,
        "bytes": {"expert": [2_500_000, 1_000], "statistics": [0, 200]},
        "seconds": 12.4,
        "clients": [f"client-{i}" for i in range(n_clients)],
        "rows_per_client": [70] * n_clients,
        "proportions": estimated,
        "true_proportions": true if truth else None,
        "component_mass": [sum(row[k] for row in estimated) for k in range(len(estimated[0]))],
        "proportion_tv": 0.034 if truth else None,
        "proportion_tv_drawn": 0.041 if truth else None,
        "assignment_accuracy": 0.93 if truth else None,
        "expert_accuracy": [[0.91, 0.22], [0.33, 0.88]] if truth else None,
        "density": [[-90.0, -130.0], [-140.0, -95.0]] if truth else None,
        "client_accuracy": 0.87,
        "client_accuracy_per_client": accuracy,
        "fedavg": make_outcome(1, client_accuracy=0.71, client_accuracy_per_client=[0.7] * n_clients),
        "local": None,
        "oracle": make_outcome(2, client_accuracy=0.89, proportion_tv=0.02) if truth else None,
    }


def make_outcome(n_components: int, **numbers: Any) -> dict[str, Any]:
    """The run of a bound, or of a baseline beside the method."""
    cost = {"rounds": 10, "bytes_down": 100, "bytes_up": 50, "bytes": {"expert": [100, 50]}, "seconds": 3.0}
    return {"n_components": n_components, "client_accuracy": None, "client_accuracy_per_client": None} | cost | numbers


def make_diagnosis(n_components: int = 3, n_clients: int = 6, **changes: Any) -> dict[str, Any]:
    """A diagnosis that supports a mixture, with a clear gap; client i holds most of component i mod K."""
    rest = 0.2 / max(n_components - 1, 1)
    shares = [[0.8 if k == i % n_components else rest for k in range(n_components)] for i in range(n_clients)]
    shares = [[1.0]] * n_clients if n_components == 1 else shares
    return {
        "version": VERSION,
        "fedgmi": __version__,
        "scenario": "rotation",
        "seed": 3,
        "clients": [f"client-{i}" for i in range(n_clients)],
        "rows_per_client": [500] * n_clients,
        "bytes_down": 573_000,
        "bytes_up": 1_262_000,
        "seconds": 2.4,
        "n_components": n_components,
        "n_components_estimated": True,
        "true_n_components": None,
        "proportion_tv": None,
        "singular_values": [60.0 - k for k in range(n_components - 1)] + [11.0, 10.5, 10.0],
        "noise": [11.5 - 0.5 * k for k in range(n_components + 2)],
        "threshold": 12.0,
        "explained": 0.84 if n_components > 1 else 0.0,
        "explained_interval": [0.79, 0.88] if n_components > 1 else None,
        "own_scatter": 1.3,
        "own_scatter_interval": [1.2, 1.4],
        "mixture_supported": True,
        "speaks_against": "simplex",
        "p_value": 0.43,
        "test_size": 0.01,
        "client_misfit": [1.0 + 0.01 * i for i in range(n_clients)],
        "client_p_value": [0.5] * n_clients,
        "unfit_clients": [],
        "proportions": shares,
        "proportion_intervals": [[[max(p - 0.06, 0.0), min(p + 0.04, 1.0)] for p in row] for row in shares],
        "interval_level": 0.9,
        "interval_width": 0.1,
        "purest": [max(column) for column in zip(*shares, strict=True)],
        "anchor_mass": [0.3] * n_components,
        "warnings": [],
    } | changes
