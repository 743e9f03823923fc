"""What releases cost together, held to closed forms and to exact sums over outcomes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedgmi.privacy.accountant import (
    BOTH,
    CLIENTS,
    GAUSSIAN,
    GEOMETRIC,
    REPLACED,
    Spending,
    composed,
    gaussian_delta,
    gaussian_epsilon,
    geometric_renyi,
    noise_multiplier,
)
from fedgmi.privacy.ledger import Release

EPSILONS = st.floats(0.01, 5.0)


@given(EPSILONS, st.floats(1.05, 60.0))
def test_the_closed_form_is_the_sum_over_all_outcomes(epsilon, order):
    """1/(α − 1)·log Σ_z P(z)^α·P(z − 1)^(1 − α), either way round."""
    z = np.arange(-int(60 / epsilon) - 5, int(60 / epsilon) + 6)
    here, there = (math.log(math.tanh(epsilon / 2)) - epsilon * np.abs(z - shift) for shift in (0, 1))
    for one, other in ((here, there), (there, here)):
        direct = np.logaddexp.reduce(order * one + (1 - order) * other) / (order - 1)
        assert geometric_renyi(epsilon, order) == pytest.approx(direct, rel=1e-6, abs=1e-9)
    assert geometric_renyi(epsilon, order) <= min(epsilon, order * epsilon**2 / 2) + 1e-12


@given(st.floats(0.05, 6.0), st.floats(0.0, 8.0))
def test_delta_of_gaussian_noise_is_the_integral(mu, epsilon):
    """∫ max(0, p(x) − e^ε·q(x)) dx of two normal laws μ apart."""
    x = np.linspace(-12, 12 + mu, 40001)
    both = stats.norm.pdf(x - mu) - math.exp(epsilon) * stats.norm.pdf(x)
    direct = np.trapezoid(np.maximum(both, 0), x)
    assert gaussian_delta(mu, epsilon) == pytest.approx(direct, abs=1e-5)


def exact(epsilon: float, times: int, delta: float) -> float:
    """ε of geometric releases, exactly: of each the loss is ±ε, so that their sum is binomial."""
    wins = np.arange(times + 1)
    loss = epsilon * (2.0 * wins - times)
    chance = stats.binom.pmf(wins, times, 1 / (1 + math.exp(-epsilon)))
    grid = np.linspace(0, epsilon * times, 20001)
    enough = [at for at in grid if float((chance * -np.expm1(np.minimum(at - loss, 0))).sum()) <= delta]
    return float(enough[0])


@pytest.mark.parametrize(("epsilon", "times"), [(0.1, 1), (0.1, 20), (0.1, 300), (0.5, 50), (1.0, 3), (3.0, 10)])
def test_many_geometric_releases_are_never_undercounted_and_little_overcounted(epsilon, times):
    spent = Spending(pure=(epsilon,) * times)
    truth, found = exact(epsilon, times, 1e-5), spent.epsilon(1e-5)
    assert truth - 1e-3 <= found <= 1.25 * truth + 0.05
    assert found <= epsilon * times + 1e-12
    assert spent.epsilon(0.0) == pytest.approx(epsilon * times)
    if times >= 300:
        assert found < 0.4 * epsilon * times  # the point of it


@given(st.lists(st.floats(0.3, 20.0), min_size=1, max_size=8), st.sampled_from([1e-3, 1e-5, 1e-9]))
def test_gaussian_releases_are_one(multipliers, delta):
    spent = Spending()
    for sigma in multipliers:
        spent = spent.gaussian(sigma)
    mu = math.sqrt(sum(1 / sigma**2 for sigma in multipliers))
    assert spent.epsilon(delta) == pytest.approx(gaussian_epsilon(mu, delta))
    assert gaussian_delta(mu, spent.epsilon(delta) + 1e-6) <= delta
    assert spent.epsilon(delta) <= mu**2 / 2 + mu * math.sqrt(2 * math.log(1 / delta)) + 1e-9  # Mironov 2017, (ε, δ)


@given(st.lists(EPSILONS, max_size=20), st.floats(0.5, 30.0), st.integers(0, 50), EPSILONS)
def test_more_releases_cost_more_and_more_noise_costs_less(pure, sigma, times, more):
    spent = Spending(pure=tuple(pure)).gaussian(sigma, times)
    now = spent.epsilon(1e-5)
    assert now <= spent.geometric(more).epsilon(1e-5) + 1e-9 <= now + more + 1e-6
    assert now <= spent.gaussian(sigma).epsilon(1e-5) + 1e-9
    assert Spending(pure=tuple(pure)).gaussian(2 * sigma, times).epsilon(1e-5) <= now + 1e-9


@given(st.floats(0.5, 20.0), st.integers(1, 200))
def test_noise_for_an_epsilon_costs_that_epsilon(epsilon, times):
    sigma = noise_multiplier(epsilon, 1e-4, times)
    assert Spending().gaussian(sigma, times).epsilon(1e-4) == pytest.approx(epsilon, rel=1e-4)
    with pytest.raises(ValueError, match="the counts alone cost"):
        noise_multiplier(epsilon, 1e-4, times, pure=[epsilon + 1])


def test_gaussian_noise_without_delta_has_no_epsilon():
    assert Spending().gaussian(10.0).epsilon(0.0) == math.inf
    assert Spending().unknown(1.0, 1e-3).epsilon(1e-6) == math.inf


def test_a_ledger_adds_up_by_mechanism():
    counts = [Release(str(i), 0.1, 0.0, "counts", about={"mechanism": "geometric"}) for i in range(100)]
    assert composed(0.0)(counts) == (pytest.approx(10.0), 0.0)
    epsilon, delta = composed(1e-6)(counts)
    assert delta == 1e-6
    assert epsilon == Spending(pure=(0.1,) * 100).epsilon(1e-6) < 7
    sums = [Release("s", 5.0, 1e-6, "sums", about={"mechanism": "gaussian", "noise_multiplier": 2.0})]
    assert composed(1e-6)(sums)[0] == pytest.approx(Spending().gaussian(2.0).epsilon(1e-6))
    assert composed(0.0)(sums) == (5.0, 1e-6)
    assert composed(1e-6)([Release("o", 2.0, 0.0, "other")]) == (2.0, 1e-6)


def whole_run(epsilon: float, sigma: float, counts: float = 2.0, each: float = 0.4) -> Release:
    about = {"mechanism": BOTH, "noise_multiplier": sigma, "count_epsilon": each, "counts": counts, "unit": REPLACED}
    return Release("r", epsilon, 1e-5, "a run", about=about)


def test_a_run_of_counts_and_gaussian_noise_is_composed_by_both():
    one = Spending(pure=(0.4, 0.4)).gaussian(3.0)
    entry = whole_run(one.epsilon(1e-5), 3.0)
    assert composed(1e-5)([entry]) == (one.epsilon(1e-5), 1e-5)
    assert composed(0.0)([entry]) == (entry.epsilon, 1e-5)  # basic composition
    five = composed(1e-5)([entry] * 5)[0]
    assert five == pytest.approx(Spending(pure=(0.4,) * 10).gaussian(3.0 / 5**0.5).epsilon(1e-5))
    assert entry.epsilon < five < 5 * entry.epsilon
    assert five >= gaussian_epsilon(5**0.5 / 3.0, 1e-5)  # no less than its parts
    assert five >= exact(0.4, 10, 1e-5) - 1e-3


@given(st.integers(0, 4), st.integers(0, 4), st.integers(0, 3), st.sampled_from([0.0, 1e-5]))
def test_entries_of_several_units_are_counted_for_one_row_in_anothers_place(n_counts, n_runs, n_clients, delta):
    """A count alone changes by a row that goes; in another's place a row changes two. Of clients an update moves from
    one to another by two lengths."""
    counts = [Release("c", 0.3, 0.0, "counts", about={"mechanism": GEOMETRIC})] * n_counts
    runs = [whole_run(2.0, 4.0)] * n_runs
    about = {"mechanism": GAUSSIAN, "noise_multiplier": 5.0, "unit": CLIENTS}
    clients = [Release("g", 1.0, 1e-6, "a run", about=about)] * n_clients
    found = composed(delta)([*counts, *runs, *clients])[0]
    several = sum(map(bool, (n_counts, n_runs, n_clients))) > 1
    truth = Spending(pure=(0.3,) * (n_counts * (2 if n_runs else 1)) + (0.4, 0.4) * n_runs)
    truth = truth.gaussian(4.0, n_runs).gaussian(2.5 if several else 5.0, n_clients)
    if delta:
        assert found == pytest.approx(truth.epsilon(delta))
    else:
        most = 0.3 * n_counts * (2 if n_runs else 1) + 2.0 * n_runs + (2.0 if several else 1.0) * n_clients
        assert found == pytest.approx(most)
    assert found >= composed(delta)([*runs, *clients])[0] - 1e-9
