"""Clients that are set aside before training."""

from __future__ import annotations

import pytest

from federations import gaussian_scenario
from fedgmi.data.scenarios.unseen import only, set_aside
from fedgmi.errors import ConfigError

SIX = gaussian_scenario(6, 10)


def test_nobody_is_lost_and_truth_goes_along():
    seen, unseen = set_aside(SIX, 0.3, seed=0)
    assert unseen is not None
    assert sorted(seen.federation.names + unseen.federation.names) == list(SIX.federation.names)
    assert len(unseen.federation.clients) == 2
    for part in (seen, unseen):
        for i, name in enumerate(part.federation.names):
            j = SIX.federation.names.index(name)
            assert part.federation.clients[i] is SIX.federation.clients[j]
            assert part.federation.held_out[i] is SIX.federation.held_out[j]
            assert part.truth.drawn[i].equal(SIX.truth.drawn[j])
            assert part.truth.components[i] is SIX.truth.components[j]


def test_who_is_set_aside_is_drawn_by_the_seed():
    assert len({set_aside(SIX, 0.3, seed)[1].federation.names for seed in range(8)}) > 3
    assert set_aside(SIX, 0.3, 1)[1].federation.names == set_aside(SIX, 0.3, 1)[1].federation.names


def test_none_at_all_is_the_scenario_itself():
    assert set_aside(SIX, 0.0, 0) == (SIX, None)


def test_somebody_has_to_train():
    with pytest.raises(ConfigError, match="leaves none to train"):
        set_aside(SIX, 0.9, 0)


def test_only_keeps_the_order_asked_for():
    assert only(SIX, [4, 1]).federation.names == ("client-04", "client-01")
