"""Fixtures that all tests share: one thread, a cache, data folders that may be missing, and small data sets on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Small tensors gain nothing from threads, and tests run side by side."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def cache_of_pictures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests leave nothing in the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDGMI_CACHE", str(tmp_path_factory.mktemp("pictures")))
        yield


@pytest.fixture(autouse=True, scope="session")
def no_power_cuts() -> Iterator[None]:
    """Writing waits for no disk: half of a deployment's time in a test, and no test cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def few_passes() -> Iterator[None]:
    """Clients' own parts are chosen among few passes, in this process: commands that tests start have all of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedgmi.methods.candidates.PASSES", (1, 4))
        patch.setattr("fedgmi.methods.candidates.RATES", (0.3, 3.0))
        patch.setattr("fedgmi.methods.candidates.AFRESH", (6,))
        yield


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A simulation in which every client is a chunk by itself: the bits of a deployment."""
    monkeypatch.setattr("fedgmi.protocol.in_process.chunks", lambda clients, ids: [(i,) for i in ids])


@pytest.fixture(autouse=True)
def denormals() -> Iterator[None]:
    """A program of ours flushes denormals for good; Hypothesis refuses to draw floats where they are flushed."""
    yield
    torch.set_flush_denormal(False)


def _folder(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"set {variable} to a folder that `datasets` can load to run this test")
    folder = Path(value)
    if not folder.is_dir():
        pytest.fail(f"{variable}={value} is no folder")
    return folder


@pytest.fixture(scope="session")
def mnist() -> Path:
    """The folder of MNIST, from FEDGMI_MNIST."""
    return _folder("FEDGMI_MNIST")


@pytest.fixture(scope="session")
def femnist() -> Path:
    """The folder of FEMNIST with a column writer_id, from FEDGMI_FEMNIST."""
    return _folder("FEDGMI_FEMNIST")


@pytest.fixture(scope="session")
def school_scores() -> Path:
    """The folder of the school scores, from FEDGMI_SCHOOL_SCORES."""
    return _folder("FEDGMI_SCHOOL_SCORES")


@pytest.fixture(scope="session")
def tcga() -> Path:
    """The folder of FLamby's TCGA-BRCA, from FEDGMI_TCGA."""
    return _folder("FEDGMI_TCGA")


@pytest.fixture
def write_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """write_table({"column": values}, split="train", features=None) → the folder's path; call it once per split."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "source"
    folder.mkdir()

    def write(columns: dict[str, Any], split: str = "train", features: dict[str, Any] | None = None) -> str:
        schema = None if features is None else datasets.Features(features)
        datasets.disable_progress_bars()
        datasets.Dataset.from_dict(columns, features=schema).to_parquet(folder / f"{split}-00000-of-00001.parquet")
        return str(folder)

    return write


@pytest.fixture(autouse=True, scope="module")
def small_fits(request: pytest.FixtureRequest) -> Iterator[None]:
    """Intervals from a handful of simulated federations, and topics of few starts and iterations: rough, and quick.

    Of a module, so that what a module's fixtures make once is made likewise.
    """
    small: dict[str, object] = {}
    if request.path.name not in WHOLE:
        small |= {"diagnosis.intervals.PILOTS": (2, 2), "diagnosis.intervals.FEDERATIONS": (2, 2)}
    if request.path.name not in FOUND and request.path.parent.name not in ("mixture", "diagnosis", "privacy"):
        small |= {"mixture.topics.ITERATIONS": 40, "mixture.topics.WARM_UP": 10, "mixture.topics.RESTARTS": 1}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in small.items():
            patch.setattr(f"fedgmi.{name}", value)
        yield


FOUND = ("test_resume.py",)
"""Files whose tests look for what is in their data, or compare with other processes."""


WHOLE = (
    "test_intervals.py",
    "test_diagnosis.py",
    "test_diagnose_command.py",
    "test_real.py",
    "test_house.py",
    "test_imports.py",
)
"""Files about intervals, or about other processes and modules."""

SLOW = (
    "deploy/test_real.py",
    "deploy/test_coordinator.py",
    "test_benchmarks.py",
    "test_compare.py",
    "habits/test_settings.py",
    "methods/test_contract.py",
    "diagnosis/test_intervals.py",
)
"""Files that take longest: two workers that take whole files end together where these come first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    place = {str(here / name): number for number, name in enumerate(SLOW)}
    items.sort(key=lambda item: place.get(str(item.path), len(SLOW)))
