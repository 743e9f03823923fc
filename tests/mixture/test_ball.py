"""Sums for the codebook: what a row in another's place changes, and what is made of sums with noise."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedgmi.errors import DataError
from fedgmi.mixture import bounded
from fedgmi.tree import Tree


def moved(one: Tree, other: Tree) -> float:
    """How far sums are from each other, all together."""
    return math.sqrt(sum(float((one[name] - other[name]).square().sum()) for name in one))


@given(st.integers(0, 10_000), st.integers(1, 6), st.floats(0.01, 1e4), st.floats(0.01, 1e4))
def test_a_row_in_anothers_place_moves_sums_by_no_more_than_is_said(seed, d, size, other_size):
    draws = torch.Generator().manual_seed(seed)
    points, centres = torch.randn(5, d, generator=draws) * size, torch.randn(3, d, generator=draws)
    others = points.clone()
    others[2] = torch.randn(d, generator=draws) * other_size
    assert moved(bounded.spread_sums(points), bounded.spread_sums(others)) <= bounded.SPREAD_CHANGE + 1e-9
    sums = [bounded.cell_sums(some, centres) for some in (points, others)]
    assert moved(*sums) <= bounded.CELL_CHANGE + 1e-9


@given(st.integers(0, 10_000), st.integers(1, 8))
def test_sums_are_exact_whatever_the_order(seed, d):
    """Of rounding a row could not be bounded: it hangs on all rows that are added up before it."""
    draws = torch.Generator().manual_seed(seed)
    points, centres = torch.randn(3000, d, generator=draws) * 3, torch.randn(4, d, generator=draws)
    inside = bounded.in_ball(points)
    assert float(inside.norm(dim=1).max()) <= 1.0
    assert float((inside - bounded.in_ball(points * (1 + 1e-3))).abs().max()) < 2e-3
    order = torch.randperm(3000, generator=draws)
    for make in (bounded.spread_sums, lambda some: bounded.cell_sums(some, centres)):
        assert moved(make(points), make(points[order])) == 0.0
        halves = make(points[order[:1111]]), make(points[order[1111:]])
        assert moved(make(points), {name: halves[0][name] + halves[1][name] for name in halves[0]}) == 0.0


def test_more_rows_than_sums_are_exact_for_are_refused(monkeypatch):
    monkeypatch.setattr(bounded, "MOST_ROWS", 4)
    bounded.in_ball(torch.zeros(4, 2))
    with pytest.raises(DataError, match="5 rows of a client, and beyond 4 their sums are not exact"):
        bounded.in_ball(torch.zeros(5, 2))


def test_the_bounds_are_met():
    at = torch.tensor([[1.0, 0.0]]) * 100
    turned = torch.tensor([[-0.5, math.sqrt(0.75)]]) * 100
    assert moved(bounded.spread_sums(at), bounded.spread_sums(turned)) == pytest.approx(bounded.SPREAD_CHANGE, rel=1e-4)
    one_cell, two_cells = torch.zeros(1, 2), torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    for centres in (one_cell, two_cells):
        found = moved(bounded.cell_sums(at, centres), bounded.cell_sums(-at, centres))
        assert found == pytest.approx(bounded.CELL_CHANGE, rel=1e-4)


def test_a_point_that_is_no_number_has_no_part_in_sums():
    points = torch.tensor([[0.5, 0.5], [math.nan, math.inf]])
    assert all(bool(leaf.isfinite().all()) for leaf in bounded.spread_sums(points).values())


def test_without_noise_and_within_the_ball_it_is_k_means():
    points = torch.tensor([[0.0, 0.2]] * 5 + [[0.2, 0.0]] * 5 + [[1.0, 1.0]] * 6 + [[-1.0, 0.5]] * 4)
    centres = torch.tensor([[0.1, 0.1], [0.9, 0.9], [-0.9, 0.4]])
    found = bounded.moved_centres(centres, bounded.cell_sums(points, centres))
    torch.testing.assert_close(found[0], torch.tensor([0.1, 0.1]), atol=1e-4, rtol=0)
    torch.testing.assert_close(found[1], torch.tensor([1.0, 1.0]), atol=1e-4, rtol=0)
    assert torch.equal(found[2], centres[2])  # four rows may be noise


def test_first_centres_follow_the_points():
    draws = torch.Generator().manual_seed(0)
    points = torch.randn(4000, 2, generator=draws) * torch.tensor([0.5, 0.05]) + torch.tensor([0.3, -0.3])
    centres = bounded.drawn_centres(bounded.spread_sums(points), 400, 0)
    torch.testing.assert_close(centres.mean(0), points.mean(0), atol=0.1, rtol=0)
    torch.testing.assert_close(centres.std(0), points.std(0), atol=0.05, rtol=0.1)


def test_noise_cannot_move_centres_out_of_the_ball():
    sums = {"sums": torch.full((2, 3), 90.0, dtype=torch.float64), "counts": torch.tensor([10.0, -3.0]).double()}
    found = bounded.moved_centres(torch.zeros(2, 3), sums)
    assert float(found[0].norm()) == pytest.approx(math.sqrt(3))
    assert torch.equal(found[1], torch.zeros(3))
    sums = {"sum": torch.zeros(2).double(), "outer": -torch.eye(2).double(), "count": torch.tensor(-4.0).double()}
    assert bool(bounded.drawn_centres(sums, 3, 0).isfinite().all())
