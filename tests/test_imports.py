"""What an import costs, and what it may not need: help answers at once, and models need no POSIX."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    "torch", "numpy", "scipy", "sklearn", "datasets", "pyarrow", "pandas", "narwhals", "pydantic", "plotly",
    "safetensors", "flwr", "psutil", "filelock",
)  # fmt: skip
LOADED = """
import sys
import {module}
print(*sorted({{name.partition(".")[0] for name in sys.modules}}))
"""
WITHOUT_POSIX = """
import sys
sys.modules["fcntl"] = None  # as on Windows
import fedgmi.estimator, fedgmi.storage.checkpoint, fedgmi.deploy.site.memory
print("imported")
"""


def output_of(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("module", ["fedgmi", "fedgmi.cli"])
def test_the_command_line_loads_nothing_heavy(module):
    loaded = set(output_of(LOADED.format(module=module)).split())
    assert {"fedgmi", *(["typer"] if module == "fedgmi.cli" else [])} <= loaded
    assert not loaded & set(HEAVY)


def test_a_mistyped_method_is_told_before_anything_heavy_is_loaded():
    program = """
import sys
from fedgmi import cli
try:
    cli.main(["compare", "--methods", "fedavg,fedgimm"])
except SystemExit as end:
    print(end.code, *sorted({name.partition(".")[0] for name in sys.modules}))
"""
    code, *loaded = output_of(program).split()
    assert code == "2"
    assert not set(loaded) & set(HEAVY)


def test_nothing_needs_posix_locks():
    assert output_of(WITHOUT_POSIX) == "imported\n"
