"""Tables in a private simulation: their scale is of ranges, for sums over rows have no bound."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fedgmi.data.rows import Schema
from fedgmi.errors import ConfigError
from fedgmi.runs import experiment
from fedgmi.runs.config import Config, load
from fedgmi.runs.private import scale_of

RANGES = "data.ranges={age=[0, 120], dose=[-10, 10]}"
COMPONENTS = (
    *("method.preset=sketch", "method.epsilon=2", "method.n_components=2", "method.codewords=4"),
    *("method.kmeans_rounds=1", "method.warm_up_rounds=1", "method.personal=false"),
)
FEDAVG = ("method.name=fedavg", "method.personal=false")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four wards of 60 rows: two numbers, a text, a label."""
    draws, where = np.random.default_rng(0), tmp_path_factory.mktemp("wards")
    kind = np.repeat([0, 1, 0, 1], 60) ^ (draws.random(240) < 0.2)
    table = {
        "age": draws.normal(50, 10, 240) + 20 * kind, "dose": draws.normal(0, 2, 240),
        "sex": draws.choice(["f", "m"], 240), "ward": np.repeat(["a", "b", "c", "d"], 60),
    }  # fmt: skip
    table["label"] = ((table["dose"] > 0) ^ kind).astype(int)
    pd.DataFrame(table).to_csv(where / "train.csv", index=False)
    return where


def settings(folder: Path, *more: str) -> Config:
    words = [
        f"data.path={folder}", "scenario.name=by-column", "scenario.client_column=ward",
        "rounds=3", "evaluation.oracle=false", "evaluation.fedavg=false", "evaluation.local=false", "expert.hidden=8",
        "training.optimizer=sgd", "training.epochs=1", "training.batch_size=100001", "training.lr=0.5",
        "privacy.unit=rows", "privacy.clip=1", "privacy.noise_multiplier=2", "privacy.delta=1e-3", "threads=1",
    ]  # fmt: skip
    return load(None, [*words, *more])


@pytest.mark.filterwarnings("ignore::fedgmi.errors.FedgmiWarning")
@pytest.mark.parametrize("own", [FEDAVG, COMPONENTS], ids=["fedavg", "components"])
def test_a_table_is_scaled_by_its_ranges(folder, tmp_path, own):
    summary = experiment.run(settings(folder, RANGES, *own), tmp_path / "out")
    assert summary["standardisation"]["mean"] == [60.0, 0.0, 0.5, 0.5]
    assert summary["standardisation"]["std"] == pytest.approx([width / 12**0.5 for width in (120, 20, 1, 1)])
    assert summary["privacy"]["releases"] == (3 if own is FEDAVG else 1 + 1 + 3)
    assert summary["client_accuracy"] > 0.3
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["standardisation"]["mean"][0] == 60.0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), r"data\.ranges: 'age' has no range, and with \[privacy\] a table's scale cannot be made of sums"),
        (("data.ranges={age=[0, 120]}",), r"data\.ranges: 'dose' has no range"),
        (("data.ranges={weight=[0, 1]}",), r"data\.ranges: 'weight' is no feature; there are age, dose, sex=f, sex=m"),
        (("data.ranges={age=[9, 1], dose=[0, 1]}",), r"data\.ranges: the range of 'age' is \[9, 1\]"),
        (("data.ranges={age=[0, inf], dose=[0, 1]}",), r"data\.ranges: the range of 'age' is \[0, inf\]"),
        ((RANGES, "data.standardise=false"), r"data\.ranges: .*no effect, for rows are in their own units"),
        ((RANGES, "data.missing=mean"), r"data\.missing: means fill gaps"),
        (
            (RANGES, "data.task=regression", "data.label_column=dose", "evaluation.metric=rmse"),
            r"data\.task: regression begins with sums",
        ),
    ],
)
def test_what_a_scale_cannot_be_made_of_is_refused(folder, tmp_path, words, said):
    with pytest.raises(ConfigError, match=said):
        experiment.run(settings(folder, *FEDAVG, *words), tmp_path / "out")


def test_without_privacy_ranges_are_refused(folder, tmp_path):
    words = ("privacy.clip=", "privacy.unit=clients", "privacy.noise_multiplier=", "privacy.delta=1e-5")
    with pytest.raises(ConfigError, match=r"data\.ranges: .*no effect, for \[privacy\] is off"):
        experiment.run(settings(folder, *FEDAVG, RANGES, *words), tmp_path / "out")


def test_pictures_need_none(folder):
    schema = Schema((1, 8, 8), 10, "image", tuple("0123456789"))
    assert scale_of(settings(folder, *FEDAVG), schema, wanted=False) is None
