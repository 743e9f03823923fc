"""The E-step: posterior probabilities of components, and proportions at their fixed point."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from federations import dirichlet, draw, rows_of
from fedgmi.mixture.posterior import e_step, responsibilities, uniform

sizes = st.lists(st.integers(1, 12), min_size=1, max_size=5)
few = settings(max_examples=40, deadline=None)


def evidence(n_rows: int, n_components: int, seed: int, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(n_rows, n_components, generator=draw(seed), dtype=torch.float64)


@few
@given(counts=sizes, n_components=st.integers(1, 5), scale=st.floats(0, 1e4), seed=st.integers(0, 999))
def test_responsibilities_and_proportions_lie_on_the_simplex(counts, n_components, scale, seed):
    logs = evidence(sum(counts), n_components, seed, scale)
    found = e_step(logs, rows_of(counts), dirichlet(len(counts), n_components, seed=seed))
    for values in (found.responsibilities, found.proportions):
        assert bool((values >= 0).all())
        torch.testing.assert_close(values.sum(1), torch.ones(len(values), dtype=torch.float64))


@few
@given(counts=sizes, seed=st.integers(0, 999), with_prior=st.booleans())
def test_em_for_proportions_never_lowers_its_objective(counts, seed, with_prior):
    logs, rows = evidence(sum(counts), 3, seed), rows_of(counts)
    prior = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64) if with_prior else torch.zeros(3, dtype=torch.float64)
    proportions = dirichlet(len(counts), 3, seed=seed + 1)
    last = -float("inf")
    for _ in range(15):
        found = e_step(logs, rows, proportions, prior, iterations=1)
        proportions = found.proportions
        value = float(found.log_likelihood.sum() + (prior * proportions.clamp(min=1e-12).log()).sum())
        assert value >= last - 1e-9
        last = value


def test_responsibilities_follow_bayes_by_hand():
    likelihood = torch.tensor([[0.2, 0.6], [0.5, 0.1]], dtype=torch.float64)
    proportions = torch.tensor([[0.75, 0.25], [0.4, 0.6]], dtype=torch.float64)
    resp, logs = responsibilities(likelihood.log(), proportions, torch.tensor([0, 1]))
    assert resp[0].tolist() == pytest.approx([0.15 / 0.30, 0.15 / 0.30])
    assert resp[1].tolist() == pytest.approx([0.20 / 0.26, 0.06 / 0.26])
    assert logs.exp().tolist() == pytest.approx([0.30, 0.26])


def test_separated_components_are_counted():
    component = torch.tensor([0, 0, 0, 1, 1, 0, 1, 1])
    logs = torch.where(torch.nn.functional.one_hot(component, 2).bool(), 0.0, -200.0)
    rows = rows_of([5, 3])
    plain = e_step(logs, rows, uniform(2, 2))
    torch.testing.assert_close(plain.proportions, torch.tensor([[0.6, 0.4], [1 / 3, 2 / 3]], dtype=torch.float64))
    prior = torch.tensor([0.5, 0.5])
    held = e_step(logs, rows, uniform(2, 2), prior).proportions
    torch.testing.assert_close(held, torch.tensor([[3.5 / 6, 2.5 / 6], [1.5 / 4, 2.5 / 4]], dtype=torch.float64))


def test_overlapping_words_are_disentangled_to_the_maximum_likelihood():
    """Two words, p(w=1 | k) = 0.9 and 0.2, seen 6 times of 10: π·0.9 + (1−π)·0.2 = 0.6."""
    table = torch.tensor([[0.1, 0.8], [0.9, 0.2]], dtype=torch.float64).log()
    words = torch.tensor([1] * 6 + [0] * 4)
    found = e_step(table[words], rows_of([10]), uniform(1, 2), iterations=2000, tolerance=1e-10)
    assert found.proportions[0].tolist() == pytest.approx([4 / 7, 3 / 7], abs=1e-6)
    torch.testing.assert_close(found.responsibilities.mean(0), found.proportions[0], atol=1e-8, rtol=0)


@pytest.mark.parametrize("worst", [-1e30, -float("inf")])
def test_a_component_that_explains_nothing_gets_nothing(worst):
    logs = torch.zeros(4, 3, dtype=torch.float64)
    logs[:, 1] = worst
    found = e_step(logs, rows_of([4]), torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64))
    assert found.responsibilities[:, 1].tolist() == [0.0] * 4
    assert found.proportions[0].tolist() == pytest.approx([0.4, 0.0, 0.6])
    assert bool(found.log_likelihood.isfinite().all())


def test_a_prior_keeps_a_component_that_plain_em_loses():
    rows = rows_of([9])
    against = torch.tensor([[0.0, -300.0]]).expand(9, 2)
    lost = e_step(against, rows, uniform(1, 2)).proportions
    kept = e_step(against, rows, uniform(1, 2), torch.tensor([0.7, 0.3])).proportions
    assert float(lost[0, 1]) < 1e-100
    assert float(kept[0, 1]) == pytest.approx(0.3 / 10)
    mild = torch.tensor([[-3.0, 0.0]]).expand(9, 2)  # new evidence, for the other one
    assert float(e_step(mild, rows, lost, iterations=2).proportions[0, 1]) < 1e-6
    assert float(e_step(mild, rows, kept, iterations=2).proportions[0, 1]) > 0.5


@few
@given(counts=sizes, seed=st.integers(0, 999))
def test_a_constant_per_row_moves_the_likelihood_alone(counts, seed):
    logs, rows, start = evidence(sum(counts), 3, seed), rows_of(counts), uniform(len(counts), 3)
    shift = 100 * torch.randn(len(rows), generator=draw(seed), dtype=torch.float64)
    one, other = e_step(logs, rows, start), e_step(logs + shift[:, None], rows, start)
    torch.testing.assert_close(one.responsibilities, other.responsibilities, atol=1e-9, rtol=0)
    torch.testing.assert_close(one.proportions, other.proportions, atol=1e-9, rtol=0)
    torch.testing.assert_close(one.log_likelihood + shift, other.log_likelihood, atol=1e-9, rtol=1e-9)


def test_the_order_of_rows_and_clients_changes_nothing():
    counts = [3, 7, 5]
    logs, start = evidence(15, 3, 1), dirichlet(3, 3)
    whole = e_step(logs, rows_of(counts), start, tolerance=0.0)
    blocks = logs.split(counts)
    turned = [block.flip(0) for block in blocks]
    flipped = e_step(torch.cat(turned), rows_of(counts), start, tolerance=0.0)
    torch.testing.assert_close(flipped.proportions, whole.proportions)
    order = [2, 0, 1]
    moved = e_step(
        torch.cat([blocks[i] for i in order]), rows_of([counts[i] for i in order]), start[order], tolerance=0.0
    )
    torch.testing.assert_close(moved.proportions, whole.proportions[order])
    alone = e_step(blocks[1], rows_of([7]), start[1:2], tolerance=0.0)
    torch.testing.assert_close(alone.proportions, whole.proportions[1:2])
    torch.testing.assert_close(alone.responsibilities, whole.responsibilities[3:10])


def test_uniform_proportions_sum_to_one_whatever_the_number_of_components():
    for k in range(1, 8):
        found = uniform(3, k)
        assert found.shape == (3, k)
        assert found.dtype == torch.float64
        assert bool((found == 1.0 / k).all())
