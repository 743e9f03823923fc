"""The two configurations, on their data where these are there."""

from __future__ import annotations

import warnings
from pathlib import Path

from fedgmi.errors import FedgmiWarning
from fedgmi.runs.config import load
from fedgmi.runs.experiment import run

CONFIGS = Path(__file__).parents[2] / "configs"
FEW = ("rounds=6", "method.name=fedavg", "evaluation.fedavg=false", "evaluation.local=false", "training.lr=1e-2")


def summary_of(name: str, data: Path, out: Path) -> dict:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FedgmiWarning)  # rows that are left out
        return run(load(CONFIGS / f"{name}.toml", (f"data.path={data}", *FEW)), out)


def test_school_scores(school_scores: Path, tmp_path: Path) -> None:
    summary = summary_of("school-scores", school_scores, tmp_path / "run")
    assert len(summary["clients"]) == 139
    assert summary["metrics"]["r2"]["all_rows"] > 0.1


def test_tcga(tcga: Path, tmp_path: Path) -> None:
    summary = summary_of("fed-tcga-brca", tcga, tmp_path / "run")
    assert len(summary["clients"]) == 6
    assert summary["metrics"]["c_index"]["all_rows"] > 0.6


def test_both_configurations_can_be_read() -> None:
    assert load(CONFIGS / "school-scores.toml").evaluation.metric == "rmse"
    assert load(CONFIGS / "fed-tcga-brca.toml").data.event_column == "event"
