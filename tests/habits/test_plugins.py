"""An outside package adds methods, densities, experts and scenarios by entry points, without a fork."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tiny
from fedgmi import FedGMI, cli
from fedgmi.data.scenarios.scenarios import SCENARIOS
from fedgmi.errors import ConfigError, FedgmiWarning
from fedgmi.methods import METHODS
from fedgmi.models.densities import DENSITIES
from fedgmi.models.experts import EXPERTS
from fedgmi.runs import config

TABLES = (METHODS, DENSITIES, EXPERTS, SCENARIOS)
PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
MODELS = '''
"""Independent Laplace features, and a linear expert."""

import math

import torch
from torch import nn

from fedgmi.data.scenarios.scenarios import ScenarioSpec
from fedgmi.data.scenarios.gaussian import gaussian
from fedgmi.models.own import density_from_module, expert_from_module


class Laplace(nn.Module):
    def __init__(self, n_features):
        super().__init__()
        self.centre, self.log_scale = nn.Parameter(torch.randn(n_features)), nn.Parameter(torch.zeros(n_features))

    def log_prob(self, x):
        return -((x - self.centre).abs() * (-self.log_scale).exp() + self.log_scale + math.log(2)).sum(-1)

    def sample(self, noise):
        return self.centre - noise.sign() * self.log_scale.exp() * (noise.abs() / 2**0.5).erfc().log()


def laplace(settings, schema):
    return density_from_module(lambda: Laplace(schema.n_features), schema, name="laplace")


def one_layer(settings, schema):
    return expert_from_module(lambda: nn.Linear(schema.n_features, schema.n_classes), schema, name="one-layer")


BELLS = ScenarioSpec("the Gaussian scenario by another name", gaussian, own_rows=True)
NUMBER = 3
'''
ENTRIES = """
[fedgmi.methods]
plain-mean = outside_methods:PLAIN_MEAN
[fedgmi.densities]
laplace = outside_models:laplace
[fedgmi.experts]
one-layer = outside_models:one_layer
[fedgmi.scenarios]
bells = outside_models:BELLS
"""


class Packages:
    """Installs packages of a test: folders of modules and what pip would write beside them."""

    def __init__(self, where: Path) -> None:
        self.where = where

    def install(self, name: str, entries: str, **modules: str) -> None:
        info = self.where / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(entries)
        for module, text in modules.items():
            (self.where / f"{module}.py").write_text(text)
        forget()


def forget() -> None:
    """Let the tables look for packages anew."""
    for table in TABLES:
        table.__dict__.pop("_points", None)
        table._loaded.clear()


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Packages]:
    where = tmp_path / "site"
    where.mkdir()
    monkeypatch.syspath_prepend(where)
    before = set(sys.modules)
    yield Packages(where)
    for name in set(sys.modules) - before:
        if name.startswith(("outside", "broken")):
            del sys.modules[name]
    monkeypatch.undo()
    forget()


@pytest.fixture
def outside(packages: Packages) -> Packages:
    """A package with one entry of each kind. Its method is that of the page about extending."""
    [method] = (block for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S) if "plain_mean" in block)
    packages.install("outside", ENTRIES, outside_methods=method, outside_models=MODELS)
    return packages


def test_it_is_listed_with_its_own_line(outside, capsys):
    assert tiny.exit_code("list") == 0
    told = capsys.readouterr().out
    assert re.search(r"plain-mean +FedAvg in which every client counts once", told)
    assert re.search(r"laplace +Independent Laplace features", told)
    assert re.search(r"bells +the Gaussian scenario by another name", told)
    assert "one-layer" in told


def test_it_runs_by_its_names_in_the_settings(outside, tmp_path):
    words = ("scenario.name=bells", "expert.name=one-layer", "expert.hidden=200")
    summary = tiny.run(tmp_path / "mean", *words, "method.name=plain-mean", "method.step=0.5")
    assert summary["method"] == "plain-mean"
    kept = config.load(tmp_path / "mean" / "config.toml")
    assert (kept.method.step, type(kept.method)) == (0.5, METHODS["plain-mean"].settings)
    few = ("density.hidden=256", "density.latent=16")
    assert tiny.run(tmp_path / "mix", *words, *few, "density.name=laplace")["proportion_tv"] is not None


def test_its_settings_are_as_strict_as_ours(outside):
    for words, told in (
        (["method.name=plain-maen"], 'did you mean "plain-mean"'),
        (["method.name=plain-mean", "method.stpe=1.0"], r"did you mean method\.step"),
        (["method.name=plain-mean", "method.step=2.0"], r"method\.step is 2\.0, expected 1 or less"),
        (["method.step=0.5"], r"step is a setting of plain-mean, and method\.name is fedgmi"),
    ):
        with pytest.raises(ConfigError, match=told):
            config.load(None, words)


def test_nothing_of_it_is_loaded_before_it_is_used(outside):
    assert "plain-mean" in METHODS
    assert "laplace" in list(DENSITIES)
    config.load(None)
    FedGMI(2)
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert not {"outside_methods", "outside_models"} & sys.modules.keys()
    assert DENSITIES["laplace"]
    assert "outside_models" in sys.modules
    assert "outside_methods" not in sys.modules


BROKEN = {
    "an import that fails": ("broken:X", "import not_there_at_all", "No module named 'not_there_at_all'"),
    "no such name": ("broken:X", "", "has no attribute 'X'"),
    "no entry": ("broken:X", "X = 3", "it is a int, not an Entry"),
    "another name": (
        "broken:X",
        "from fedgmi.methods.baselines.fedavg import FEDAVG as X",
        "its settings call it 'fedavg'",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_one_is_named_and_the_others_work(outside, case, capsys):
    value, text, told = BROKEN[case]
    outside.install("broken-package", f"[fedgmi.methods]\nmine = {value}\n", broken=text)
    with pytest.raises(ConfigError) as raised:
        config.load(None, ["method.name=mine"])
    for words in (told, "the method 'mine' of the package broken-package cannot be used", "entry point fedgmi.methods"):
        assert words in str(raised.value)
    assert config.load(None, ["method.name=plain-mean"]).method.name == "plain-mean"
    with pytest.raises(ConfigError, match="unknown key method"):
        config.load(None, ["method.zzz=3"])
    assert tiny.exit_code("list") == 0
    listed = capsys.readouterr().out
    assert re.search(r"mine +cannot be used: the method 'mine' of the package broken-package", listed)
    assert "plain-mean" in listed


def test_names_that_clash_are_refused(outside):
    outside.install("second", "[fedgmi.methods]\nplain-mean = outside_methods:PLAIN_MEAN\n")
    with pytest.raises(ConfigError, match="the package outside and the package second both have a method 'plain-mean'"):
        config.load(None, ["method.name=plain-mean"])
    outside.install("third", "[fedgmi.densities]\nvae = outside_models:laplace\n")
    with pytest.warns(FedgmiWarning, match="the density 'vae' of the package third is left out: fedgmi has one"):
        assert list(DENSITIES).count("vae") == 1
    assert DENSITIES["vae"].__module__ == "fedgmi.models.densities.vae"


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ("[fedgmi.scenarios]\nodd = outside_models:NUMBER\n", "it is a int, not a ScenarioSpec"),
        ("[fedgmi.densities]\nodd = outside_models:NUMBER\n", r"it is a int, not a function \(settings, schema\)"),
    ],
)
def test_entries_of_other_kinds_are_checked_too(outside, entries, told):
    outside.install("odd-package", entries)
    with pytest.raises(ConfigError, match=told):
        (SCENARIOS if "scenarios" in entries else DENSITIES)["odd"]
