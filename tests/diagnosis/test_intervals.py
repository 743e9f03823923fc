"""How well the proportions are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from federations import dirichlet
from fedgmi.diagnosis.intervals import anchor_mass, proportion_intervals, purest
from fedgmi.mixture.matching import match_components, reorder
from fedgmi.mixture.resampling import resample
from fedgmi.mixture.scatter import effective, scatter_beside
from fedgmi.mixture.topics import fit_topics
from fedgmi.randomness import numpy_generator
from wordcounts import ODD, counts_from, mixture, topics_of


def width(intervals: Tensor) -> float:
    return float((intervals[..., 1] - intervals[..., 0]).mean())


@pytest.mark.parametrize(("n_topics", "alpha"), [(2, 1.0), (3, 1.0), (3, 0.2)])
def test_intervals_cover_the_drawn_proportions(n_topics, alpha):
    """Nominally 90%; errors of the topics are common to the clients of a federation, hence the margin."""
    covered = []
    for seed in range(4):
        counts, drawn = mixture(n_topics, alpha=alpha, seed=seed, anchored=True)
        fitted = fit_topics(counts, n_topics, seed)
        intervals = proportion_intervals(counts, fitted, seed)
        low, high = reorder(intervals, match_components(fitted.proportions, drawn), dim=1).unbind(-1)
        covered.append(((low <= drawn) & (drawn <= high)).double().mean())
    assert 0.82 <= float(torch.stack(covered).mean()) <= 0.97


def own_words(purest: float, seed: int, *, n_clients: int = 12, n_rows: int = 200) -> tuple[Tensor, Tensor]:
    """Two topics of ten words each, and no client that holds more than `purest` of one. Counts and true shares."""
    shares = numpy_generator(seed, "shares").uniform(1 - purest, purest, n_clients)
    true = torch.from_numpy(np.stack([shares, 1 - shares], 1))
    topics = torch.block_diag(torch.full((1, 10), 0.1), torch.full((1, 10), 0.1)).double()
    return counts_from(true @ topics, n_rows, seed), true


def covered(counts: Tensor, drawn: Tensor, seed: int) -> float:
    """How many of the intervals hold the drawn proportions."""
    k = drawn.shape[1]
    fitted = fit_topics(effective(counts, scatter_beside(counts, k)), k, seed)
    low, high = reorder(
        proportion_intervals(counts, fitted, seed), match_components(fitted.proportions, drawn), dim=1
    ).unbind(-1)
    return float(((low <= drawn) & (drawn <= high)).double().mean())


@pytest.mark.parametrize("purest_share", [0.6, 0.8])
def test_intervals_cover_where_nobody_is_pure(purest_share):
    """The fit takes the purest clients for purer than they are."""
    found = [covered(*own_words(purest_share, seed), seed) for seed in range(6)]
    assert sum(found) / len(found) >= 0.75


def test_intervals_cover_where_clients_scatter_and_have_few_rows():
    found = []
    for seed in range(4):
        drawn, rng = dirichlet(20, 2, 1.0, seed), numpy_generator(seed, "scattered rows")
        words = drawn @ topics_of(2, anchored=True).T
        counts = resample(words, torch.full((20,), 70), 1, rng, rho=1 / 69)[0]
        found.append(covered(counts, drawn, seed))
    assert sum(found) / len(found) >= 0.8


def test_scatter_widens_intervals():
    drawn = dirichlet(20, 2, 1.0, 0)
    words, widths = drawn @ topics_of(2, anchored=True).T, []
    for rho in (0.0, 0.02):
        counts = resample(words, torch.full((20,), 200), 1, numpy_generator(0, "scatter"), rho=rho)[0]
        fitted = fit_topics(effective(counts, scatter_beside(counts, 2)), 2, 0)
        widths.append(width(proportion_intervals(counts, fitted, 0)))
    assert widths[1] > 1.2 * widths[0]


def test_little_is_known_of_two_clients_and_of_clients_all_alike():
    for counts in (
        torch.tensor([[40.0, 30.0, 20.0], [35.0, 33.0, 22.0]]),
        torch.tensor([[50.0, 30.0, 20.0]]).expand(8, 3),
    ):
        assert width(proportion_intervals(counts.double(), fit_topics(counts.double(), 2, 0), 0)) > 0.5


def test_where_proportions_are_pooled_all_clients_have_one_wide_interval():
    counts, drawn = mixture(3, n_rows=40, alpha=10.0)
    intervals = proportion_intervals(counts, fit_topics(counts, 3, 0), 0, pooled=True)
    assert bool((intervals == intervals[0, 0]).all())
    assert float(((intervals[..., 0] <= drawn) & (drawn <= intervals[..., 1])).double().mean()) >= 0.9


def test_intervals_keep_to_the_simplex_and_grow_with_the_level():
    counts, _ = mixture(3, n_rows=60)
    fitted = fit_topics(counts, 3, 0)
    some, most = (proportion_intervals(counts, fitted, 0, level=level) for level in (0.5, 0.95))
    for intervals in (some, most):
        assert intervals.shape == (30, 3, 2)
        assert bool((intervals[..., 0] <= intervals[..., 1]).all())
        assert bool(((intervals >= 0) & (intervals <= 1)).all())
    assert bool((most[..., 0] <= some[..., 0]).all())
    assert bool((some[..., 1] <= most[..., 1]).all())
    assert width(some) < width(most)


def test_more_rows_say_more():
    few, many = (mixture(2, n_rows=n)[0] for n in (40, 1000))
    assert width(proportion_intervals(many, fit_topics(many, 2, 0), 0)) < 0.5 * width(
        proportion_intervals(few, fit_topics(few, 2, 0), 0)
    )


def test_a_client_without_rows_could_be_anything_and_one_with_many_is_known():
    counts, _ = mixture(2, n_rows=300, anchored=True)
    counts[0], counts[1] = 0.0, 10 * counts[1]
    intervals = proportion_intervals(counts, fit_topics(counts, 2, 0), 0)
    widths = intervals[:, 0, 1] - intervals[:, 0, 0]
    assert float(widths[0]) > 0.5
    assert float(widths[1]) < 1.3 * float(widths[2:].median())  # the topics' errors are common to all


def test_one_component_is_certain():
    counts, _ = mixture(1)
    assert proportion_intervals(counts, fit_topics(counts, 1, 0), 0).unique().tolist() == [1.0]


@pytest.mark.parametrize("name", ODD)
def test_odd_federations_have_intervals(name):
    counts = ODD[name].double()
    intervals = proportion_intervals(counts, fit_topics(counts, 2, 0), 0)
    assert bool(((intervals >= 0) & (intervals <= 1)).all())
    assert intervals.shape == (len(counts), 2, 2)


def test_purest_clients_and_words_of_one_component_alone():
    assert purest(torch.tensor([[0.9, 0.1], [0.4, 0.6]])).tolist() == pytest.approx([0.9, 0.6])
    counts = torch.tensor([[30.0, 0.0], [20.0, 1.0], [50.0, 49.0], [0.0, 0.0]])
    assert anchor_mass(counts).tolist() == pytest.approx([0.5, 0.0])
