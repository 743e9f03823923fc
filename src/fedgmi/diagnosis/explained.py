"""How much of what differs between clients K components explain, and how much is each client's own."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

from torch import Tensor

from fedgmi.mixture.resampling import in_parts
from fedgmi.mixture.scatter import dispersion, energies, overdispersion, standardised
from fedgmi.mixture.spectrum import around
from fedgmi.randomness import numpy_generator

RESAMPLES = 60
"""Federations from which the energy of scatter is known, and how it varies."""
Interval = tuple[float, float]


@dataclass(frozen=True)
class Explained:
    """What clients differ by, beyond the chance of drawing rows.

    Attributes:
        share: Of the variation between clients, what K components explain; the rest is each client's own. 0 for K = 1.
            None where clients differ no more than by chance.
        interval: Of the share. None for K = 1, which explains nothing by definition.
        rho: ρ̂ of the clients' own scatter.
        own_scatter: φ̂ = 1 + (n̄ − 1)·ρ̂: the variance of the counts of a client with the mean number of rows n̄ around
            its mixture, as a multiple of that of rows drawn independently. 1: there is no own scatter.
        own_scatter_interval: Of φ̂.
    """

    share: float | None
    interval: Interval | None
    rho: float
    own_scatter: float
    own_scatter_interval: Interval


def explain(histograms: Tensor, n_components: int, seed: int, *, level: float = 0.9) -> Explained:
    """The share of the variation between clients that K components explain, with an interval by inversion.

    Federations are drawn around K − 1 directions, with the scatter that these leave over. The energy outside the
    directions, E = Σ_{j≥K} s_j², then has a mean m and a deviation d, which hardly depend on ρ. ρ̂ solves E(ρ) = m, and
    the ends of its interval solve E(ρ) = m ± z·d (inversion, as in Viechtbauer 2007).

    Args:
        histograms: Counts; each client has a row. [C, W]
        n_components: K.
        seed: Of the draws.
        level: Of the intervals.

    Returns:
        The share, and the clients' own scatter.
    """
    histograms = histograms[histograms.sum(1) > 0].double().cpu()
    k = n_components - 1
    rho, draws = around(histograms, k, RESAMPLES, numpy_generator(seed, "explained"))
    left = in_parts(draws, lambda some: energies(standardised(some, rho=rho)))[:, k:].sum(1)
    spread = NormalDist().inv_cdf((1 + level) / 2) * float(left.std())
    targets = [float(left.mean()) + shift for shift in (0.0, -spread, spread)]
    rho, high, low = (overdispersion(histograms, k, target=target) for target in targets)
    share, least, most = (share_of(histograms, k, value) for value in (rho, high, low))
    rows = histograms.sum(1).mean()
    own, *ends = (float(dispersion(rows, value)) for value in (rho, low, high))
    interval = None if least is None or most is None or not k else (least, most)
    return Explained(share, interval, rho, own, (ends[0], ends[1]))


def share_of(histograms: Tensor, k: int, rho: float) -> float | None:
    """1 − own/between, within [0, 1]: what k directions explain where clients' own scatter is ρ.

    between = ‖A‖² − (C − 1)(W − 1) is the variation of the counts, standardised without scatter, beyond chance; own =
    ρ·(W − 1)·Σ_i (n_i − 1)(1 − n_i/n) is the part of it that such scatter makes.

    Args:
        histograms: Counts. [C, W]
        k: How many directions.
        rho: ρ.

    Returns:
        The share. None where there is no variation beyond chance.
    """
    (n_clients, n_words), totals = histograms.shape, histograms.sum(1)
    between = float(standardised(histograms).square().sum()) - (n_clients - 1) * (n_words - 1)
    if between <= 0:
        return None
    own = rho * (n_words - 1) * float(((totals - 1) * (1 - totals / totals.sum())).sum())
    return min(max(1 - own / between, 0.0), 1.0) if k else 0.0
