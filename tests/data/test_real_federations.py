"""The configurations of real federations read the data that they name, with the test rows that others chose.

The data are not part of the project: a configuration's test is left out where its folder is not there.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from fedgmi.data.scenarios.scenarios import build_scenario, wants_scale
from fedgmi.runs import config

PROJECT = Path(__file__).parents[2]


class Published(NamedTuple):
    """What a data set's page says of it."""

    clients: int
    train: int
    test: int
    features: int  # with each text as one column a value
    classes: int  # 0: the label is no class
    smallest: int  # training rows of the smallest client


FEDERATIONS = {
    "fed-heart-disease": Published(4, 486, 254, 10, 2, 30),
    "fed-heart-disease-flamby": Published(4, 486, 254, 13, 2, 30),
    "school": Published(139, 11517, 3845, 27, 4, 16),
    "landmine": Published(29, 7414, 7406, 9, 2, 223),
    "wisdm": Published(36, 4065, 1353, 45, 6, 45),
    "watch-exercises": Published(20, 1724, 645, 30, 7, 51),
    "school-scores": Published(139, 11517, 3845, 27, 0, 16),
    "fed-tcga-brca": Published(6, 866, 222, 39, 0, 40),
    "us-math": Published(160, 5392, 1793, 11, 3, 10),
    "adult": Published(2, 32561, 16281, 107, 2, 413),
}


def settings_of(name: str, *overrides: str) -> config.Config:
    """The configuration, with the path of its data as seen from the project's folder."""
    settings = config.load(PROJECT / "configs" / f"{name}.toml", list(overrides))
    path = PROJECT / settings.data.path
    if not path.is_dir():
        pytest.skip(f"there is no {path.name} beside the project")
    return config.load(PROJECT / "configs" / f"{name}.toml", [f"data.path={path}", *overrides])


@pytest.mark.parametrize("name", FEDERATIONS)
def test_a_real_federation_has_its_published_clients_and_splits(name: str) -> None:
    settings, published = settings_of(name), FEDERATIONS[name]
    federation = build_scenario(settings.data, settings.scenario, settings.seed).federation
    groups = federation.clients, federation.validation, federation.held_out
    sizes = torch.tensor([[len(client) for client in group] for group in groups])
    assert len(federation.clients) == published.clients
    assert settings.scenario.n_components <= published.clients  # more cannot be told apart
    assert int(sizes[:2].sum()) == published.train
    assert int(sizes[:2].sum(0).min()) == published.smallest
    assert int(sizes[2].sum()) == published.test
    assert (federation.schema.n_features, federation.schema.n_classes) == (published.features, published.classes)
    assert bool((sizes > 0).all())


def test_configurations_name_local_data_or_an_owner_at_the_hub() -> None:
    paths = {file.stem: config.load(file).data.path for file in (PROJECT / "configs").glob("*.toml")}
    assert len(paths) > 10
    for name, path in paths.items():
        assert path == "digits" or path.startswith("../shared/data/") or path.count("/") == 1, name


def test_flambys_rows_are_not_scaled_again_and_others_are() -> None:
    for name, wanted in (("fed-heart-disease-flamby", False), ("fed-heart-disease", True)):
        settings = settings_of(name)
        schema = build_scenario(settings.data, settings.scenario, 0).federation.schema
        assert wants_scale(settings.data, settings.scenario, schema) is wanted


def test_without_validation_rows_the_training_rows_are_the_published_ones() -> None:
    settings = settings_of("fed-heart-disease-flamby", "scenario.validation_share=0.0")
    federation = build_scenario(settings.data, settings.scenario, settings.seed).federation
    assert federation.validation == ()
    for client in federation.clients:  # scaled by these rows alone; a column that is constant there stays so
        mean, std = client.x.double().mean(0), client.x.double().std(0)
        assert float(mean.abs().max()) < 1e-5
        assert bool(((std - 1).abs().lt(1e-4) | std.lt(1e-4)).all())
