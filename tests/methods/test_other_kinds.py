"""Federations unlike those that anything was measured on: few clients, few rows, many classes. Answers are sensible."""

from __future__ import annotations

import pytest
import torch

from federations import dirichlet, draw, make_task, transport_for
from fedgmi.data.federation import Federation
from fedgmi.data.rows import Client, Schema
from fedgmi.data.scenarios.truth import Scenario
from fedgmi.methods import METHODS
from fedgmi.mixture.matching import match_components, reorder, total_variation

COLUMNS, K = 10, 3


def federation(n_clients: int, rows: int, n_classes: int) -> tuple[Scenario, torch.Tensor]:
    """Blobs in ten columns, each with labels of its own preference; and the clients' true shares. [C, K]"""
    source, proportions = draw(), dirichlet(n_clients, K, alpha=0.5)
    blobs = 2.5 * torch.randn(K, COLUMNS, generator=source)
    taste = torch.randn(K, n_classes, generator=source).softmax(1)
    clients, shares = [], []
    for i in range(n_clients):
        component = torch.multinomial(proportions[i], rows, replacement=True, generator=source)
        y = torch.multinomial(taste[component], 1, generator=source)[:, 0]
        x = blobs[component] + torch.randn(rows, COLUMNS, generator=source)
        clients.append(Client(f"client {i}", x, y))
        shares.append(component.bincount(minlength=K) / rows)
    classes = tuple(str(label) for label in range(n_classes))
    schema = Schema(shape=(COLUMNS,), n_classes=n_classes, kind="tabular", classes=classes)
    return Scenario(Federation(schema, tuple(clients), (), ()), None), torch.stack(shares).double()


@pytest.mark.parametrize(
    ("n_clients", "rows", "n_classes", "worst"),
    [(20, 60, 4, 0.1), (5, 100, 4, 0.15), (12, 60, 1000, 0.15), (30, 2, 4, 1.0), (5, 2, 4, 1.0)],
    ids=["ten columns", "five clients", "a thousand classes", "two rows a client", "ten rows in all"],
)
def test_proportions_are_sensible_on_other_kinds_of_data(n_clients, rows, n_classes, worst):
    scenario, truth = federation(n_clients, rows, n_classes)
    task = make_task(scenario.federation.schema, K, judges="closed", codewords=10, judge_turns=2, calibration_steps=4)
    method = METHODS["fedgmi"](task)
    transport, server = transport_for(method, scenario), method.program.init()
    with torch.no_grad():
        for step in method.program.prepare:
            server = step.server(server, transport.exchange(step, server, range(n_clients), 0), 0)
    found = transport.states["proportions"]
    torch.testing.assert_close(found.sum(1), torch.ones(n_clients, dtype=torch.float64))
    assert bool((found >= 0).all())
    error = float(total_variation(reorder(found, match_components(found, truth)), truth).mean())
    assert error < worst
    assert float(server["sketch/lost"]) < 0.05 or n_clients * rows < 100
