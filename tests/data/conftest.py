"""Small data sets on disk, read through `datasets` with its cache in a temporary folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


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
