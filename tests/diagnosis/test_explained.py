"""How much K components explain of what differs between clients, and how much is each client's own."""

from __future__ import annotations

import pytest
import torch

from fedgmi.diagnosis.diagnose import diagnose
from fedgmi.diagnosis.explained import explain, share_of
from fedgmi.diagnosis.intervals import proportion_intervals
from fedgmi.diagnosis.misfit import misfit
from fedgmi.mixture.topics import fit_topics
from wordcounts import ODD, mixture, scattered


def test_components_explain_all_but_what_clients_have_of_their_own():
    pure = explain(mixture(3)[0], 3, 0)
    assert pure.share is not None
    assert pure.share > 0.95
    shares = [explain(scattered(3, phi), 3, 0).share or 0.0 for phi in (1.5, 3.0, 8.0)]
    assert pure.share > shares[0] > shares[1] > shares[2]


def test_intervals_hold_the_scatter_and_the_share_that_were_drawn():
    """Nominally 90 %: 14 of 16 or more with a probability of 0.79, 12 or more with 0.98."""
    held = []
    for seed in range(8):
        counts = scattered(2, 2.0, seed=seed)
        found, true = explain(counts, 2, seed), share_of(counts, 1, 1 / 299)
        assert found.interval is not None
        assert true is not None
        held += [found.own_scatter_interval[0] <= 2 <= found.own_scatter_interval[1]]
        held += [found.interval[0] <= true <= found.interval[1]]
        assert found.own_scatter == pytest.approx(2, abs=0.4)
    assert sum(held) >= 12


def test_one_component_explains_nothing_and_fewer_explain_less():
    counts = mixture(3)[0]
    one, two, three = (explain(counts, k, 0) for k in (1, 2, 3))
    assert (one.share, one.interval) == (0.0, None)
    assert (two.share or 0) < (three.share or 0)
    assert one.own_scatter > two.own_scatter > three.own_scatter


def test_clients_exactly_alike_have_nothing_to_explain():
    found = explain(ODD["alike"], 1, 0)
    assert found.share is found.interval is None
    assert found.own_scatter == 1


@pytest.mark.parametrize("name", ODD)
def test_odd_federations_have_an_answer_with_a_width(name):
    for k in range(1, 4):
        found = explain(ODD[name], k, 0)
        low, high = found.own_scatter_interval
        assert 1 <= low <= found.own_scatter <= high
        if found.share is not None and k > 1:
            assert found.interval is not None
            assert 0 <= found.interval[0] <= found.share <= found.interval[1] <= 1


def test_clients_that_scatter_are_one_component_and_that_is_no_fault():
    """Before scatter was part of the model, such clients were 9 components and no mixture of them."""
    found = diagnose(scattered(1, 2.0), seed=0)
    assert found.n_components == 1
    assert found.mixture_supported
    assert found.misfit.unfit == ()
    assert found.explained.own_scatter_interval[0] > 1


def test_mixtures_whose_clients_scatter_are_rarely_refused():
    p_values = [
        misfit(counts, fit_topics(counts, 2, seed), seed).p_value
        for seed in range(8)
        for counts in [scattered(2, 3.0, seed=seed)]
    ]
    assert sum(p < 0.05 for p in p_values) <= 2
    assert sum(p < 0.01 for p in p_values) == 0


def test_a_style_that_moves_neighbouring_words_together_is_seen():
    """Each client turns by an angle of its own: the rest has a shape, whatever K is asked for."""
    angles = 2 * torch.pi * torch.arange(24) / 24
    turned = torch.rand(40, generator=torch.Generator().manual_seed(0)) * 6
    probs = torch.exp(3 * torch.cos(angles[None] - turned[:, None])).double()
    counts = (500 * probs / probs.sum(1, keepdim=True)).round()
    assert not diagnose(counts, n_components=3, seed=0).mixture_supported


def test_scatter_widens_the_intervals():
    calm, wild = scattered(2, 1.0), scattered(2, 4.0)
    widths = [
        (ends[..., 1] - ends[..., 0]).mean()
        for counts in (calm, wild)
        for ends in [proportion_intervals(counts, fit_topics(counts, 2, 0), 0)]
    ]
    assert widths[1] > 1.4 * widths[0]
