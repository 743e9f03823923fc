"""Every scenario hands out the rows that its docstring promises, and says truly which component each came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedgmi.data.rows import Client
from fedgmi.data.scenarios.gaussian import gaussian_components, gaussian_rules
from fedgmi.data.scenarios.mixing import Components, mix, unchanged
from fedgmi.data.scenarios.scenarios import SCENARIOS, build_scenario
from fedgmi.data.scenarios.transforms import label_permutations, label_sets, rotate
from fedgmi.data.scenarios.truth import Scenario, Truth
from fedgmi.data.sources.sources import load_source
from fedgmi.errors import ConfigError, DataError, FedgmiWarning
from fedgmi.settings.run import DataSettings, ScenarioSettings

DIGITS = DataSettings()
SMALL = ScenarioSettings(n_clients=8, rows_per_client=60)
MIXTURES = [name for name, spec in SCENARIOS.items() if spec.has_truth]


@pytest.fixture
def wards(write_table: Callable[..., str]) -> DataSettings:
    """A table of 6 wards with 30 to 80 rows each, and one with too few."""
    rng = np.random.default_rng(0)
    sizes = {"north": 30, "south": 40, "east": 50, "west": 60, "upper": 70, "lower": 80, "tiny": 3}
    ward = rng.permutation([name for name, n in sizes.items() for _ in range(n)]).tolist()
    path = write_table(
        {"number": list(range(0, 2 * len(ward), 2)), "ward": ward, "label": rng.integers(0, 2, len(ward)).tolist()}
    )
    return DataSettings(path=path)


def build(name: str, data: DataSettings = DIGITS, seed: int = 0, **settings: Any) -> Scenario:
    return build_scenario(data, SMALL.model_copy(update={"name": name, **settings}), seed)


def truth_of(scenario: Scenario) -> Truth:
    assert scenario.truth is not None
    return scenario.truth


def labels_of(client: Client) -> Tensor:
    assert client.y is not None
    return client.y


def keys(x: Tensor) -> list[bytes]:
    return [row.numpy().tobytes() for row in x.contiguous()]


def all_tensors(scenario: Scenario) -> list[Tensor]:
    federation = scenario.federation
    clients = [*federation.clients, *federation.validation, *federation.held_out]
    clients += [] if scenario.truth is None else scenario.truth.pure
    tensors = [t for client in clients for t in (client.x, client.y) if t is not None]
    if scenario.truth is not None:
        tensors += [scenario.truth.drawn, *scenario.truth.components, *scenario.truth.held_out_components]
    return tensors


# --- the contract that every entry of the table keeps --------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.* rows are used")  # one ward is too small to be a client
@pytest.mark.parametrize("name", SCENARIOS)
def test_contract(name: str, wards: DataSettings) -> None:
    settings: dict[str, Any] = {"n_clients": 4, "rows_per_client": 30}
    settings |= {"client_column": "ward"} if name == "by-column" else {}
    data = wards if name == "by-column" else DIGITS
    scenario = build(name, data, **settings)
    federation, truth = scenario.federation, scenario.truth
    for clients in (federation.clients, federation.validation, federation.held_out):
        assert tuple(client.name for client in clients) == federation.names
        assert all(len(client) > 0 for client in clients)
        assert all(len(labels_of(client)) == len(client) for client in clients)
    assert len(set(federation.names)) == 4
    assert (truth is not None) == SCENARIOS[name].has_truth
    if truth is not None:
        assert truth.drawn.shape == (4, 3)
        assert [len(z) for z in truth.components] == [len(client) for client in federation.clients]
        assert [len(z) for z in truth.held_out_components] == [len(client) for client in federation.held_out]
        assert len(truth.pure) == 3
        assert all(len(client) > 0 for client in truth.pure)
    assert SCENARIOS[name].summary
    again, other = build(name, data, **settings), build(name, data, seed=1, **settings)
    assert all(torch.equal(a, b) for a, b in zip(all_tensors(scenario), all_tensors(again), strict=True))
    assert not all(map(torch.equal, all_tensors(scenario), all_tensors(other)))


@pytest.mark.parametrize("name", MIXTURES)
def test_sizes(name: str) -> None:
    federation = build(name).federation
    assert {len(client) for client in federation.clients} == {60}
    assert {len(client) for client in federation.validation} == {20}
    assert {len(client) for client in federation.held_out} == {50}
    assert {len(client) for client in build(name, held_out_rows=7).federation.held_out} == {7}


@pytest.mark.parametrize("name", MIXTURES)
def test_one_component(name: str) -> None:
    truth = truth_of(build(name, n_components=1))
    assert torch.equal(truth.proportions(), torch.ones(8, 1).double())


# --- proportions ---------------------------------------------------------------------------------------------------


def test_realised_proportions_approach_the_drawn() -> None:
    """Pearson's χ² of the realised counts against the drawn π, summed over clients, stays within 5 sigma."""
    scenario = build("gaussian", n_clients=200, rows_per_client=500, alpha=2.0)
    truth = truth_of(scenario)
    counts, expected = truth.proportions() * 500, truth.drawn * 500
    usable = expected.min(1).values > 5
    chi2, degrees = float(((counts - expected) ** 2 / expected)[usable].sum()), 2 * int(usable.sum())
    assert usable.sum() > 150
    assert abs(chi2 - degrees) < 5 * (2 * degrees) ** 0.5
    held_out = torch.stack([torch.bincount(z, minlength=3) / len(z) for z in truth.held_out_components])
    assert (held_out - truth.drawn).abs().mean() < 0.05


