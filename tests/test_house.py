"""Who may import whom. The rules are read from the source, so a lazy import counts like any other.

`docs/house.md` holds a drawing of the rooms. A test draws them anew and compares; to accept a change, write the drawing
again with `python tests/test_house.py`, and look at it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import fedgmi

ROOT = Path(fedgmi.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
DRAWING = Path(__file__).parent.parent / "docs" / "house.md"

FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "letters", "modes", "plain", "randomness", "tree"),
    ("settings", "storage", "privacy", "plugins"),
    ("data",),
    ("models", "mixture"),
    ("protocol",),
    ("methods",),
    ("diagnosis", "drift"),
    ("runs",),
    ("report",),
    ("estimator", "deploy"),
    ("cli", "flower_app"),
    ("__main__",),
    ("",),
)
"""From the ground up. A room imports from floors below its own, and from itself; rooms of one floor do not know each
other, but for those in BESIDE."""

BESIDE = {("mixture", "models"), ("storage", "settings"), ("privacy", "storage")}
SHARED = (
    "contract",
    "disclosing",
    "local_training",
    "candidates",
    "own_models",
    "personal",
    "plausible",
    "shared_trunk",
    "standardising",
    "summing",
)
METHODS_SHARE = tuple(f"methods.{name}" for name in SHARED)


def name_of(file: Path) -> str:
    """The module's dotted name without `fedgmi.`; a package's own file has the package's name."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(file): file for file in FILES}


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imports(file: Path) -> Iterator[str]:
    """Every module that a file imports, by full name; `from fedgmi import x` counts as fedgmi.x where x is a module."""
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import; write it in full"
            base = node.module or ""
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield inner if inner.removeprefix("fedgmi.") in NAMES else base


@cache
def own(file: Path) -> frozenset[str]:
    """The modules of ours that a file imports, without `fedgmi.`."""
    return frozenset(name.removeprefix("fedgmi.") for name in imports(file) if name.startswith("fedgmi."))


def foreign(file: Path) -> set[str]:
    """The top-level packages of others that a file imports."""
    return {name.partition(".")[0] for name in imports(file)} - {"fedgmi"}


def inside(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def room_of(name: str) -> str:
    """The top-level package or file."""
    return name.partition(".")[0]


def floor_of(room: str) -> int:
    found = [number for number, rooms in enumerate(FLOORS) if room in rooms]
    assert found, f"the room {room!r} stands on no floor: name it in FLOORS"
    return found[0]


@cache
def arrows() -> frozenset[tuple[str, str]]:
    """Which room imports from which other."""
    pairs = ((room_of(name), room_of(other)) for name, file in NAMES.items() for other in own(file))
    return frozenset((left, right) for left, right in pairs if left != right)


def draw() -> str:
    """The rooms, floor by floor from the top, each with its files and the rooms that it imports from."""
    lines = []
    for number, rooms in reversed(list(enumerate(FLOORS))):
        for room in rooms:
            files = [file for name, file in NAMES.items() if room_of(name) == room]
            if not files or not room:
                continue
            length = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)
            inner = sorted({name.split(".")[1] for name in NAMES if name.startswith(f"{room}.")})
            below = sorted(right for left, right in arrows() if left == room and right)
            size = f"{len(files)} file{'s' * (len(files) > 1)}, about {max(1, round(length / 100)) * 100} lines"
            lines.append(f"floor {number}  {room}  ({size})")
            lines += [f"          has  {', '.join(inner)}"] if inner else []
            lines += [f"          uses {', '.join(below)}"] if below else []
    return "\n".join(lines)


@pytest.fixture(params=FILES, ids=lambda file: name_of(file) or "fedgmi")
def file(request):
    return request.param


def test_the_drawing_is_of_this_house():
    """Sizes aside: a file that grows is no other house."""

    def plan(text: str) -> list[str]:
        return [line.partition("  (")[0] for line in text.splitlines() if line.startswith(("floor ", "          "))]

    assert plan(DRAWING.read_text(encoding="utf-8")) == plan(draw()), "python tests/test_house.py draws it anew"


@pytest.mark.parametrize("arrow", sorted(arrows()), ids=lambda arrow: "-".join(arrow) if arrow else "")
def test_no_arrow_points_upward(arrow):
    room, other = arrow
    assert floor_of(other) < floor_of(room) or arrow in BESIDE, f"{room} must not import from {other}"


