"""Calibration: how much evidence is worth, learnt from co-occurrence across clients."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from federations import dirichlet, draw, rows_of
from fedgmi import tree
from fedgmi.data.rows import Rows
from fedgmi.mixture import calibration
from fedgmi.mixture.calibration import calibration_sums, fisher_step, log_evidence, share_sums
from fedgmi.mixture.posterior import e_step, uniform

UNLIMITED = 1e6


class Problem(NamedTuple):
    """evidence [R, 1, K]: the true log ratios of three overlapping Gaussians · component [R]."""

    evidence: Tensor
    rows: Rows
    proportions: Tensor
    component: Tensor


def problem(n_clients: int = 25, n_rows: int = 150, alpha: float = 0.5, seed: int = 0) -> Problem:
    proportions = dirichlet(n_clients, 3, alpha, seed)
    component = torch.multinomial(proportions, n_rows, replacement=True, generator=draw(seed)).flatten()
    means = 2.0 * torch.eye(3, dtype=torch.float64)
    x = means[component] + torch.randn(len(component), 3, generator=draw(seed + 1), dtype=torch.float64)
    logs = -0.5 * (x[:, None] - means).square().sum(2)
    evidence = calibration.centre(logs)[:, None]
    return Problem(evidence, rows_of([n_rows] * n_clients), proportions, component)


def noise_like(evidence: Tensor, seed: int = 5) -> Tensor:
    """Evidence as strong as the first kind, that knows nothing."""
    drawn = torch.randn(evidence.shape, generator=draw(seed), dtype=torch.float64)
    return calibration.centre(drawn * evidence.std())


class Fitted(NamedTuple):
    weights: Tensor
    bias: Tensor
    share: Tensor
    proportions: Tensor
    steps: list[Tensor]


def calibrate(evidence: Tensor, rows: Rows, start: list[float], limit: list[float], n_steps: int = 40) -> Fitted:
    """What server and clients do together: shares, proportions, gradient, step."""
    n_components = evidence.shape[2]
    weights, bias = torch.tensor(start, dtype=torch.float64), torch.zeros(n_components, dtype=torch.float64)
    start_from = uniform(rows.n_clients, n_components)
    steps, proportions, share = [], start_from, start_from[0]
    for _ in range(n_steps):
        sums = share_sums(evidence, weights, bias)
        share = sums["share"] / sums["count"]
        logs = log_evidence(evidence, weights, bias, share)
        proportions = e_step(logs, rows, start_from, share).proportions
        sums = calibration_sums(evidence, weights, bias, share, proportions, rows)
        steps.append(weights)
        weights, bias = fisher_step(weights, bias, sums, torch.tensor(limit))
    return Fitted(weights, bias, share, proportions, steps)


def arguments(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Rows]:
    counts = [4, 9, 2]
    evidence = calibration.centre(torch.randn(15, 2, 3, generator=draw(seed), dtype=torch.float64))
    weights, bias = torch.tensor([0.7, 0.4]).double(), torch.tensor([0.0, 0.3, -0.2]).double()
    share = torch.tensor([0.5, 0.3, 0.2]).double()
    return evidence, weights, bias, share, dirichlet(3, 3, 2.0, seed), rows_of(counts)


def without_own_row(proportions: Tensor, ratio: Tensor, share: Tensor, rows: Rows) -> Tensor:
    """π_i^(−x) row by row, as the docstring of the module has it."""
    out = torch.zeros(len(rows), len(share), dtype=torch.float64)
    for row, client in enumerate(rows.client_index.tolist()):
        resp = proportions[client] * ratio[row]
        n = int(rows.counts[client])
        out[row] = (n * proportions[client] - resp / resp.sum() + share) / n
    return out


def test_the_gradient_is_that_of_the_stated_likelihood():
    """q, and each client's proportions without the row, held: autograd through s_k(x) alone."""
    evidence, weights, bias, share, proportions, rows = arguments()
    weights, bias = weights.requires_grad_(), bias.requires_grad_()
    gate = calibration.scores(evidence, weights, bias).softmax(1)
    ratio = gate / share
    without = without_own_row(proportions, ratio.detach(), share, rows)
    rowwise = (without * ratio).sum(1).log()
    jacobian = []
    for value in rowwise:
        by_weight, by_bias = torch.autograd.grad(value, (weights, bias), retain_graph=True)
        jacobian.append(torch.cat([by_weight, by_bias[1:]]))
    expected = torch.stack(jacobian)
    sums = calibration_sums(evidence, weights.detach(), bias.detach(), share, proportions, rows)
    torch.testing.assert_close(sums["gradient"], expected.sum(0))
    torch.testing.assert_close(sums["fisher"], expected.T @ expected)
    torch.testing.assert_close(sums["log_likelihood"], rowwise.sum().detach())
    assert float(sums["count"]) == 15


def test_messages_add_up_over_clients():
    evidence, weights, bias, share, proportions, rows = arguments(3)
    whole = calibration_sums(evidence, weights, bias, share, proportions, rows)
    whole |= {f"q {name}": leaf for name, leaf in share_sums(evidence, weights, bias).items()}
    total: dict[str, Tensor] = {}
    for i, part in enumerate(evidence.split(rows.counts.tolist())):
        alone = calibration_sums(part, weights, bias, share, proportions[i : i + 1], rows_of([len(part)]))
        alone |= {f"q {name}": leaf for name, leaf in share_sums(part, weights, bias).items()}
        total = tree.add(total, alone)
    assert total.keys() == whole.keys()
    for name, leaf in whole.items():
        torch.testing.assert_close(total[name], leaf)