def test_proportions_follow_alpha() -> None:
    """Var π_k = (K−1) / (K²(Kα+1)) for the Dirichlet."""
    for alpha in (0.1, 1.0, 10.0):
        drawn = truth_of(build("gaussian", n_clients=500, rows_per_client=1, alpha=alpha)).drawn
        assert drawn.sum(1).allclose(torch.ones(500).double())
        assert drawn.mean(0).allclose(torch.full((3,), 1 / 3).double(), atol=0.06)
        assert float(drawn.var(0).mean()) == pytest.approx(2 / (9 * (3 * alpha + 1)), rel=0.15)


def test_clients_keep_their_proportions_when_others_join() -> None:
    few, many = truth_of(build("rotation", n_clients=3)), truth_of(build("rotation", n_clients=8))
    assert torch.equal(few.drawn, many.drawn[:3])
    assert all(map(torch.equal, few.components, many.components))


def test_size_ratio() -> None:
    sizes = [
        len(client) for client in build("rotation", n_clients=9, rows_per_client=70, size_ratio=100).federation.clients
    ]
    assert (min(sizes), max(sizes)) == (7, 700)
    steps = np.diff(np.log(sorted(sizes)))
    assert steps == pytest.approx(np.full(8, np.log(100) / 8), abs=0.1)
    assert sizes != sorted(sizes)
    assert min(len(c) for c in build("rotation", rows_per_client=2, size_ratio=100).federation.clients) == 1


# --- which image goes where ----------------------------------------------------------------------------------------


def rows_by_number(n: int, n_test: int | None = None) -> Scenario:
    """A source whose rows are their own numbers, so that it can be seen who got which."""
    source = load_source(DataSettings(max_rows=n))
    number = torch.arange(n).float().reshape(-1, 1, 1, 1).expand(-1, 1, 8, 8)
    source = replace(source, train=replace(source.train, x=number))
    if n_test is not None:
        source = replace(source, test=replace(source.train, x=-1 - number[:n_test], y=None))
    return mix(source, SMALL, 0, Components(3, unchanged))


def numbers(clients: tuple[Client, ...]) -> list[list[int]]:
    return [client.x[:, 0, 0, 0].int().tolist() for client in clients]


@pytest.mark.parametrize("n_test", [None, 600])
def test_images_are_used_once_and_pools_are_disjoint(n_test: int | None) -> None:
    scenario = rows_by_number(1797, n_test)
    federation = scenario.federation
    train, validation, held_out = (
        [row for rows in numbers(clients) for row in rows]
        for clients in (federation.clients, federation.validation, federation.held_out)
    )
    pure = {row for rows in numbers(truth_of(scenario).pure) for row in rows}
    assert len(set(train)) == len(train) == 8 * 60
    assert not set(train) & (set(validation) | set(held_out) | pure)
    assert not set(validation) & (set(held_out) | pure)
    if n_test is not None:
        assert min(train + validation) >= 0
        assert max(held_out) < 0
        assert len(set(validation)) == len(validation)
        assert len(set(held_out)) == len(held_out)


def test_small_pools_are_shared_between_clients_only() -> None:
    scenario = rows_by_number(600)
    truth, held_out = truth_of(scenario), numbers(scenario.federation.held_out)
    assert len({row for rows in held_out for row in rows}) < sum(map(len, held_out))
    for rows, components in zip(held_out, truth.held_out_components, strict=True):
        pairs = list(zip(rows, components.tolist(), strict=True))
        assert len(set(pairs)) == len(pairs)


