"""The rooms of `fedgmi.data` stand on one another; the rules are read from the source, so lazy imports count too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import fedgmi.data

ROOT = Path(fedgmi.data.__file__).parent
FLOORS = (
    ("names", "standardise", "ranges", "rows", "validate", "missing", "problems", "far"),
    ("sources",),
    ("build", "decode", "encode", "federation", "split"),
    ("scenarios",),
)
"""From the ground up. The files of one floor may know each other, but not in a circle; see tests/test_house.py."""

FILES = sorted(path for path in ROOT.rglob("*.py") if path.name != "__init__.py")


def floor_of(name: str) -> int:
    room = name.partition(".")[0]
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def imports(path: Path) -> Iterator[str]:
    """The files of fedgmi.data that a file imports, without `fedgmi.data.`."""
    known = {name_of(other) for other in FILES}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fedgmi.data"):
            base = (node.module or "").removeprefix("fedgmi.data").removeprefix(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".removeprefix(".")
                yield inner if inner in known else base


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_file_imports_from_a_floor_above(path: Path) -> None:
    own = name_of(path)
    for other in imports(path):
        assert other, f"{own} imports from the package itself"
        assert floor_of(other) <= floor_of(own), f"{own} must not import {other}"
