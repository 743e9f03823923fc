"""The diagnosis: everything that word counts say about a federation."""

from __future__ import annotations

import json

import pytest
import torch

from fedgmi.diagnosis.diagnose import diagnose
from fedgmi.errors import ConfigError, DataError
from wordcounts import ODD, mixture, ring

KEYS = {
    "n_components",
    "singular_values",
    "noise",
    "threshold",
    "explained",
    "explained_interval",
    "own_scatter",
    "own_scatter_interval",
    "mixture_supported",
    "speaks_against",
    "p_value",
    "test_size",
    "client_misfit",
    "client_p_value",
    "unfit_clients",
    "proportions",
    "proportion_intervals",
    "purest",
    "anchor_mass",
    "interval_width",
    "rows_decide",
    "warnings",
}


def assert_complete(told, n_clients, n_components):
    assert set(told) == KEYS
    assert told == json.loads(json.dumps(told, allow_nan=False))
    assert told["n_components"] == n_components
    assert torch.tensor(told["proportions"]).shape == (n_clients, n_components)
    assert torch.tensor(told["proportion_intervals"]).shape == (n_clients, n_components, 2)
    assert len(told["client_misfit"]) == len(told["client_p_value"]) == n_clients
    assert len(told["purest"]) == len(told["anchor_mass"]) == n_components


def test_a_mixture_is_found_and_supported():
    told = diagnose(mixture(3)[0], seed=0).to_json()
    assert_complete(told, 30, 3)
    assert told["mixture_supported"] is True
    assert told["explained_interval"][0] <= told["explained"] <= told["explained_interval"][1] == 1
    assert told["explained"] > 0.9
    assert told["own_scatter"] == pytest.approx(1.0, abs=0.1)
    assert told["unfit_clients"] == []
    assert told["warnings"] == []
    assert 0 < told["interval_width"] < 0.3


def test_a_ring_is_found_out():
    found = diagnose(ring(), seed=0)
    assert not found.mixture_supported
    assert found.misfit.p_value < 0.01


def test_all_clients_alike_are_one_component():
    told = diagnose(mixture(1)[0], seed=0).to_json()
    assert_complete(told, 30, 1)
    assert told["warnings"] == []
    assert told["own_scatter_interval"][0] == 1
    assert told["proportions"] == [[1.0]] * 30


def test_more_components_than_the_data_support_are_called_invented():
    found = diagnose(mixture(2)[0], n_components=4, seed=0)
    assert_complete(found.to_json(), 30, 4)
    assert found.spectrum.n_components == 2
    assert found.warnings == ("4 components were asked for. The data support 2. The others are invented.",)


def test_fewer_components_than_the_data_show_do_not_fit_and_that_is_said():
    found = diagnose(mixture(3)[0], n_components=2, seed=0)
    assert not found.mixture_supported
    assert found.warnings == ("2 components were asked for. The data show 3.",)


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        (mixture(2, n_clients=6)[0], "6 clients are few"),
        (mixture(2, n_rows=50)[0], "50 rows or fewer"),
        (ODD["one client"], "There is a single client"),
        (mixture(3, n_clients=8, anchored=True)[0], "8 clients are few for 3 components"),
        (ODD["two clients"], "There are two clients"),
    ],
)
def test_what_a_reader_should_know(counts, words):
    assert any(words in sentence for sentence in diagnose(counts, seed=0).warnings)


@pytest.mark.parametrize("name", ODD)
def test_odd_federations_are_diagnosed(name):
    found = diagnose(ODD[name], seed=0)
    assert_complete(found.to_json(), len(ODD[name]), found.n_components)


def test_whole_numbers_of_any_type_will_do():
    counts = mixture(2)[0]
    assert diagnose(counts.int(), seed=3).to_json() == diagnose(counts, seed=3).to_json()


def test_nothing_else_but_the_seed_decides():
    counts = mixture(2)[0]
    assert diagnose(counts, seed=3).to_json() == diagnose(counts, seed=3).to_json()
    assert diagnose(counts, seed=3).misfit.parts != diagnose(counts, seed=4).misfit.parts


@pytest.mark.parametrize(
    "counts",
    [
        torch.zeros(3, 4),
        torch.zeros(0, 4),
        torch.ones(4),
        torch.tensor([[1.0, -1.0, 5.0]]),
        torch.full((2, 2), torch.nan),
    ],
)
def test_what_are_no_counts_is_refused(counts):
    with pytest.raises(DataError, match=r"histograms: .* Likely fix"):
        diagnose(counts, seed=0)


def test_more_components_than_clients_are_refused():
    with pytest.raises(ConfigError, match="5 components cannot be told apart from 3 clients"):
        diagnose(mixture(2, n_clients=3)[0], n_components=5, seed=0)