def test_pure_rows_are_held_out_images_of_one_component() -> None:
    truth = truth_of(build("labels"))
    sets = label_sets(10, SMALL)
    for labels, client in zip(sets, truth.pure, strict=True):
        counts = torch.bincount(labels_of(client), minlength=10)
        assert set(counts.nonzero().flatten().tolist()) == set(labels)
        assert len(set(counts[list(labels)].tolist())) == 1


# --- the components ------------------------------------------------------------------------------------------------


def test_rows_really_are_rotated() -> None:
    scenario, source = build("rotation", n_components=4, alpha=5.0), load_source(DIGITS)
    assert source.train.y is not None
    label = dict(zip(keys(source.train.x), source.train.y.tolist(), strict=True))
    parts = [(scenario.federation.clients, truth_of(scenario).components)]
    parts.append((scenario.federation.held_out, truth_of(scenario).held_out_components))
    for clients, components in parts:
        for client, component in zip(clients, components, strict=True):
            for k in range(4):
                upright = torch.rot90(client.x[component == k], -k, dims=(-2, -1))
                found = [label[key] for key in keys(upright)]
                assert found == labels_of(client)[component == k].tolist()
    for k, client in enumerate(truth_of(scenario).pure):
        assert set(keys(torch.rot90(client.x, -k, dims=(-2, -1)))) <= set(label)


def test_labels_are_those_of_the_component() -> None:
    scenario = build("labels", n_components=4, labels_per_component=3)
    sets = label_sets(10, ScenarioSettings(n_components=4, labels_per_component=3))
    assert sets == ((0, 1, 2), (2, 3, 4), (5, 6, 7), (8, 9, 0))
    y = torch.cat([labels_of(client) for client in scenario.federation.clients])
    z = torch.cat(truth_of(scenario).components)
    for k, labels in enumerate(sets):
        counts = torch.bincount(y[z == k], minlength=10)[list(labels)]
        assert counts.sum() == (z == k).sum()
        assert counts.min() > 0.6 * counts.sum() / 3


def test_labels_really_are_swapped() -> None:
    scenario, source = build("label-swap"), load_source(DIGITS)
    assert source.train.y is not None
    table = label_permutations(10, SMALL, seed=0)
    label = dict(zip(keys(source.train.x), source.train.y.tolist(), strict=True))
    for client, z in zip(scenario.federation.clients, truth_of(scenario).components, strict=True):
        plain = torch.tensor([label[key] for key in keys(client.x)])
        assert torch.equal(labels_of(client), table[z, plain])


def test_permutations_leave_no_label_in_common() -> None:
    table = label_permutations(10, ScenarioSettings(n_components=10), seed=3)
    assert torch.equal(table[0], torch.arange(10))
    assert torch.equal(table.sort(1).values, torch.arange(10).expand(10, 10))
    assert torch.equal(table.sort(0).values, torch.arange(10)[:, None].expand(10, 10))
    assert not torch.equal(table, label_permutations(10, ScenarioSettings(n_components=10), seed=4))
    assert torch.equal(table[:3], label_permutations(10, ScenarioSettings(n_components=3), seed=3))


def test_domains_are_plain_inverted_and_noisy() -> None:
    scenario, plain = build("domain"), set(keys(load_source(DIGITS).train.x))
    x = torch.cat([client.x for client in scenario.federation.clients])
    z = torch.cat(truth_of(scenario).components)
    assert set(keys(x[z == 0])) <= plain
    assert set(keys(1 - x[z == 1])) <= plain
    assert not set(keys(x[z == 2])) & plain
    noisy, clean = truth_of(scenario).pure[2].x, truth_of(scenario).pure[0].x
    middle = (clean > 0.45) & (clean < 0.55)
    assert float((noisy - clean)[middle].std()) == pytest.approx(0.27, abs=0.03)  # 0.3, cut at 0 and 1
    assert len(torch.unique((noisy - clean)[middle])) > 100


def test_gaussian_rows_have_the_stated_moments_and_rules() -> None:
    settings = SMALL.model_copy(update={"name": "gaussian", "rows_per_client": 4000, "n_features": 3, "alpha": 5.0})
    scenario = build_scenario(DIGITS, settings, seed=0)
    means, covariances = gaussian_components(settings, seed=0)
    rules = gaussian_rules(settings, seed=0)
    x = torch.cat([client.x for client in scenario.federation.clients]).double()
    y = torch.cat([labels_of(client) for client in scenario.federation.clients])
    z = torch.cat(truth_of(scenario).components)
    for k in range(3):
        torch.testing.assert_close(x[z == k].mean(0), means[k], atol=0.06, rtol=0)
        torch.testing.assert_close(x[z == k].T.cov(), covariances[k], atol=0.1, rtol=0)
        margin = (x[z == k] - means[k]) @ rules[k]
        sure = margin.abs() > 1e-5
        assert torch.equal(y[z == k][sure], (margin > 0).long()[sure])
        assert covariances[k].trace() == pytest.approx(3)


