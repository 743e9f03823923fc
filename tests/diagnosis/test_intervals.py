"""How well the proportions are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedgmi.diagnosis.intervals import anchor_mass, proportion_intervals, purest
from fedgmi.mixture.matching import match_components, reorder
from fedgmi.mixture.topics import fit_topics
from wordcounts import ODD, mixture


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


def test_a_client_without_rows_could_be_anything_and_one_with_many_is_known_best():
    counts, _ = mixture(2, n_rows=300, anchored=True)
    counts[0], counts[1] = 0.0, 10 * counts[1]
    intervals = proportion_intervals(counts, fit_topics(counts, 2, 0), 0)
    widths = intervals[:, 0, 1] - intervals[:, 0, 0]
    assert float(widths[0]) > 0.5
    assert float(widths[1]) < float(widths[2:].median())


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