def test_no_cycles_between_files():
    graph = {name: {other for other in own(file) if other != name and other in NAMES} for name, file in NAMES.items()}
    while free := [name for name, needs in graph.items() if not needs & graph.keys()]:
        for name in free:
            del graph[name]
    assert not graph, f"a cycle among {sorted(graph)}"


def test_methods_do_not_know_each_other_or_the_truth(file):
    """A method calls the mathematics, what methods share, and files of its own room; the table knows them all."""
    name = name_of(file)
    if not inside(name, "methods.baselines", "methods.fedgmi"):
        return
    for other in own(file):
        assert not inside(other, "data.scenarios", "data.federation")
        assert not inside(
            other, "protocol.in_process", "protocol.wire", "protocol.blocks", "protocol.transport", "protocol.ledger"
        )
        if inside(other, "methods"):
            assert inside(other, *METHODS_SHARE, ".".join(name.split(".")[:2])), f"{name} imports {other}"


def test_only_the_oracle_sees_true_components(file):
    """`Rows.component` is read in the oracle's file, and made where rows are packed."""
    if name_of(file) in ("methods.fedgmi.oracle", "data.rows") or not inside(name_of(file), "methods", "protocol"):
        return
    for node in ast.walk(parsed(file)):
        assert not (
            isinstance(node, ast.Attribute) and node.attr == "component" and ast.unparse(node) == "rows.component"
        )


def test_no_outer_room_reads_a_leaf_of_a_method(file):
    """Server and client states are a method's own: others ask its predictor, its metrics, or its counts."""
    if not inside(name_of(file), "runs", "deploy", "diagnosis", "report", "estimator", "cli", "flower_app", "drift"):
        return
    for node in ast.walk(parsed(file)):
        if (
            isinstance(node, ast.Subscript)
            and isinstance(node.slice, ast.Constant)
            and isinstance(node.slice.value, str)
        ):
            holder = ast.unparse(node.value)
            assert not holder.endswith(("server", "states", "state")), f"line {node.lineno}: {ast.unparse(node)}"


def test_protocol_knows_no_method(file):
    if inside(name_of(file), "protocol"):
        assert not [name for name in own(file) if inside(name, "methods", "data.scenarios", "data.federation")]


def test_report_reads_records_only(file):
    told = "protocol.listener", "protocol.words"
    if inside(name_of(file), "report"):
        assert all(
            inside(name, "report", "storage.folder", "storage.files", "errors", "runs.records", "letters", *told)
            for name in own(file)
        )
        assert not foreign(file) & {"torch", "sklearn", "datasets", "safetensors"}


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("typer", ("cli", "deploy.commands")),
        ("click", ("cli",)),
        ("flwr", ("deploy.flower", "deploy.flower_names", "deploy.flower_runtime", "deploy.quick")),
        ("plotly", ("report",)),
        (
            "pydantic",
            (
                "settings",
                "methods.fedgmi.settings",
                "runs.config",
                "runs.records",
                "deploy.settings",
                "storage.own_files",
            ),
        ),
        ("narwhals", ("data",)),
        ("psutil", ("deploy.local", "deploy.site.supernode")),
        ("filelock", ("storage", "deploy.site")),
        ("tomli_w", ("settings.toml",)),
        ("pickle", ()),
        ("fcntl", ()),
    ],
)
def test_packages_with_one_door(package, allowed):
    users = [name_of(file) for file in FILES if package in foreign(file)]
    assert not [name for name in users if not inside(name, *allowed)]


def test_nothing_acts_at_import(file):
    """A module's top level defines; the only bare calls are those of decorators and tables, commands' included."""
    for node in parsed(file).body:
        if isinstance(node, ast.Expr) and not ast.unparse(node).startswith("app.add_typer("):
            assert isinstance(node.value, ast.Constant), f"line {node.lineno} acts at import"
        if isinstance(node, ast.For | ast.While | ast.With | ast.Try):
            pytest.fail(f"line {node.lineno} acts at import")


def test_no_relative_reach_into_private_names(file):
    """A name that starts with an underscore stays in its file."""
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fedgmi"):
            assert not [
                alias.name for alias in node.names if alias.name.startswith("_") and alias.name != "__version__"
            ]


if __name__ == "__main__":
    text = DRAWING.read_text(encoding="utf-8")
    before, _, rest = text.partition("```\n")
    _, _, after = rest.partition("```\n")
    DRAWING.write_text(f"{before}```\n{draw()}\n```\n{after}", encoding="utf-8")
