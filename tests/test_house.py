"""Who may import whom. The rules are read from the source, so a lazy import counts like any other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import fedgmi

ROOT = Path(fedgmi.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
SHARED_BY_METHODS = ("methods.base", "methods.local_training")
MATHEMATICS = ("mixture", "densities", "training", "flat", "experts", "tree", "randomness")


def name_of(file: Path) -> str:
    """The module's dotted name without `fedgmi.`; a package's own file has the package's name."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(file): file for file in FILES}


def imports(file: Path) -> Iterator[str]:
    """Every module that a file imports, by full name; `from fedgmi import x` counts as fedgmi.x where x is a module."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import; write it in full"
            base = node.module or ""
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield inner if inner.removeprefix("fedgmi.") in NAMES else base


def own(file: Path) -> set[str]:
    """The modules of ours that a file imports, without `fedgmi.`."""
    return {name.removeprefix("fedgmi.") for name in imports(file) if name.startswith("fedgmi.")}


def foreign(file: Path) -> set[str]:
    """The top-level packages of others that a file imports."""
    return {name.partition(".")[0] for name in imports(file)} - {"fedgmi"}


def inside(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@pytest.fixture(params=FILES, ids=lambda file: name_of(file) or "fedgmi")
def file(request):
    return request.param


def test_mathematics_knows_no_methods_scenarios_or_command_line(file):
    if inside(name_of(file), *MATHEMATICS):
        wrong = {
            name
            for name in own(file)
            if inside(name, "methods", "transports", "data.scenarios", "settings_io", "experiment", "report", "cli")
        }
        assert not wrong


def test_only_outer_parts_read_configuration(file):
    """Mathematics, data and methods take sections of the settings as arguments; only the outer parts load and dump."""
    if name_of(file) in {
        "cli",
        "compare",
        "experiment",
        "diagnose_run",
        "config",
        "estimator",
        "model_file",
        "deploy.coordinator",
    }:
        return
    inner = inside(name_of(file), *MATHEMATICS, "data", "methods", "transports")
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "fedgmi.settings.run":
            wrong = [alias.name for alias in node.names if not alias.name.endswith("Settings")]
            wrong = wrong if inner else [name for name in wrong if name != "Config"]
            assert not wrong
        if isinstance(node, ast.ImportFrom) and node.module == "fedgmi":
            assert "config" not in [alias.name for alias in node.names]


def test_methods_do_not_know_each_other_or_the_truth(file):
    """A method calls the mathematics, what methods share, and files of its own package; the table knows them all."""
    parts = name_of(file).split(".")
    if parts[0] != "methods" or len(parts) == 1:
        return
    for name in own(file):
        assert not inside(name, "data.scenarios", "evaluation", "experiment", "report", "transports", "cli")
        if inside(name, "methods"):
            assert inside(name, *SHARED_BY_METHODS, f"methods.{parts[1]}"), f"{parts[1]} imports {name}"


def test_data_knows_no_methods(file):
    if inside(name_of(file), "data"):
        assert not [
            name for name in own(file) if inside(name, "methods", "transports", "mixture", "report", "experiment")
        ]


def test_transports_know_no_concrete_method_or_scenario(file):
    if inside(name_of(file), "transports"):
        wrong = [n for n in own(file) if inside(n, "methods", "data.scenarios") and n != "methods.base"]
        assert not wrong


def test_report_reads_records_only(file):
    if inside(name_of(file), "report"):
        assert all(inside(name, "report", "folder", "errors", "listener") for name in own(file))
        assert not foreign(file) & {"torch", "sklearn", "datasets", "safetensors"}


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("typer", {"cli", "deploy.commands"}),
        ("click", {"cli"}),
        ("flwr", {"transports.flower"}),
        ("plotly", {"report.picture", "report.diagnosis_picture"}),
        ("pydantic", {"config", "deploy.settings", "section", "settings_io"}),
        ("pickle", set()),
    ],
)
def test_packages_with_one_door(package, allowed):
    assert {name_of(file) for file in FILES if package in foreign(file)} <= allowed


def test_no_cycles_between_packages():
    """Between `fedgmi.x` and `fedgmi.y`, files of a package taken together."""
    graph: dict[str, set[str]] = {}
    for name, file in NAMES.items():
        unit = name.partition(".")[0]
        graph.setdefault(unit, set()).update(other.partition(".")[0] for other in own(file))
    for unit in graph:
        graph[unit].discard(unit)
    while free := [unit for unit, needs in graph.items() if not needs & graph.keys()]:
        for unit in free:
            del graph[unit]
    assert not graph, f"a cycle among {sorted(graph)}"


def test_nothing_acts_at_import(file):
    """A module's top level defines; the only bare calls are those of decorators and tables, commands' included."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Expr) and not ast.unparse(node).startswith("app.add_typer("):
            assert isinstance(node.value, ast.Constant), f"line {node.lineno} acts at import"
        if isinstance(node, ast.For | ast.While | ast.With | ast.Try):
            pytest.fail(f"line {node.lineno} acts at import")


def test_no_relative_reach_into_private_names(file):
    """A name that starts with an underscore stays in its file."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fedgmi"):
            assert not [
                alias.name for alias in node.names if alias.name.startswith("_") and alias.name != "__version__"
            ]
