"""Fixtures that all tests share: one thread, and data folders that may be missing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Small tensors gain nothing from threads, and tests run side by side."""
    torch.set_num_threads(1)


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
