"""Whether a density's `log_prob` and `sample` are of one distribution, and of total mass one. In one and two dimensions
everything can be summed over a grid."""

from __future__ import annotations

import math

import torch
from scipy import stats
from torch import Tensor

from fedgmi.models.density import Density

DRAWS = 20_000
BY_CHANCE = 1e-4  # how rarely a right density fails a test of fit; draws have a seed, so that it never does again
MASS = {True: 0.004, False: 0.02}  # how far the mass may be from one: exact, or a bound of many draws
SAMPLES = {1: 400, 2: 100}  # draws for a bound, by dimension
ELBO_DRAWS = 8


def findings(density: Density, params: Tensor, n_features: int) -> list[str]:
    """What is wrong between `log_prob` and `sample`.

    Args:
        density: Of tabular rows.
        params: Its parameters. [P]
        n_features: One or two. Nearly all mass is between -10 and 10.

    Returns:
        A sentence for each finding.
    """
    x, cell = grid(n_features)
    mass = scores(density, params, x, SAMPLES[n_features]).double().exp() * cell
    total, found = float(mass.sum()), []
    if abs(total - 1) > MASS[density.exact]:
        found.append(f"exp(log_prob) has a mass of {total:.3f}, not 1")
    if not density.exact:
        several = scores(density, params, x.repeat(ELBO_DRAWS, 1), 1).double().view(ELBO_DRAWS, -1)
        one = float(several.mean(0).exp().sum() * cell)  # of a single draw exp(ELBO) is p(x) on average, and no bound
        found += [f"the ELBO has a mass of {one:.3f}: no bound"] if one > 1 + MASS[False] else []
    drawn = density.sample(params, DRAWS, torch.Generator().manual_seed(1)).flatten(1).double()
    if n_features == 1:
        edges, cumulated = x[:, 0] + cell / 2, mass.cumsum(0) / total
        at = torch.searchsorted(edges, drawn[:, 0].contiguous()).clamp(max=len(edges) - 1)
        p = stats.kstest(cumulated[at].numpy(), "uniform").pvalue
        found += [f"samples are of another distribution (Kolmogorov-Smirnov, p = {p:.1e})"] if p < BY_CHANCE else []
    found += _levels(density, params, mass / total, cell, drawn) if density.exact else []
    found += _habits(density, params, drawn)
    share = (mass / total)[:, None]
    mean = (share * x).sum(0)
    second = (share[:, :, None] * x[:, :, None] * x[:, None]).sum(0)
    moments = torch.cat([mean, second.flatten()])
    each = torch.cat([drawn, (drawn[:, :, None] * drawn[:, None]).flatten(1)], 1)
    off = (each.mean(0) - moments).abs() / (each.std(0) / math.sqrt(DRAWS) + 0.002)
    found += [f"samples have other moments (by {float(off.max()):.0f} standard errors)"] if float(off.max()) > 5 else []
    # log p of samples is -entropy on average: what moments do not see
    own, all_over = (
        scores(density, params, drawn.float(), SAMPLES[n_features]).double(),
        (mass / total).clamp(min=1e-300),
    )
    entropy = float(-(all_over * (all_over / cell).log()).sum())
    gap = abs(float(-own.mean()) - entropy) / (float(own.std()) / math.sqrt(DRAWS) + 0.01)
    found += [f"samples have another mean log_prob (by {gap:.0f} standard errors)"] if gap > 5 else []
    return found


def _levels(density: Density, params: Tensor, share: Tensor, cell: float, drawn: Tensor) -> list[str]:
    """How much mass is less likely than a sample is uniform: that sees shapes of which all moments are right."""
    lowest_first = share.sort().values
    own = scores(density, params, drawn.float(), 1).double().exp() * cell / share.sum()
    at = torch.searchsorted(lowest_first, own).clamp(max=len(lowest_first) - 1)
    p = stats.kstest(lowest_first.cumsum(0)[at].numpy(), "uniform").pvalue
    return [f"samples are of another shape (levels, Kolmogorov-Smirnov, p = {p:.1e})"] if p < BY_CHANCE else []


def _habits(density: Density, params: Tensor, drawn: Tensor) -> list[str]:
    """Draws that repeat themselves, and scores that depend on other rows."""
    found = []
    if len(torch.unique(drawn, dim=0)) < 0.99 * len(drawn):
        found.append("samples repeat themselves")
    first, again, other = (
        density.sample(params, 50, torch.Generator().manual_seed(seed)).flatten(1) for seed in (3, 3, 4)
    )
    if not torch.equal(first, again) or torch.equal(first, other):
        found.append("samples do not follow from the generator alone")
    noise = torch.randn(60, 1, density.noise_size, generator=torch.Generator().manual_seed(2))
    together = density.log_prob(params[None], drawn[:60].float(), noise)[:5]
    alone = density.log_prob(params[None], drawn[:5].float(), noise[:5])
    if not torch.allclose(together, alone, atol=1e-4, rtol=1e-4):
        found.append("the score of a row depends on the rows beside it")
    return found


def grid(n_features: int) -> tuple[Tensor, float]:
    """The middles of cells [n, D], float64, and a cell's volume."""
    side = torch.linspace(-10, 10, 1601 if n_features == 1 else 161, dtype=torch.float64)
    return torch.cartesian_prod(*[side] * n_features).view(-1, n_features), float(side[1] - side[0]) ** n_features


def scores(density: Density, params: Tensor, x: Tensor, samples: int) -> Tensor:
    """log p(x), or its bound. [n]"""
    noise = torch.randn(len(x), samples, density.noise_size, generator=torch.Generator().manual_seed(2))
    return density.log_prob(params[None], x.float(), noise)[:, 0]
