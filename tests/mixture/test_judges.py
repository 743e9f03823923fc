"""Judges in closed form: the Student t of the textbook, and a client taken out as if it had never been there."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_t
from torch import Tensor

from federations import draw, rows_of
from fedgmi.data.rows import Rows
from fedgmi.mixture.judges import PRIOR_ROWS, Judges, by_others, moment_sums, n_sums, prior_covariance, unpacked

K, L, D = 3, 2, 4


def points_of(counts: tuple[int, ...], seed: int = 0) -> tuple[Rows, Tensor, Tensor, Tensor]:
    """Rows, and of each a point, responsibilities and a label."""
    n, draws = sum(counts), draw(seed)
    points = torch.randn(n, D, generator=draws) * torch.tensor([1.0, 2.0, 0.5, 3.0]) + 1.0
    resp = torch.rand(n, K, generator=draws, dtype=torch.float64)
    return rows_of(counts), points, resp / resp.sum(1, keepdim=True), torch.randint(L, (n,), generator=draws)


def test_the_predictive_is_the_student_t_of_a_normal_inverse_wishart():
    rows, points, resp, labels = points_of((40,))
    sums = moment_sums(points, resp, labels, L, rows)[0]
    judges, (mass, first, second) = Judges.of(sums), unpacked(sums)
    mean = first / mass[..., None]
    scatter = second - mass[..., None, None] * mean[..., :, None] * mean[..., None, :]
    covariance, _ = prior_covariance(mass, scatter)
    found = judges.log_prob_given(points, labels)
    for k, label in ((0, 1), (2, 0)):
        n, x_bar = float(mass[k, label]), mean[k, label]
        centre = (first[:, label].sum(0) + first.sum((0, 1)) / mass.sum()) / (mass[:, label].sum() + 1)
        kappa, nu = 1.0 + n, D + 2 + PRIOR_ROWS + n  # Murphy 2007, equations 250 to 258
        away = (x_bar - centre)[:, None]
        psi = PRIOR_ROWS * covariance[k, label] + scatter[k, label] + n / kappa * away @ away.T
        dof = nu - D + 1
        of = multivariate_t((centre + n * x_bar) / kappa, psi * (kappa + 1) / (kappa * dof), dof)
        at = labels == label
        expected = torch.from_numpy(of.logpdf(points[at].double().numpy()))
        torch.testing.assert_close(found[at, k], expected, atol=5e-3, rtol=0)  # the ridge is not in the textbook


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=2, max_size=4), st.integers(0, 99))
def test_total_less_own_judges_as_if_the_client_had_never_been_there(counts, seed):
    rows, points, resp, labels = points_of(tuple(counts), seed)
    own = moment_sums(points, resp, labels, L, rows)
    mine = rows.client_index == 0
    rest, others = rows_of(counts[1:]), ~mine
    without = moment_sums(points[others], resp[others], labels[others], L, rest).sum(0)
    torch.testing.assert_close(own.sum(0) - own[0], without, atol=1e-9, rtol=1e-9)
    found = by_others(own.sum(0), own, rows, lambda judges, at: judges.log_prob(points[at], labels[at]))
    expected = Judges.of(without).log_prob(points[mine], labels[mine])
    torch.testing.assert_close(found[mine], expected, atol=1e-5, rtol=1e-7)


def test_sums_add_up_over_clients():
    rows, points, resp, labels = points_of((3, 0, 9))
    whole = moment_sums(points, resp, labels, L, rows_of((12,)))[0]
    assert whole.shape == (K, L, n_sums(D))
    torch.testing.assert_close(moment_sums(points, resp, labels, L, rows).sum(0), whole)


def test_without_a_label_all_labels_count():
    rows, points, resp, labels = points_of((50,))
    judges = Judges.of(moment_sums(points, resp, labels, L, rows)[0])
    each = [judges.log_prob(points, torch.full_like(labels, label)) for label in range(L)]
    torch.testing.assert_close(judges.log_prob(points), torch.stack(each).logsumexp(0))
    torch.testing.assert_close(judges.log_label.exp().sum(1), torch.ones(K).double())


def test_the_density_of_a_component_has_mass_one():
    rows, points, resp, _ = points_of((30,))
    judges = Judges.of(moment_sums(points[:, :1], resp, None, 1, rows)[0])
    grid = torch.linspace(-40.0, 40.0, 4001, dtype=torch.float64)[:, None]
    mass = torch.trapezoid(judges.log_prob(grid).exp(), grid, dim=0)
    torch.testing.assert_close(mass, torch.ones(K).double(), atol=1e-4, rtol=0)


def test_a_unit_of_measurement_tells_nothing():
    """The same rows in other units: log densities move by one Jacobian for all components."""
    rows, points, resp, labels = points_of((60,))
    turned = points @ torch.randn(D, D, generator=draw(1)) * 100.0
    one, other = (Judges.of(moment_sums(z, resp, labels, L, rows)[0]).log_prob(z, labels) for z in (points, turned))
    centred = [logs - logs.mean(1, keepdim=True) for logs in (one, other)]
    torch.testing.assert_close(centred[0], centred[1], atol=0.02, rtol=0)


@pytest.mark.parametrize("kind", ["nobody", "one row", "a constant"])
def test_few_rows_judge_and_do_no_harm(kind):
    counts = (0,) if kind == "nobody" else (1,) if kind == "one row" else (20,)
    rows, points, resp, labels = points_of(counts)
    points = torch.ones_like(points) if kind == "a constant" else points
    judges = Judges.of(moment_sums(points, resp, labels, L, rows)[0])
    logs = judges.log_prob(torch.randn(5, D, generator=draw(2)), torch.zeros(5, dtype=torch.long))
    assert bool(logs.isfinite().all())
    if kind == "nobody":
        assert float((logs - logs[:, :1]).abs().max()) == 0.0