def test_the_density_ratio_averages_to_one_over_all_rows():
    evidence, weights, bias, *_ = arguments()
    sums = share_sums(evidence, weights, bias)
    ratio = log_evidence(evidence, weights, bias, sums["share"] / sums["count"]).exp()
    torch.testing.assert_close(ratio.mean(0), torch.ones(3, dtype=torch.float64))
    assert float(sums["share"].sum()) == pytest.approx(float(sums["count"]))


@pytest.mark.parametrize("temperature", [0.5, 3.0, 20.0])
def test_overconfident_evidence_is_scaled_back_to_what_it_is_worth(temperature):
    """Evidence T times the true log ratio: λ → 1/T, and proportions as good as with the truth itself."""
    given = problem()
    evidence = temperature * given.evidence
    deviation = evidence.std()
    found = calibrate(evidence / deviation, given.rows, [0.1], [UNLIMITED])
    multiplier = float(found.weights[0] / deviation) * temperature
    assert multiplier == pytest.approx(1.0, abs=0.15)
    truth = e_step(given.evidence[:, 0], given.rows, given.proportions).proportions
    assert float((found.proportions - truth).abs().sum(1).mean() / 2) < 0.03


def test_steps_settle():
    given = problem()
    found = calibrate(5.0 * given.evidence / given.evidence.std(), given.rows, [1.0], [UNLIMITED])
    assert float((found.steps[-1] - found.steps[-6]).abs().max()) < 0.01
    assert all(float((b - a).abs().max()) <= calibration.CLIP + 1e-9 for a, b in pairwise(found.steps))


def test_evidence_that_is_noise_gets_no_weight():
    given = problem()
    unit = given.evidence / given.evidence.std()
    found = calibrate(torch.cat([unit, noise_like(unit)], 1), given.rows, [0.5, 0.5], [UNLIMITED] * 2)
    assert float(found.weights[0] / given.evidence.std()) == pytest.approx(1.0, abs=0.15)
    assert float(found.weights[1]) < 0.1


def test_where_clients_are_all_alike_evidence_stays_small():
    """Nothing co-occurs, so nothing is known of components; without leaving out the row, λ would go to infinity."""
    given = problem(n_rows=10)
    everyone = torch.randperm(len(given.component), generator=draw(3))
    shuffled = given.evidence[everyone] / given.evidence.std()
    found = calibrate(shuffled, given.rows, [0.5], [UNLIMITED])
    assert float(found.weights[0] / given.evidence.std()) < 0.6


def test_evidence_with_limit_0_stays_out():
    given = problem(n_clients=8, n_rows=60)
    pair = torch.cat([noise_like(given.evidence), given.evidence], 1)
    found = calibrate(pair, given.rows, [0.2, 0.0], [UNLIMITED, 0.0], n_steps=5)
    assert all(float(step[1]) == 0.0 for step in found.steps)
    alone = calibrate(pair[:, :1], given.rows, [0.2], [UNLIMITED], n_steps=5)
    torch.testing.assert_close(found.weights[0], alone.weights[0])
    torch.testing.assert_close(found.bias, alone.bias)


def test_limits_bind_and_weights_are_never_negative():
    given = problem(n_clients=8, n_rows=60)
    assert calibrate(given.evidence, given.rows, [0.1], [0.3], n_steps=10).weights.tolist() == pytest.approx([0.3])
    down = {"gradient": torch.tensor([-50.0, 0.0]).double(), "fisher": torch.eye(2).double()}
    down["count"] = torch.tensor(10.0).double()
    assert fisher_step(torch.tensor([0.2]), torch.zeros(2), down, torch.ones(1))[0].tolist() == [0.0]


def test_the_first_bias_is_the_reference_and_all_moves_are_clipped():
    sums = {"gradient": torch.tensor([1e9, -1e9, 1e9]).double(), "fisher": torch.eye(3).double()}
    sums["count"] = torch.tensor(1.0).double()
    weights, bias = fisher_step(torch.ones(1), torch.zeros(3), sums, torch.tensor([UNLIMITED]))
    assert weights.tolist() == pytest.approx([1.3])
    assert bias.tolist() == pytest.approx([0.0, -0.3, 0.3])


def test_an_empty_message_moves_nothing():
    sums = {"gradient": torch.zeros(3).double(), "fisher": torch.zeros(3, 3).double(), "count": torch.ones(()).double()}
    weights, bias = fisher_step(torch.tensor([0.4]), torch.tensor([0.0, 0.1, 0.2]), sums, torch.ones(1))
    assert weights.tolist() == pytest.approx([0.4])
    assert bias.tolist() == pytest.approx([0.0, 0.1, 0.2])


def test_centring_removes_what_all_components_share():
    values = torch.randn(5, 2, 3, generator=draw())
    shifted = values + torch.randn(5, 2, 1, generator=draw(1))
    torch.testing.assert_close(calibration.centre(values), calibration.centre(shifted), atol=1e-6, rtol=0)
    torch.testing.assert_close(calibration.centre(values).sum(2), torch.zeros(5, 2), atol=1e-6, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 1e18, 1e300])
def test_a_step_is_finite_beside_a_curvature_that_outgrows_its_ridge(scale):
    """All entries alike: without a ridge the matrix has rank one, and none is left beside 1e18."""
    fisher = torch.full((3, 3), scale, dtype=torch.float64)
    sums = {"gradient": torch.ones(3).double(), "fisher": fisher, "count": torch.tensor(40.0).double()}
    weights, bias = fisher_step(torch.tensor([0.4]), torch.zeros(3), sums, torch.ones(1))
    assert bool(torch.cat([weights, bias]).isfinite().all())