@pytest.mark.parametrize(("n_components", "n_features"), [(1, 1), (3, 8), (5, 2), (4, 1)])
def test_gaussian_means_are_as_far_apart_as_asked(n_components: int, n_features: int) -> None:
    settings = ScenarioSettings(n_components=n_components, n_features=n_features, separation=4.0)
    means, covariances = gaussian_components(settings, seed=1)
    assert (torch.linalg.eigvalsh(covariances) > 0.1).all()
    if n_components > 1:
        assert float(torch.pdist(means).min()) == pytest.approx(4.0)


def test_pathological_clients_each_have_their_angle() -> None:
    scenario, plain = build("pathological"), set(keys(load_source(DIGITS).train.x))
    clients = scenario.federation.clients
    assert set(keys(clients[0].x)) <= plain
    upright = torch.rot90(clients[2].x, -1, dims=(-2, -1))  # 2 of 8 clients: 90 degrees
    nearest = torch.cdist(upright.flatten(1), load_source(DIGITS).train.x.flatten(1)).min(1).values
    assert nearest.max() < 1e-4
    assert not set(keys(clients[1].x)) & plain


def test_mixed_clients_are_a_mixture_of_turns_or_have_an_angle_of_their_own() -> None:
    mixed, rotation = build("mixed").federation, build("rotation").federation
    plain = load_source(DIGITS).train.x.flatten(1)
    assert len(mixed.clients) == 8
    for part in ("clients", "validation", "held_out"):
        assert getattr(mixed, part)[:6] == getattr(rotation, part)[:6]
    for client, degrees in zip(mixed.clients[6:], (90, 270), strict=True):  # (j + ½)/2 of a whole turn
        upright = rotate(client.x, -degrees)
        assert torch.cdist(upright.flatten(1), plain).min(1).values.max() < 1e-4


def test_rotation_by_any_angle_keeps_the_middle() -> None:
    x = torch.zeros(1, 1, 9, 9)
    x[..., 4, 4] = 1
    assert float(rotate(x, 37)[0, 0, 4, 4]) == pytest.approx(1)


