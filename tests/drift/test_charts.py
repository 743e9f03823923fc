"""Sequential ranks, batch statistics and run lengths, against what is known of them exactly."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedgmi.drift import charts
from fedgmi.drift.charts import (
    LEVELS,
    Pool,
    average_run_length,
    level_statistics,
    normal_statistic,
    random_subsets,
    sequential_ranks,
    threshold_for,
)

few = settings(max_examples=50, deadline=None)
SEED = 7


def draws(seed: int = SEED) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_each_order_of_rows_gives_its_own_ranks():
    """n! orders, n! vectors of ranks: ranks of exchangeable rows are independent and uniform, exactly."""
    found = set()
    for order in itertools.permutations([1.0, 2.0, 3.0, 4.0]):
        ranks, _ = sequential_ranks(Pool(), np.array(order), np.full(4, 0.5))
        found.add(tuple(np.ceil(ranks * np.arange(1, 5)).astype(int).tolist()))
    assert found == set(itertools.product([1], [1, 2], [1, 2, 3], [1, 2, 3, 4]))


@few
@given(noise=st.lists(st.floats(0.01, 0.99), min_size=1, max_size=60))
def test_among_equal_scores_chance_decides(noise):
    ranks, _ = sequential_ranks(Pool(), np.ones(len(noise)), np.array(noise))
    assert ranks.tolist() == pytest.approx(noise)


@few
@given(
    scores=st.lists(st.integers(0, 9), min_size=1, max_size=80),
    cuts=st.sets(st.integers(0, 80)),
    seed=st.integers(0, 99),
)
def test_ranks_do_not_depend_on_how_rows_come_in_batches(scores, cuts, seed):
    values, noise = np.array(scores, float), draws(seed).random(len(scores))
    whole, all_rows = sequential_ranks(Pool(), values, noise)
    places = sorted(cut for cut in cuts if cut < len(scores))
    pool, parts = Pool(), []
    for rows in np.split(np.arange(len(scores)), places):
        ranks, pool = sequential_ranks(pool, values[rows], noise[rows])
        parts.append(ranks)
    assert np.concatenate(parts).tolist() == whole.tolist()
    assert len(pool) == len(all_rows) == len(scores)


@pytest.mark.parametrize("capacity", [20, 10_000])
@pytest.mark.parametrize("ties", [False, True])
def test_ranks_are_uniform_and_independent_however_little_is_remembered(monkeypatch, capacity, ties):
    monkeypatch.setattr(charts, "CAPACITY", capacity)
    rng = draws()
    scores = rng.poisson(1.0, 6000).astype(float) if ties else rng.standard_cauchy(6000)
    pool, parts = Pool(), []
    for batch in np.split(scores, 600):
        ranks, pool = sequential_ranks(pool, batch, rng.random(10))
        parts.append(ranks)
    ranks = np.concatenate(parts)
    assert len(pool.values) <= capacity
    assert len(pool) == 6000
    assert stats.kstest(ranks, "uniform").pvalue > 0.01
    table, _, _ = np.histogram2d(ranks[1:], ranks[:-1], bins=5)
    assert stats.chi2_contingency(table).pvalue > 0.01
    assert stats.kstest([normal_statistic(part) for part in parts], "norm").pvalue > 0.01


def test_lower_scores_have_low_ranks():
    rng = draws()
    _, pool = sequential_ranks(Pool(), rng.normal(size=200), rng.random(200))
    ranks, _ = sequential_ranks(pool, rng.normal(-5, 1, size=3), rng.random(3))
    assert ranks.max() < 0.05
    assert normal_statistic(ranks) < -3


def test_subsets_are_uniform_and_without_repetition():
    found = random_subsets(6, 3, draws())
    assert found.shape == (3, charts.DRAWS)
    assert (np.diff(np.sort(found, axis=0), axis=0) > 0).all()
    counts = np.unique(np.sort(found, axis=0), axis=1, return_counts=True)[1]
    assert len(counts) == math.comb(6, 3)
    assert stats.chisquare(counts).pvalue > 0.01


def test_a_subset_of_all_is_all():
    assert set(random_subsets(4, 4, draws()).sum(0).tolist()) == {6}


@pytest.mark.parametrize(
    ("shares", "n_rows"),
    [
        pytest.param([0.95, 0.04, 0.01], 5, id="rare"),
        pytest.param([0.4, 0.2, 0.4], 30, id="two blocks"),
        pytest.param([1.0, 0.0, 0.0], 5, id="always the same"),
    ],
)
def test_level_statistics_are_standard_normal_and_independent(shares, n_rows):
    rng, found = draws(), []
    for _ in range(150):
        counts = np.bincount(rng.choice([0, 10, LEVELS], p=shares, size=20), minlength=LEVELS + 1)[None]
        for _ in range(4):
            z, counts = level_statistics(counts, rng.choice([0, 10, LEVELS], p=shares, size=(n_rows, 1)), rng)
            found.append(z[0])
    series = np.array(found).reshape(150, 4)
    assert stats.kstest(found, "norm").pvalue > 0.01
    assert max(abs(np.corrcoef(series.T)[i, i + 1]) for i in range(3)) < 4 / math.sqrt(150)


def test_level_statistics_count_rows_and_tell_the_direction():
    rng = draws()
    counts = np.zeros((2, LEVELS + 1), np.int64)
    counts[:, [0, LEVELS]] = 50
    levels = np.stack([np.full(20, LEVELS), np.zeros(20, int)], axis=1)
    (risen, fallen), after = level_statistics(counts, levels, rng)
    assert risen > 3
    assert fallen < -3
    assert after.sum(1).tolist() == [120, 120]
    assert after[0, LEVELS] == after[1, 0] == 70


def test_a_component_that_nobody_had_is_noticed_at_once():
    counts = np.zeros((1, LEVELS + 1), np.int64)
    counts[0, 0] = 100
    levels = np.where(np.arange(20) < 6, LEVELS, 0)[:, None]
    assert level_statistics(counts, levels, draws())[0][0] > 3


@pytest.mark.parametrize(("threshold", "expected"), [(3.0, 117.6), (4.0, 335.4), (5.0, 930.9)])
def test_run_length_agrees_with_published_tables(threshold, expected):
    """Lucas & Crosier 1982: one-sided CUSUMs of N(0, 1) with allowance 1/2."""
    assert average_run_length(threshold, 0.5) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize(
    ("allowance", "threshold"), [(0.25, 8.01), (0.5, 4.77), (0.75, 3.34), (1.0, 2.52), (1.25, 1.99), (1.5, 1.61)]
)
def test_threshold_of_a_two_sided_chart_agrees_with_published_tables(allowance, threshold):
    """Hawkins 1993: thresholds at which both sides together have run length 370."""
    assert threshold_for(370, 2, allowance) == pytest.approx(threshold, abs=0.01)


def test_without_a_threshold_the_run_ends_at_the_first_rise():
    assert average_run_length(1e-9) == pytest.approx(1 / stats.norm.sf(charts.ALLOWANCE), rel=1e-6)


@settings(max_examples=10, deadline=None)
@given(run_length=st.floats(10, 1e4), n_charts=st.integers(1, 20))
def test_threshold_gives_each_chart_its_part_of_the_false_alarms(run_length, n_charts):
    assert average_run_length(threshold_for(run_length, n_charts)) == pytest.approx(run_length * n_charts, rel=1e-6)
