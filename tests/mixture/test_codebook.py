"""The federated codebook: what the sums say, and what a client keeps to itself."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from federations import draw, rows_of
from fedgmi import tree
from fedgmi.data.rows import Rows
from fedgmi.data.standardise import feature_sums, standardisation
from fedgmi.mixture import codebook

few = settings(max_examples=25, deadline=None)
cuts = st.lists(st.integers(1, 59), max_size=4, unique=True)


def features(n: int = 60, dim: int = 4, seed: int = 0) -> Tensor:
    scale = torch.tensor([1.0, 5.0, 0.2, 2.0])[:dim]
    return 3.0 + scale * torch.randn(n, dim, generator=draw(seed))


def split_at(places: list[int], n: int = 60) -> list[int]:
    edges = [0, *sorted(places), n]
    return [b - a for a, b in pairwise(edges)]


def blobs(n: int = 600, seed: int = 0) -> Tensor:
    centres = 4 * torch.randn(6, 2, generator=draw(seed))
    return centres[torch.arange(n) % 6] + torch.randn(n, 2, generator=draw(seed + 1))


def inertia(x: Tensor, centres: Tensor) -> float:
    return float(torch.cdist(x, centres).min(1).values.square().sum())


def one_cell_each(n_in_first: int, n_in_second: int) -> tuple[Rows, Tensor]:
    x = torch.cat([torch.full((n_in_first, 1), 1.0), torch.full((n_in_second, 1), 9.0)])
    return rows_of([len(x)], x), torch.tensor([[0.0], [10.0]])


@few
@given(places=cuts)
def test_sums_do_not_depend_on_who_holds_the_rows(places):
    x = features()
    parts = x.split(split_at(places))
    pooled, total = codebook.spread_sums(x), {}
    for part in parts:
        total = tree.add(total, codebook.spread_sums(part))
    for name, leaf in pooled.items():
        torch.testing.assert_close(total[name], leaf)


@few
@given(places=cuts, seed=st.integers(0, 99))
def test_cell_sums_are_those_of_each_client_by_itself(places, seed):
    """What a client says depends on its own rows alone, whether it is asked by itself or among others."""
    x, counts = features(seed=seed), split_at(places)
    centres = features(3, seed=seed + 1)
    together, total = codebook.cell_sums(x, centres, rows_of(counts, x)), {}
    for part in x.split(counts):
        total = tree.add(total, codebook.cell_sums(part, centres, rows_of([len(part)], part)))
    for name, leaf in together.items():
        torch.testing.assert_close(total[name], leaf)


@pytest.mark.parametrize("common_scale", [True, False])
def test_constant_features_stay_finite(common_scale):
    x = torch.full((30, 3), 7.0)
    mean, std = standardisation(feature_sums(x), common_scale=common_scale)
    assert std.tolist() == [1.0, 1.0, 1.0]
    projected = codebook.projector(mean.float(), std.float(), 2, seed=0)(x)
    assert float(projected.abs().max()) < 1e-5
    centres = codebook.first_centres(codebook.spread_sums(projected), 4, seed=0)
    moved = codebook.move_centres(centres, codebook.cell_sums(projected, centres, rows_of([30], x)), seed=0)
    assert bool(moved.isfinite().all())


def test_the_projection_is_linear_seeded_and_absent_for_few_features():
    mean, std = torch.zeros(50), torch.ones(50)
    one = codebook.projector(mean, std, 8, seed=3)
    assert torch.equal(one.matrix, codebook.projector(mean, std, 8, seed=3).matrix)
    assert not torch.equal(one.matrix, codebook.projector(mean, std, 8, seed=4).matrix)
    x = torch.randn(400, 50, generator=draw())
    assert float(one(x).square().sum() / x.square().sum()) == pytest.approx(1.0, abs=0.2)  # lengths survive
    few_features = codebook.projector(torch.ones(4), torch.full((4,), 2.0), 8, seed=3)
    torch.testing.assert_close(few_features(torch.full((1, 4), 5.0)), torch.full((1, 4), 2.0))


def test_first_centres_are_draws_with_the_pooled_mean_and_covariance():
    x = features(400) @ torch.randn(4, 4, generator=draw(5))
    sums = codebook.spread_sums(x)
    centres = codebook.first_centres(sums, 20_000, seed=1)
    torch.testing.assert_close(centres.T.cov(), x.T.cov(correction=0), atol=0.03 * float(x.T.cov().max()), rtol=0)
    torch.testing.assert_close(centres.mean(0), x.mean(0), atol=0.1, rtol=0.02)
    assert torch.equal(codebook.first_centres(sums, 5, seed=1), codebook.first_centres(sums, 5, seed=1))
    assert not torch.equal(codebook.first_centres(sums, 5, seed=1), codebook.first_centres(sums, 5, seed=2))


def test_first_centres_answer_smoothly_to_equal_spread_in_all_directions():
    """With a repeated eigenvalue eigenvectors are arbitrary; a breath of noise must not turn the codebook."""
    n = 1000.0
    noise = torch.randn(4, 4, generator=draw(), dtype=torch.float64)
    sums = {"sum": torch.zeros(4), "outer": n * torch.eye(4), "count": torch.tensor(n)}
    sums = {name: leaf.double() for name, leaf in sums.items()}
    stirred = sums | {"outer": sums["outer"] + 1e-7 * (noise + noise.T)}
    one, other = (codebook.first_centres(s, 10, seed=0) for s in (sums, stirred))
    torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


@pytest.mark.parametrize("n_rows", [1, 4, 5, 6])
def test_a_client_keeps_silent_about_cells_with_fewer_than_5_rows(n_rows):
    rows, centres = one_cell_each(n_rows, 7)
    sums = codebook.cell_sums(rows.x, centres, rows)
    told = n_rows if n_rows >= 5 else 0
    assert sums["counts"].tolist() == [told, 7]
    assert sums["sums"].flatten().tolist() == [told * 1.0, 63.0]


def test_silence_is_kept_client_by_client_not_on_the_total():
    rows, centres = one_cell_each(8, 0)
    halves = codebook.cell_sums(rows.x, centres, rows_of([4, 4], rows.x))
    assert halves["counts"].tolist() == [0, 0]
    assert float(halves["sums"].abs().max()) == 0.0


def test_k_means_lowers_the_inertia_to_that_of_the_pooled_algorithm():
    x = blobs()
    rows = rows_of([150, 450], x)
    centres = x[[0, 1, 2, 3, 4, 5]].clone()  # a row of each blob
    values = [inertia(x, centres)]
    for _ in range(6):
        nearest = torch.cdist(x, centres).argmin(1)
        pooled = torch.stack([x[nearest == j].mean(0) for j in range(6)])
        centres = codebook.move_centres(centres, codebook.cell_sums(x, centres, rows), seed=0)
        torch.testing.assert_close(centres, pooled, atol=1e-4, rtol=1e-4)
        values.append(inertia(x, centres))
    assert all(after <= before + 1e-3 for before, after in pairwise(values))
    assert values[-1] < 0.9 * values[0]


def test_an_empty_cell_moves_beside_the_most_populous_one():
    x = torch.cat([torch.randn(50, 2, generator=draw()), 20 + torch.randn(10, 2, generator=draw(1))])
    rows = rows_of([60], x)
    centres = torch.tensor([[0.0, 0.0], [20.0, 20.0], [-500.0, 0.0]])
    moved = codebook.move_centres(centres, codebook.cell_sums(x, centres, rows), seed=0)
    assert int(torch.cdist(moved[2:], moved[:2]).argmin()) == 0
    assert not torch.equal(moved[2], moved[0])
    assert bool((codebook.cell_sums(x, moved, rows)["counts"] > 0).all())
    again = codebook.move_centres(centres, codebook.cell_sums(x, centres, rows), seed=0)
    assert torch.equal(moved, again)


def test_where_every_cell_is_kept_back_the_centres_stay():
    rows, centres = one_cell_each(2, 3)
    moved = codebook.move_centres(centres, codebook.cell_sums(rows.x, centres, rows), seed=0)
    assert torch.equal(moved, centres)
    single = centres[:1]
    assert torch.equal(codebook.move_centres(single, codebook.cell_sums(rows.x[:3], single, rows_of([3])), 0), single)


def test_a_histogram_counts_each_clients_words():
    words = torch.tensor([0, 2, 2, 1, 1, 1])
    assert codebook.histogram(words, rows_of([3, 3]), 4).tolist() == [[1, 0, 2, 0], [0, 3, 0, 0]]