def test_by_column_clients_are_the_columns_values(wards: DataSettings) -> None:
    with pytest.warns(FedgmiWarning, match=r"324 of 333 .* fewer than 20 rows: 1, rows beyond .*: 6"):
        federation = build("by-column", wards, n_clients=6, rows_per_client=50, client_column="ward").federation
    source = load_source(wards, extra_column="ward")
    assert federation.names == ("east", "lower", "north", "south", "upper", "west")
    groups = [federation.clients, federation.validation, federation.held_out]
    assert [len(group[1]) for group in groups] == [50, 8, 16]  # lower: 80 rows, 56 to train on, 50 at most
    assert [len(group[2]) for group in groups] == [21, 3, 6]
    for name, *parts in zip(federation.names, *groups, strict=True):
        rows = [int(number) for part in parts for number in part.x[:, 0]]
        assert len(set(rows)) == len(rows)
        assert {source.train.columns["ward"][row // 2] for row in rows} == {name}


def test_by_column_takes_small_clients_and_keeps_every_training_row_where_it_is_told_so(wards: DataSettings) -> None:
    where = {"n_clients": 7, "client_column": "ward", "min_rows": 3, "rows_per_client": None}
    small = build("by-column", wards, validation_share=0.0, **where).federation
    source = load_source(wards, extra_column="ward")
    sizes = Counter(source.train.columns["ward"])
    assert small.validation == ()
    assert {c.name: len(c) + len(h) for c, h in zip(small.clients, small.held_out, strict=True)} == dict(sizes)
    half = build("by-column", wards, validation_share=0.5, **where).federation
    assert {c.name: len(c) for c in half.validation} == {name: n // 2 for name, n in sizes.items()}


# --- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "rotations",
            {},
            r'scenario.name: there is no scenario "rotations".*did you mean "rotation"',
        ),
        ("rotation", {"n_components": 5}, r"5 components, but rotation can have 4 at most.*set it to 4 or less"),
        ("domain", {"n_components": 4}, r"domain can have 3"),
        ("labels", {"n_components": 11}, r"labels can have 10"),
        ("label-swap", {"n_components": 11}, r"label-swap can have 10"),
        ("labels", {"labels_per_component": 10}, r"would make all components the same.*set it to 9 or less"),
        (
            "by-column",
            {},
            r"client_column.*needs a column that names each row's client.*set it to such a column",
        ),
    ],
)
def test_settings_that_contradict(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(name, **settings)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "rotation",
            {"n_clients": 30},
            r"need 1800 training rows. There are 1797, and 1617 of them.*to 53 or.*to 26, or less",
        ),
        ("labels", {"n_clients": 30}, r"training rows of label '\d'. There are 1\d\d, and \d+ of.*rows_per_client to"),
        ("rotation", {"held_out_rows": 5000}, r"5000 held-out rows.*are left for them.*set it to \d+ or less"),
        ("by-column", {"client_column": "writer"}, r"the digits have no column 'writer'"),
    ],
)
def test_data_that_do_not_suffice(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        build(name, **settings)


@pytest.mark.parametrize("name", ["rotation", "labels"])
def test_the_advice_on_rows_works(name: str) -> None:
    with pytest.raises(DataError) as caught:
        build(name, n_clients=20, rows_per_client=100)
    rows = int(caught.value.fix.split("rows_per_client to ")[1].split()[0])
    build(name, n_clients=20, rows_per_client=rows)


def test_by_column_needs_enough_clients(wards: DataSettings) -> None:
    with pytest.raises(DataError, match=r"8 clients.*6 of 7 values have 20 rows or more.*n_clients to 6 or less"):
        build("by-column", wards, client_column="ward")
    with pytest.raises(DataError, match=r"no column 'wards'; there are number, ward, label.*did you mean 'ward'\?"):
        build("by-column", wards, client_column="wards")


@pytest.mark.parametrize("name", ["rotation", "domain", "pathological", "mixed"])
def test_scenarios_of_pictures_refuse_tables(name: str, wards: DataSettings) -> None:
    with pytest.raises(DataError, match=r"needs pictures, but this is a table.*label-swap"):
        build(name, wards)


def test_scenarios_of_labels_need_labels(write_table: Callable[..., str]) -> None:
    data = DataSettings(path=write_table({"a": [0.0] * 100}))
    for name in ("labels", "label-swap"):
        with pytest.raises(DataError, match=r"needs labels of at least two classes.*data.label_column"):
            build(name, data)


def test_pictures_that_are_not_square(monkeypatch: pytest.MonkeyPatch) -> None:
    source = load_source(DIGITS)
    wide = replace(
        source,
        schema=replace(source.schema, shape=(1, 6, 8)),
        train=replace(source.train, x=source.train.x[..., 2:, :]),
    )
    monkeypatch.setattr("fedgmi.data.scenarios.mixtures.load_source", lambda _data: wide)
    with pytest.raises(DataError, match=r"needs square pictures, but these are 6×8.*data.size = 6"):
        build("rotation")


def test_label_without_held_out_rows(write_table: Callable[..., str]) -> None:
    write_table({"a": [float(i) for i in range(3000)], "y": [i % 4 for i in range(3000)]})
    path = write_table({"a": [1.0] * 30, "y": [0, 1, 2] * 10}, split="test")
    with pytest.raises(DataError, match=r"there are no held-out rows of label '3'"):
        build("labels", DataSettings(path=path))


def test_labels_scenario_on_a_table(write_table: Callable[..., str]) -> None:
    path = write_table({"a": [float(i) for i in range(3000)], "y": [i % 4 for i in range(3000)]})
    scenario = build("labels", DataSettings(path=path), n_components=2)
    for k, client in enumerate(truth_of(scenario).pure):
        assert set((client.x[:, 0] % 4).tolist()) == {2 * k, 2 * k + 1}


# --- real data -----------------------------------------------------------------------------------------------------


def test_mnist_takes_held_out_rows_from_the_test_split(mnist: Path) -> None:
    data = DataSettings(path=str(mnist), max_rows=6000)
    scenario, source = build("rotation", data, n_clients=10, rows_per_client=500), load_source(data)
    assert source.test is not None
    known = {"clients": set(keys(source.train.x)), "held_out": set(keys(source.test.x))}
    truths = {"clients": truth_of(scenario).components, "held_out": truth_of(scenario).held_out_components}
    for part, components in truths.items():
        for client, z in zip(getattr(scenario.federation, part), components, strict=True):
            for k in range(3):
                assert set(keys(torch.rot90(client.x[z == k], -k, dims=(-2, -1)))) <= known[part]


def test_femnist_by_writer(femnist: Path) -> None:
    data = DataSettings(path=str(femnist), invert=True, max_rows=8000)
    federation = build("by-column", data, n_clients=10, rows_per_client=100, client_column="writer_id").federation
    assert len(federation.names) == 10
    assert all(name.startswith("f") for name in federation.names)
