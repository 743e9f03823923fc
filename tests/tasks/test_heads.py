"""What outputs mean for tasks without classes, against formulas written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, Normal

from fedgmi.data.rows import Schema
from fedgmi.methods.own_models import BETAS, by_temperature
from fedgmi.mixture import target_bins
from fedgmi.models.experts import make_expert
from fedgmi.models.heads import GAUSSIAN
from fedgmi.runs import target_metrics
from fedgmi.runs.metrics import METRICS, measure
from fedgmi.settings.run import ExpertSettings

SCHEMA = Schema((3,), 0, "tabular", task="regression")


def predictions(n_rows: int = 7, n_experts: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers of single experts [R, K, 3], log weights [R, K], targets [R]."""
    draws = torch.Generator().manual_seed(0)
    outputs = torch.randn(n_rows, n_experts, 2, generator=draws)
    log_weight = torch.randn(n_rows, n_experts, generator=draws).log_softmax(1)
    return GAUSSIAN.read(outputs), log_weight, torch.randn(n_rows, generator=draws)


def test_the_loss_is_minus_the_log_of_the_normal_density():
    outputs, y = torch.tensor([[[1.0, math.log(2.0)]]]), torch.tensor([[4.0]])
    assert float(GAUSSIAN.loss(outputs, y)) == pytest.approx(0.5 * math.log(2 * math.pi) + math.log(2) + 9 / 8)


def test_a_mixture_of_experts_is_a_mixture_of_their_densities():
    numbers, log_weight, y = predictions()
    mixed = GAUSSIAN.mix(numbers, log_weight)
    literal = MixtureSameFamily(Categorical(logits=log_weight), Normal(numbers[..., 1], numbers[..., 2].exp()))
    torch.testing.assert_close(GAUSSIAN.log_lik(mixed, y).float(), literal.log_prob(y))
    np.testing.assert_allclose(target_metrics.mean_of(mixed.numpy()), literal.mean, rtol=1e-5)


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_as_much_lies_below_an_interval_as_above_it(level):
    numbers, log_weight, _ = predictions()
    ends = torch.from_numpy(target_metrics.interval_of(GAUSSIAN.mix(numbers, log_weight).numpy(), level))
    literal = MixtureSameFamily(Categorical(logits=log_weight), Normal(numbers[..., 1], numbers[..., 2].exp()))
    torch.testing.assert_close(literal.cdf(ends[:, 0]), torch.full((7,), (1 - level) / 2).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(literal.cdf(ends[:, 1]), torch.full((7,), (1 + level) / 2).double(), atol=1e-5, rtol=0)


def test_a_temperature_widens_a_gaussian():
    """p^β made to sum to one, by a sum over a fine grid."""
    beta = torch.tensor([[0.25]])
    grid = torch.linspace(-30, 30, 60001, dtype=torch.float64)
    raised = (0.25 * Normal(1.0, 2.0).log_prob(grid)).exp()
    literal = raised / (raised.sum() * (grid[1] - grid[0]))
    tempered = GAUSSIAN.temper(torch.tensor([[0.0, 1.0, math.log(2.0)]]), beta).expand(len(grid), -1)
    torch.testing.assert_close(GAUSSIAN.log_lik(tempered, grid).exp(), literal, atol=1e-5, rtol=0)


def test_a_model_that_is_too_sure_of_itself_is_given_a_small_temperature():
    y = torch.randn(400, generator=torch.Generator().manual_seed(0))
    sure = torch.tensor([0.0, 0.0, math.log(0.5)]).expand(400, 3)
    best = float(BETAS[by_temperature(sure, y, GAUSSIAN).argmax()])
    assert best == pytest.approx(0.25, rel=0.2)  # N(0, 0.5²) becomes N(0, 1)


def test_the_heads_of_one_trunk_are_the_experts_one_by_one():
    expert = make_expert(ExpertSettings(hidden=4), SCHEMA)
    assert (expert.n_classes, expert.gradient) == (2, None)
    params = torch.stack([expert.init(torch.Generator().manual_seed(k)) for k in range(2)])
    params[1, : expert.trunk] = params[0, : expert.trunk]
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    heads = expert.heads(torch.cat([params[0], params[1, expert.trunk :]])[None], x[None])[0]
    torch.testing.assert_close(expert.log_prob(params, x), GAUSSIAN.read(heads))
    assert expert.log_prob(params, x[:0]).shape == (0, 2, 3)


def test_bins_hold_equally_many_rows():
    """Of a target that is far from normal, to within the grid's cells."""
    y = torch.rand(8000, generator=torch.Generator().manual_seed(0)).pow(3)
    y = (y - y.mean()) / y.std()
    inner = target_bins.edges(target_bins.grid_counts(target_bins.level(SCHEMA, y)))
    shares = target_bins.values(SCHEMA, y, inner).bincount(minlength=target_bins.BINS) / len(y)
    assert float((shares - 1 / target_bins.BINS).abs().max()) < 0.03


def test_counts_of_clients_add_up_to_those_of_all():
    level = torch.linspace(0, 1, 101).double()
    parts = target_bins.grid_counts(level[:30]) + target_bins.grid_counts(level[30:])
    assert torch.equal(parts, target_bins.grid_counts(level))
    assert float(parts.sum()) == 101


def test_the_metrics_are_scikit_learns():
    from sklearn import metrics as theirs

    numbers, log_weight, y = predictions(50)
    mixed = GAUSSIAN.mix(numbers, log_weight)
    guess = target_metrics.mean_of(mixed.numpy())
    found = measure(mixed, y, task="regression")
    assert found["rmse"] == pytest.approx(math.sqrt(theirs.mean_squared_error(y, guess)))
    assert found["mae"] == pytest.approx(theirs.mean_absolute_error(y, guess))
    assert found["r2"] == pytest.approx(theirs.r2_score(y, guess))
    assert found["nll"] == pytest.approx(-float(GAUSSIAN.log_lik(mixed, y).mean()), rel=1e-6)
    ends = target_metrics.interval_of(mixed.numpy())
    assert found["coverage"] == sum(low <= t <= high for (low, high), t in zip(ends, y, strict=True)) / 50


def test_rows_of_one_target_have_no_r2_and_no_rows_have_nothing():
    numbers, log_weight, _ = predictions(3)
    mixed = GAUSSIAN.mix(numbers, log_weight)
    assert measure(mixed, torch.ones(3), task="regression")["r2"] is None
    assert set(measure(mixed[:0], torch.ones(0), task="regression").values()) == {None}


def test_a_coverage_that_is_too_large_is_no_better_than_one_that_is_too_small():
    assert METRICS["coverage"].best([1.0, 0.88, 0.5]) == 1
    assert METRICS["rmse"].best([1.0, 0.5, None]) == 1
