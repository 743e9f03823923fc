"""Proves that a change of the code changed no number: the same runs at two checkouts, compared bit for bit.

    .venv/bin/python benchmarks/before_after.py --before 59aa279 --after . --out runs/before-after
    .venv/bin/python benchmarks/before_after.py --before-results runs/old --after HEAD --out runs/before-after

Each side is a path or a git revision; a revision gets a git worktree while it runs. One interpreter serves both, on one
core, about five minutes a side. What lies in --out already, from the same sources, is read and not repeated.
Bytes and seconds may differ. Exits with 1 where any other number differs or a case did not run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from before_after_cases import ALWAYS, CASES, PROGRAM, Case
from before_after_numbers import Comparison, Leaves, compare, kind, read

ROOT = Path(__file__).parents[1]
REFUSED = 2  # the command line's exit code for settings that it does not know
PATIENCE_S = 1200
SIDES = ("before", "after")


@contextmanager
def checkout(side: str) -> Iterator[Path]:
    """The folder of a path or a git revision. A revision's goes away afterwards.

    Args:
        side: A folder with `src/fedgmi`, or any name of a commit of this repository.

    Yields:
        The folder.
    """
    if (Path(side) / "src" / "fedgmi").is_dir():
        yield Path(side).absolute()
        return
    with tempfile.TemporaryDirectory() as where:
        folder = Path(where) / "checkout"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(folder), side], check=True)
        try:
            yield folder
        finally:
            subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def digest(paths: Iterator[Path] | Sequence[Path], root: Path) -> str:
    """A hash of files and of where they lie."""
    found = hashlib.blake2b(digest_size=8)
    for path in sorted(paths):
        found.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()


def sources(folder: Path) -> str:
    """What the numbers of a checkout come from."""
    package = folder / "src" / "fedgmi"
    return digest((path for path in package.rglob("*") if path.suffix in (".py", ".toml")), package)


def call(folder: Path, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """This interpreter, with the sources of a checkout, on one core."""
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    where = {"PYTHONPATH": str(folder / "src"), "COLUMNS": "120"}
    command = [sys.executable, "-P", *words]
    return subprocess.run(command, env=os.environ | one | where, capture_output=True, text=True, timeout=PATIENCE_S)


def check_sources(folder: Path) -> None:
    """Refuse to go on where another fedgmi than the checkout's would run."""
    done = call(folder, ["-c", "import fedgmi; print(fedgmi.__file__)"])
    if not Path(done.stdout.strip()).is_relative_to(folder):
        sys.exit(f"error: fedgmi comes from {done.stdout.strip() or done.stderr}, not from {folder}")


def stamp(case: Case, folder: Path) -> dict[str, Any]:
    """What a case's results depend on. Results with another stamp are made anew."""
    program = digest([PROGRAM], PROGRAM.parent) if case.program else None
    wanted = {"words": list(case.words), "settings": list(case.settings), "program": program}
    return wanted | {"sources": sources(folder), "torch": version("torch")}


def measure(case: Case, folder: Path, where: Path, revision: str) -> None:
    """Run a case at a checkout, unless its results are there.

    Args:
        case: What to run.
        folder: The checkout.
        where: The case's folder. It gets `results` and, at the end, `case.json`.
        revision: The checkout's name, for people.
    """
    wanted, path = stamp(case, folder), where / "case.json"
    if path.exists() and (there := json.loads(path.read_text()))["stamp"] == wanted and not there["error"]:
        return
    began = time.monotonic()
    for settings in case.spellings():
        shutil.rmtree(where, ignore_errors=True)
        where.mkdir(parents=True)
        pairs = [word for setting in (*ALWAYS, *settings) for word in ("--set", setting)]
        cli = ["-c", "from fedgmi.cli import main; main()"]
        begin = [str(PROGRAM), *case.words] if case.program else [*cli, *case.words, *pairs]
        done = call(folder, [*begin, "--out", str(where / "results")])
        if done.returncode != REFUSED:
            break
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    told = {"revision": revision, "stamp": wanted, "error": lines[-1] if done.returncode else None}
    path.write_text(json.dumps(told | {"seconds": time.monotonic() - began}, indent=1))
    print(f"{revision}, {where.name}: {told['error'] or 'done'}", file=sys.stderr, flush=True)


