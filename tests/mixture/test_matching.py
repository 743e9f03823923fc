"""Which estimated component is which true one."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from federations import dirichlet
from fedgmi.mixture.matching import match_components, reorder, total_variation

few = settings(max_examples=40, deadline=None)


def matched_error(estimated: Tensor, true: Tensor) -> Tensor:
    return total_variation(reorder(estimated, match_components(estimated, true)), true)


@few
@given(order=st.permutations(range(4)), seed=st.integers(0, 999))
def test_a_permutation_is_undone(order, seed):
    true = dirichlet(6, 4, seed=seed)
    estimated = true[:, list(order)]
    found = match_components(estimated, true)
    torch.testing.assert_close(reorder(estimated, found), true, atol=0, rtol=0)
    assert [order[int(k)] for k in found] == [0, 1, 2, 3]
    assert float(matched_error(estimated, true).max()) == 0.0


@few
@given(seed=st.integers(0, 999), n_estimated=st.integers(1, 4))
def test_no_other_assignment_is_better(seed, n_estimated):
    true, estimated = dirichlet(5, 3, seed=seed), dirichlet(5, n_estimated, 0.5, seed=seed + 1)
    size = max(3, n_estimated)
    wide = torch.nn.functional.pad(estimated, (0, size - n_estimated))
    best = min(
        float(total_variation(wide[:, list(order)], true).mean()) for order in itertools.permutations(range(size))
    )
    assert float(matched_error(estimated, true).mean()) == pytest.approx(best)


def test_mass_on_a_component_too_many_is_error():
    true = torch.tensor([[1.0, 0.0], [0.2, 0.8]])
    estimated = torch.tensor([[0.1, 0.0, 0.9], [0.0, 0.7, 0.3]])
    order = match_components(estimated, true)
    assert order.tolist() == [2, 1, 0]
    assert total_variation(reorder(estimated, order), true).tolist() == pytest.approx([0.1, 0.1])


def test_a_component_that_was_missed_is_error():
    true = torch.tensor([[0.5, 0.0, 0.5], [0.0, 0.9, 0.1]])
    estimated = torch.tensor([[0.5, 0.5], [0.9, 0.1]])
    order = match_components(estimated, true)
    assert order.tolist() == [-1, 0, 1]
    torch.testing.assert_close(reorder(estimated, order), torch.tensor([[0.0, 0.5, 0.5], [0.0, 0.9, 0.1]]))
    assert total_variation(reorder(estimated, order), true).tolist() == pytest.approx([0.5, 0.0])
    assert total_variation(estimated[:, :1], estimated).tolist() == pytest.approx([0.25, 0.05])


@few
@given(seed=st.integers(0, 999), n_left=st.integers(1, 4), n_right=st.integers(1, 4))
def test_total_variation_is_a_distance_between_0_and_1(seed, n_left, n_right):
    left, right, third = dirichlet(4, n_left, 0.3, seed), dirichlet(4, n_right, 0.3, seed + 1), dirichlet(4, 3, 1, seed)
    error = total_variation(left, right)
    assert bool(((error >= 0) & (error <= 1 + 1e-12)).all())
    torch.testing.assert_close(error, total_variation(right, left))
    assert bool((error <= total_variation(left, third) + total_variation(third, right) + 1e-12).all())
    assert float(total_variation(left, left).max()) == 0.0


def test_total_variation_is_1_where_nothing_is_shared():
    assert total_variation(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.4, 0.6]])).tolist() == pytest.approx([1.0])


def test_reorder_works_along_any_axis_and_fills_with_zeros():
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert reorder(values, torch.tensor([1, -1, 0]), dim=0).tolist() == [[3.0, 4.0], [0.0, 0.0], [1.0, 2.0]]
