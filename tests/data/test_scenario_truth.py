"""What a scenario says of the truth is what its rows show: proportions, and which component each row came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
from scipy import stats
from sklearn.linear_model import RidgeClassifier
from torch import Tensor
from torch.nn.functional import one_hot

from fedgmi.data.federation import Federation
from fedgmi.data.rows import Client
from fedgmi.data.scenarios.aside import fifth_aside
from fedgmi.data.scenarios.scenarios import SCENARIOS, build_scenario
from fedgmi.data.scenarios.truth import Scenario, Truth
from fedgmi.settings.run import DataSettings, ScenarioSettings

KNOWN = [name for name, spec in SCENARIOS.items() if spec.has_truth]
BY_CHANCE = 1e-4
TOLD = 0.15  # by how much guesses must beat the largest component; neighbours in `labels` share half of their labels


@cache
def built(name: str) -> Scenario:
    return build_scenario(DataSettings(), ScenarioSettings(name=name, n_clients=10, rows_per_client=100), 0)


def features(client: Client) -> Tensor:
    """x, y, and how they go together. [n, D + L + D·L]"""
    assert client.y is not None
    x, y = client.x.flatten(1), one_hot(client.y, 10).float()
    return torch.cat([x, y, (x[:, :, None] * y[:, None]).flatten(1)], 1)


def findings(scenario: Scenario) -> list[str]:
    """What speaks against the truth that a scenario tells."""
    truth, found = scenario.truth, []
    assert truth is not None
    for which, components in (("training", truth.components), ("held-out", truth.held_out_components)):
        counts = torch.stack([torch.bincount(z, minlength=truth.n_components) for z in components]).double()
        wanted = counts.sum(1, keepdim=True) * truth.drawn
        sure = wanted > 1  # the chi-square is for counts that are not tiny
        chi = float((((counts - wanted) ** 2 / wanted)[sure]).sum())
        p = stats.chi2.sf(chi, int(sure.sum() - (sure.sum(1) > 0).sum()))
        found += [f"{which} components are not of the proportions (p = {p:.0e})"] if p < BY_CHANCE else []
    pure = torch.cat([features(client) for client in truth.pure])
    label = torch.cat([torch.full((len(client),), k) for k, client in enumerate(truth.pure)])
    guess = RidgeClassifier(alpha=1.0).fit(pure.numpy(), label.numpy())
    federation = scenario.federation
    for which, clients, components in (
        ("training", federation.clients, truth.components),
        ("held-out", federation.held_out, truth.held_out_components),
    ):
        z = torch.cat(components)
        right = float(
            (torch.from_numpy(guess.predict(torch.cat(list(map(features, clients))).numpy())) == z).double().mean()
        )
        largest = float(torch.bincount(z).max() / len(z))
        found += [f"{which} rows do not show their components"] if right < largest + TOLD else []
    return found


@pytest.mark.parametrize("name", KNOWN)
def test_rows_are_of_the_components_and_proportions_that_the_truth_tells(name):
    assert findings(built(name)) == []


def turned(parts: tuple[Tensor, ...], k: int) -> tuple[Tensor, ...]:
    return tuple((z + 1) % k for z in parts)


WRONG: dict[str, tuple[Callable[[Truth], Truth], str]] = {
    "components of other names": (
        lambda t: replace(
            t, components=turned(t.components, 3), drawn=t.drawn.roll(1, 1), held_out_components=t.held_out_components
        ),
        "training rows do not show",
    ),
    "held-out components of other names": (
        lambda t: replace(t, held_out_components=turned(t.held_out_components, 3)),
        "held-out rows do not show",
    ),
    "proportions of another client": (lambda t: replace(t, drawn=t.drawn.roll(1, 0)), "not of the proportions"),
    "equal proportions": (lambda t: replace(t, drawn=torch.full_like(t.drawn, 1 / 3)), "not of the proportions"),
    "pure rows of other names": (lambda t: replace(t, pure=(*t.pure[1:], t.pure[0])), "do not show"),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", KNOWN)
def test_a_wrong_truth_is_found(name, wrong):
    make, told = WRONG[wrong]
    scenario = built(name)
    assert scenario.truth is not None
    assert told in " ".join(findings(replace(scenario, truth=make(scenario.truth))))


def test_rows_that_are_set_aside_take_their_truth_along():
    """Every row is in one place, a client of four rows keeps them, and what is left has its own components."""
    clients = tuple(
        Client(str(i), torch.arange(float(n))[:, None] + 100 * i, torch.arange(n)) for i, n in enumerate((20, 4, 5))
    )
    truth = Truth(torch.zeros(3, 2), tuple(client.y % 2 for client in clients), (), ())
    schema = built("rotation").federation.schema
    found = fifth_aside(Scenario(Federation(schema, clients), truth), seed=3)
    assert [len(client) for client in found.federation.validation] == [4, 0, 1]
    for before, left, taken, z in zip(
        clients, found.federation.clients, found.federation.validation, found.truth.components, strict=True
    ):
        assert torch.equal(torch.cat([left.x, taken.x]).sort(0).values, before.x)
        assert torch.equal(left.y % 2, z)
    other = fifth_aside(Scenario(Federation(schema, clients)), seed=4).federation
    assert other.validation != found.federation.validation
