"""Tables come to one scale by sums alone, and every number can be told in the rows' own units again."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from federations import bare_method, rows_of, with_program
from fedgmi import tree
from fedgmi.data.far import tamed
from fedgmi.data.federation import Federation
from fedgmi.data.rows import Client, Rows, Schema
from fedgmi.data.scenarios.scenarios import build_scenario, wants_scale
from fedgmi.data.standardise import Standardisation, feature_sums, standardisation
from fedgmi.errors import DataError
from fedgmi.methods.standardising import standardised
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import Step
from fedgmi.settings.run import DataSettings, ScenarioSettings
from fedgmi.tree import Tree

few = settings(max_examples=40, deadline=None)
sizes = st.lists(st.integers(1, 40), min_size=1, max_size=6)
scales = st.lists(st.floats(-6, 6).map(lambda power: 10.0**power), min_size=1, max_size=4)
SEX = ("age", "sex=f", "sex=m")


def table(n: int, units: list[float], seed: int) -> Tensor:
    """Correlated, skewed columns, each in its own unit, away from 0."""
    draws = np.random.default_rng(seed)
    x = draws.gamma(2.0, size=(n, 1)) + draws.standard_normal((n, len(units))) + draws.normal(0, 5, len(units))
    return torch.from_numpy(x * units).float()


def sum_over(parts: list[Tensor]) -> Tree:
    total: Tree = {}
    for part in parts:
        total = tree.add(total, feature_sums(part))
    return total


def clients_of(x: Tensor, counts: list[int]) -> tuple[Client, ...]:
    return tuple(Client(f"c{i}", part) for i, part in enumerate(x.split(counts)))


def federation_of(x: Tensor, counts: list[int], features: tuple[str, ...] = ()) -> Federation:
    names = features or tuple(f"x{j}" for j in range(x.shape[1]))
    return Federation(Schema((x.shape[1],), 0, "tabular", features=names), clients_of(x, counts))


@few
@given(counts=sizes, units=scales, seed=st.integers(0, 99))
def test_sums_over_clients_of_any_size_are_the_pooled_mean_and_deviation(counts, units, seed):
    x = table(sum(counts), units, seed)
    scale = standardisation(sum_over(list(x.split(counts))))
    mean, std = x.double().mean(0), x.double().std(0, correction=0)
    torch.testing.assert_close(scale.mean, mean, rtol=1e-9, atol=0)
    if len(x) > 1:
        torch.testing.assert_close(scale.std, std, rtol=1e-6, atol=0)


@few
@given(counts=sizes, units=scales, seed=st.integers(0, 99))
def test_chunks_of_clients_add_up_to_the_same_scale(counts, units, seed):
    parts = list(table(sum(counts), units, seed).split(counts))
    one_by_one, together = standardisation(sum_over(parts)), standardisation(feature_sums(torch.cat(parts)))
    backwards = standardisation(tree.add(sum_over(parts[1:][::-1]), sum_over(parts[:1])))
    for other in (one_by_one, backwards):
        torch.testing.assert_close(tuple(other), tuple(together), rtol=1e-6, atol=0)


@few
@given(counts=sizes, units=scales, seed=st.integers(0, 99))
def test_undo_takes_apply_back(counts, units, seed):
    x = table(sum(counts), units, seed)
    scale = standardisation(feature_sums(x))
    z = scale.apply(x)
    assert z.dtype == scale.undo(z).dtype == torch.float32
    size = scale.mean.abs() + scale.std
    assert float(((scale.undo(z) - x).abs() / size).max()) < 1e-5


@few
@given(units=scales, seed=st.integers(0, 99))
def test_standardised_rows_do_not_depend_on_the_units(units, seed):
    x = table(200, [1.0] * len(units), seed)
    changed = (x.double() * torch.tensor(units).double() + 3 * torch.tensor(units).double()).float()
    plain, other = (standardisation(feature_sums(rows)).apply(rows) for rows in (x, changed))
    torch.testing.assert_close(plain.mean(0), torch.zeros(len(units)), atol=1e-5, rtol=0)
    torch.testing.assert_close(plain.std(0, correction=0), torch.ones(len(units)))
    torch.testing.assert_close(other, plain, atol=1e-4, rtol=1e-4)


def test_log_det_turns_a_density_of_standardised_rows_into_one_of_rows():
    scale = Standardisation(torch.tensor([5.0, -1.0]).double(), torch.tensor([100.0, 1e-3]).double())
    x = torch.tensor([[130.0, -1.002]])
    standard = stats.norm.logpdf(scale.apply(x).double().numpy()).sum()
    raw = stats.norm.logpdf(x.double().numpy(), [5.0, -1.0], [100.0, 1e-3]).sum()
    assert scale.log_det == pytest.approx(math.log(0.1))
    assert standard - scale.log_det == pytest.approx(raw, abs=1e-4)


def test_pictures_keep_their_shape():
    x = torch.rand(5, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    scale = standardisation(feature_sums(x), common_scale=True)
    assert scale.apply(x).shape == scale.undo(x).shape == x.shape
    assert len(set(scale.std.tolist())) == 1
    torch.testing.assert_close(scale.std[0], x.flatten(1).double().var(0, correction=0).mean().sqrt())


@pytest.mark.parametrize("value", [0.0, 7.0, 0.1, -1e6, 123456.789, 1e30, 1e-30])
@pytest.mark.parametrize("n", [1, 30, 100_000])
def test_constant_columns_get_scale_1(value, n):
    x = torch.full((n, 1), value)
    scale = standardisation(sum_over(list(x.split(1000))))
    assert scale.std.item() == (1.0 if abs(value) <= 1e6 else pytest.approx(abs(value) * 2.0**-23))
    assert float(scale.apply(x).abs().max()) < 1e-6


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6])
@pytest.mark.parametrize("unit", [1e-30, 1e-6, 1.0, 1e6, 1e30])
def test_columns_that_vary_are_not_taken_for_constant(offset, unit):
    x = (offset + torch.arange(100.0).double()[:, None]) * unit
    scale = standardisation(feature_sums(x.float()))
    assert scale.std.item() == pytest.approx(unit * math.sqrt((100**2 - 1) / 12), rel=1e-2)


def test_one_hot_columns_stay_0_and_1():
    x = torch.tensor([[20.0, 1, 0], [40.0, 0, 1], [60.0, 0, 1]])
    z = federation_of(x, [3], SEX).standardisation().apply(x)
    assert torch.equal(z[:, 1:], x[:, 1:])
    assert z[:, 0].mean().item() == pytest.approx(0)
    only_m = torch.tensor([[20.0, 0, 1], [40.0, 0, 1]])
    assert torch.equal(federation_of(only_m, [2], SEX).standardisation().apply(only_m)[:, 1:], only_m[:, 1:])


def test_a_number_with_an_equals_sign_in_its_name_is_still_a_number():
    x = torch.tensor([[1e6], [3e6]])
    assert federation_of(x, [1, 1], ("dose=mg",)).standardisation().apply(x).flatten().tolist() == [-1, 1]


def test_truth_values_are_numbers():
    x = torch.tensor([[0.0], [1.0]])
    assert federation_of(x, [2], ("smokes",)).standardisation().apply(x).flatten().tolist() == [-1, 1]


def test_the_scale_is_that_of_the_training_rows():
    train, other = torch.tensor([[0.0], [2.0]]), torch.tensor([[5.0]])
    later = (Client("c0", other),)
    federation = replace(federation_of(train, [2]), validation=later, held_out=later)
    scale = federation.standardisation()
    assert scale.mean.item() == 1
    assert scale.apply(federation.clients[0].x).flatten().tolist() == [-1, 1]
    for clients in (federation.validation, federation.held_out):
        assert scale.apply(clients[0].x).item() == 4


# --- which federations are standardised ----------------------------------------------------------------------------


@pytest.mark.parametrize(("setting", "expected"), [("auto", True), (True, True), (False, False)])
def test_tables_from_a_data_set(write_table, setting, expected):
    rows = {"age": list(range(20, 220)), "label": [0, 1] * 100, "ward": ["a", "b"] * 100}
    data = DataSettings(path=write_table(rows), standardise=setting)
    chosen = ScenarioSettings(name="by-column", n_clients=2, client_column="ward")
    assert wants_scale(data, chosen, build_scenario(data, chosen, 0).federation.schema) == expected


@pytest.mark.parametrize(("name", "setting", "expected"), [("gaussian", "auto", False), ("gaussian", True, True)])
def test_rows_that_a_scenario_draws_itself(name, setting, expected):
    data, chosen = DataSettings(standardise=setting), ScenarioSettings(name=name, n_clients=3)
    assert wants_scale(data, chosen, build_scenario(data, chosen, 0).federation.schema) == expected


def test_pictures_are_left_alone_and_may_not_be_standardised():
    chosen = ScenarioSettings(n_clients=3)
    schema = build_scenario(DataSettings(), chosen, 0).federation.schema
    assert not wants_scale(DataSettings(), chosen, schema)
    with pytest.raises(DataError, match=r"data.standardise: pictures are in \[0, 1\] already.*leave it \"auto\""):
        wants_scale(DataSettings(standardise=True), chosen, schema)


def test_a_wild_value_of_one_client_leaves_the_scale_of_all_as_it_was():
    x = table(120, [1.0, 50.0], seed=3)
    usual, wild = federation_of(x, [40, 40, 40]).standardisation(), x.clone()
    wild[7, 1] = 1e9
    scale = federation_of(wild, [40, 40, 40]).standardisation()
    assert scale.mean[0] == usual.mean[0]
    torch.testing.assert_close(tuple(scale), tuple(usual), rtol=0.1, atol=0)


def test_values_that_a_twentieth_of_the_rows_or_more_is_like_are_not_wild():
    x = table(40, [1.0], seed=0)
    x[:4] *= 1e6
    assert torch.equal(tamed(x), x)


def test_columns_of_mostly_one_value_and_missing_values_stay_as_they_are():
    x = torch.zeros(40, 2)
    x[3, 0], x[5, 1] = 1e6, float("nan")
    assert torch.equal(tamed(x).nan_to_num(7.0), x.nan_to_num(7.0))


def test_models_see_wild_values_at_the_bound():
    x = torch.linspace(-1, 1, 40)[:, None]
    x[3] = 1e7
    seen = []

    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        seen.append(rows.x)
        return states, Message()

    look = Step("look", client, lambda server, message, round: server)
    method = with_program(bare_method("none"), prepare=(look,))
    program = standardised(method, Schema((1,), 0, "tabular", features=("dose",))).program
    server: Tree = {}
    for step in program.prepare:
        server = step.server(server, step.client(server, {}, rows_of([40], x), 0)[1], 0)
    assert seen[0].max() == 100
    assert 1 < seen[0].sort(0).values[-2] < 3
