"""Stacking: Newton steps whose sums add up reach what a hundred steps of EM reach."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from federations import draw
from fedgmi.mixture.stacking import FLOOR, newton_step, only_first, prior_weights


def sums(logs: torch.Tensor, weights: torch.Tensor) -> dict[str, torch.Tensor]:
    ratio = (logs - (logs + weights.log()).logsumexp(1, keepdim=True)).exp()
    return {"gradient": ratio.sum(0), "curvature": ratio.T @ ratio, "rows": torch.tensor(float(len(ratio)))}


@pytest.mark.parametrize("seed", range(3))
def test_four_steps_reach_the_maximum(seed):
    logs = 2.0 * torch.randn(200, 4, generator=draw(seed), dtype=torch.float64)
    weights = torch.full((4,), 0.25, dtype=torch.float64)
    best = weights
    for _ in range(3000):
        best = (logs + best.log()).softmax(1).mean(0)
    for _ in range(4):
        weights = newton_step(weights, sums(logs, weights))
    reached, most = ((logs + w.log()).logsumexp(1).mean() for w in (weights, best))
    assert float(most - reached) < 1e-4


def test_a_predictor_that_few_rows_need_is_kept():
    """One row in twenty is impossible under the predictor that is best on all others: Newton alone went to a corner."""
    logs = torch.tensor([[0.0, -0.7]] * 95 + [[-30.0, -0.7]] * 5, dtype=torch.float64)
    weights = torch.full((2,), 0.5, dtype=torch.float64)
    for _ in range(3):
        weights = newton_step(weights, sums(logs, weights))
    assert float(weights[1]) == pytest.approx(0.1, abs=0.02)


def test_sums_of_clients_are_those_of_all_rows():
    logs, weights = torch.randn(30, 3, generator=draw(), dtype=torch.float64), torch.tensor([0.2, 0.3, 0.5]).double()
    whole, parts = sums(logs, weights), [sums(part, weights) for part in logs.split(7)]
    for name, value in whole.items():
        torch.testing.assert_close(sum(part[name] for part in parts), value)


def test_without_rows_weights_stay():
    weights = torch.tensor([0.2, 0.8], dtype=torch.float64)
    assert newton_step(weights, sums(torch.zeros(0, 2, dtype=torch.float64), weights)) is weights


@given(st.lists(st.floats(0.0, 1.0), min_size=3, max_size=6), st.lists(st.integers(0, 1000), min_size=1, max_size=4))
def test_priors_are_weights_and_trust_nets_by_their_rows(raw, counts):
    weights = torch.tensor(raw, dtype=torch.float64).clamp(min=FLOOR)
    weights = weights / weights.sum()
    for n_shared in (1, 2):
        prior = prior_weights(weights, torch.tensor(counts), n_shared)
        torch.testing.assert_close(prior.sum(1), torch.ones(len(counts), dtype=torch.float64))
        assert (prior[:, n_shared:] <= weights[n_shared:] + 1e-12).all()
        assert all(not row[n_shared:].any() for row, n in zip(prior, counts, strict=True) if n == 0)
    torch.testing.assert_close(only_first(weights, 2).sum(), torch.ones((), dtype=torch.float64))
