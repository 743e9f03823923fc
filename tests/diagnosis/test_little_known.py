"""Federations that say little, as a user has them: an answer with its width, and no false certainty."""

from __future__ import annotations

import numpy as np
import pytest

from fedgmi import Federation, FedGMI

SMALL = {"method.codewords": 6}


def clients(sizes: list[int], *, one_class: bool = False, constant: bool = False, same: bool = False):
    """Rows of two columns and two classes, one kind for all."""
    rng, made = np.random.default_rng(0), []
    for n in sizes:
        rng = np.random.default_rng(0) if same else rng
        x = rng.normal(size=(n, 2)).astype(np.float32)
        x[:, 1] = 3.0 if constant else x[:, 1]
        made.append((x, np.zeros(n, dtype=int) if one_class else (x[:, 0] > 0).astype(int)))
    return Federation.from_arrays(made)


@pytest.mark.parametrize(
    "federation",
    [
        clients([60, 60]),
        clients([50] * 6, same=True),
        clients([1, 40, 40, 40, 40]),
        clients([1, 1, 1]),
        clients([40] * 6, one_class=True),
        clients([40] * 6, constant=True),
    ],
    ids=["two clients", "all alike", "a client of one row", "one row each", "one class", "a constant column"],
)
def test_clients_of_one_kind_are_one_component_whatever_they_lack(federation):
    found = FedGMI("auto", settings=SMALL, verbose=0).diagnose(federation)
    assert (found["n_components"], found["mixture_supported"]) == (1, True)
    assert found["own_scatter_interval"][0] <= found["own_scatter"] <= found["own_scatter_interval"][1]
    assert "One component" in repr(found)


def test_a_second_component_that_two_clients_are_asked_for_is_called_invented():
    found = FedGMI(2, settings=SMALL, verbose=0).diagnose(clients([60, 60]))
    assert any("invented" in warning for warning in found["warnings"])
    assert found["explained"] is None or found["explained_interval"][0] < 0.1