def measure_all(side: str, out: Path, names: Sequence[str]) -> None:
    """What is missing of one side."""
    with checkout(side) as folder:
        check_sources(folder)
        for name in names:
            measure(CASES[name], folder, out / name, side)


def cost(found: Leaves) -> str:
    """Megabytes down and up, where the results say so."""
    for file in ("summary.json", "diagnosis.json"):
        down, up = (found.get(f"{file}: bytes_{way}") for way in ("down", "up"))
        if isinstance(down, int | float) and isinstance(up, int | float):
            return f"{down / 1e6:.2f} + {up / 1e6:.2f}"
    return "–"


def verdict(told: list[dict[str, Any] | None], found: Comparison) -> str:
    """Whether a case is equal, or where it first is not."""
    for side, case in zip(SIDES, told, strict=True):
        if case is None or case["error"]:
            return f"FAILED: {side}: {case['error'] if case else 'there are no results'}"
    if not found.numbers:
        return "FAILED: there are no numbers"
    if not found.differ:
        return "equal"
    key, (one, other) = next(iter(found.differ.items()))
    more = f" ({len(found.differ)} numbers in all)" if len(found.differ) > 1 else ""
    return f"DIFFERS: {key} was {one!r}, is {other!r}{more}"


def row(name: str, places: Sequence[Path]) -> tuple[list[str], Comparison]:
    """A case's line of the table, and what was compared: nothing where one side has not run."""
    paths = [place / name / "case.json" for place in places]
    told = [json.loads(path.read_text()) if path.exists() else None for path in paths]
    before, after = (read(path.parent / "results") for path in paths)
    found = compare(before, after) if all(told) else compare({}, {})
    seconds = [f"{case['seconds']:.0f}" if case else "–" for case in told]
    return [name, verdict(told, found), str(found.numbers), cost(before), cost(after), *seconds], found


HEAD = ["case", "result", "numbers", "MB down + up, before", "after", "seconds, before", "after"]


def table(lines: Sequence[Sequence[str]]) -> str:
    """The rows as Markdown."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (HEAD, ["---"] * len(HEAD), *lines))


def notes(found: dict[str, Comparison]) -> str:
    """Keys that one side alone has, and texts that differ, each with its cases."""
    lines: dict[str, set[str]] = {}
    for name, each in found.items():
        for key, (one, other) in each.words.items():
            lines.setdefault(f"other words: {key} was {one!r}, is {other!r}", set()).add(name)
        for side, keys in (("before", each.only_before), ("after", each.only_after)):
            for key in keys:
                lines.setdefault(f"only {side}: {kind(key)}", set()).add(name)
    return "\n".join(f"- {line} ({len(cases)} of {len(found)} cases)" for line, cases in sorted(lines.items()))


def main() -> None:
    """Run what is missing, then compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for side in SIDES:
        parser.add_argument(f"--{side}", metavar="PATH|REVISION", help="without it: results that are there are read")
        parser.add_argument(f"--{side}-results", type=Path, metavar="DIR", help=f"in place of OUT/{side}")
    parser.add_argument("--out", type=Path, default=Path("runs/before-after"))
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="CASE")
    options = vars(parser.parse_args())
    places = [(options[f"{side}_results"] or options["out"] / side).absolute() for side in SIDES]
    for side, place in zip(SIDES, places, strict=True):
        if options[side]:
            measure_all(options[side], place, options["only"])
    rows = {name: row(name, places) for name in options["only"]}
    print(table([line for line, _ in rows.values()]))
    if told := notes({name: found for name, (_, found) in rows.items()}):
        print(f"\n{told}")
    sys.exit(any(line[1] != "equal" for line, _ in rows.values()))


if __name__ == "__main__":
    main()
