"""What tests of the deployment share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedgmi.deploy.setup import programs


@pytest.fixture(scope="module")
def no_waiting_for_the_disk() -> Iterator[None]:
    """Files are written all the same; nobody waits until they are safe from a power cut."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("os.fsync", lambda _: None)
        yield


@pytest.fixture
def flower(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Flower's programs beside the interpreter, and on PATH, whether they are installed here or not."""
    where = tmp_path_factory.mktemp("bin")
    for name in programs.PROGRAMS:
        (where / name).write_text("#!/bin/sh\n")
        (where / name).chmod(0o755)
    monkeypatch.setattr(programs, "sys", SimpleNamespace(executable=str(where / "python")))
    monkeypatch.setenv("PATH", str(where), prepend=os.pathsep)
    return where
