"""The numbers of two results folders, leaf by leaf, for before_after.py."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from before_after_states import hashes

FILES = ("summary.json", "records.jsonl", "diagnosis.json", "comparison.json", "n_components.json", "numbers.json")
COSTS = ("bytes", "seconds")  # what may differ: any key with such a word

MORE = "more values"  # in place of one

Leaf = float | str | None
Leaves = dict[str, Leaf]


@dataclass(frozen=True)
class Comparison:
    """What two results of one case have in common.

    Attributes:
        numbers: How many numbers were compared.
        differ: Both values of those that differ, by key.
        words: Texts that differ, by key.
        only_before: Keys that the results before alone have, costs among them.
        only_after: Keys that the results after alone have.
    """

    numbers: int
    differ: dict[str, tuple[Leaf, Leaf]]
    words: dict[str, tuple[Leaf, Leaf]]
    only_before: list[str]
    only_after: list[str]


def compare(before: Leaves, after: Leaves) -> Comparison:
    """All numbers that both have, bit for bit. Costs (bytes, seconds) do not count.

    Args:
        before: Values by key, as `read` gives them.
        after: The same.

    Returns:
        What was found, in the order of the keys before.

    Examples:
        >>> compare({"a": 0.1, "bytes_up": 7}, {"a": 0.1, "bytes_up": 9, "format": 1})
        Comparison(numbers=1, differ={}, words={}, only_before=[], only_after=['format'])
        >>> compare({"a[0]": 0.3}, {"a[0]": 0.1 + 0.2}).differ
        {'a[0]': (0.3, 0.30000000000000004)}
        >>> compare({"a": None}, {"a.b": 0.3}).differ
        {'a': (None, 'more values')}
    """
    shared = {key: (before[key], after[key]) for key in before if key in after and not is_cost(key)}
    apart = {key: pair for key, pair in shared.items() if not same(*pair)}
    only_before = [key for key in before if key not in after]
    only_after = [key for key in after if key not in before]
    grown = {key: (before[key], MORE) for key in only_before if not is_cost(key) and within(key, only_after)}
    shrunk = {key: (MORE, after[key]) for key in only_after if not is_cost(key) and within(key, only_before)}
    return Comparison(
        numbers=sum(any_number(pair) for pair in shared.values()),
        differ={key: pair for key, pair in apart.items() if any_number(pair)} | grown | shrunk,
        words={key: pair for key, pair in apart.items() if not any_number(pair)},
        only_before=only_before,
        only_after=only_after,
    )


def within(key: str, others: list[str]) -> bool:
    """Whether a key is a single value here and a table or a list there.

    Examples:
        >>> within("a", ["a.b"]), within("a", ["a[0]"]), within("a", ["ab"])
        (True, True, False)
    """
    return any(other.startswith((f"{key}.", f"{key}[")) for other in others)


def is_cost(key: str) -> bool:
    """Whether the value under a key is a cost, which may differ."""
    return any(word in key for word in COSTS)


def any_number(pair: tuple[Leaf, Leaf]) -> bool:
    """Whether a value of the two is a number (or true, or false)."""
    return any(isinstance(value, int | float) for value in pair)


def same(one: Leaf, other: Leaf) -> bool:
    """Whether two values are the same bits. JSON gives back every float as it was.

    Examples:
        >>> same(0.0, -0.0), same(math.nan, math.nan), same(1, 1.0), same(1, True), same(None, 0.0)
        (False, True, True, False, False)
    """
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        if math.isnan(one) or math.isnan(other):
            return math.isnan(one) and math.isnan(other)
        return one == other and math.copysign(1, one) == math.copysign(1, other)
    return one == other


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Leaf]]:
    """Every value of a JSON document with its path. The length of a list is a value too.

    Examples:
        >>> dict(leaves({"a": {"b": [0.5, None]}}))
        {'a.b.length': 2, 'a.b[0]': 0.5, 'a.b[1]': None}
    """
    dot = "." if path else ""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}{dot}{key}")
    elif isinstance(value, list):
        yield f"{path}{dot}length", len(value)
        for i, inner in enumerate(value):
            yield from leaves(inner, f"{path}[{i}]")
    else:
        yield path, value


def read(results: Path) -> Leaves:
    """All values of a results folder, those of a comparison's cells included.

    Args:
        results: A folder that `fedgmi run`, `diagnose`, `compare` or before_after_program.py wrote.

    Returns:
        Values by `FILE: PATH`. Lines of records go by run and round. Of the tensors in checkpoints there are hashes.
    """
    found: Leaves = {}
    for path in sorted(path for path in results.rglob("*.json*") if path.name in FILES):
        name = path.relative_to(results).as_posix()
        if path.suffix == ".jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            document: Any = {"lines": len(lines)}
            for line in lines:
                document.setdefault(line.pop("run"), {})[f"round {line.pop('round')}"] = line
        else:
            document = json.loads(path.read_text())
        found.update((f"{name}: {key}", value) for key, value in leaves(document))
    return found | dict(hashes(results))


def kind(key: str) -> str:
    """A key without the places that it has many of: lists, rounds, runs, cells.

    Examples:
        >>> kind("records.jsonl: fedgmi.round 3.traffic[2].name")
        'records.jsonl: *.round *.traffic[*].name'
        >>> kind("cells/fedavg-0/summary.json: weights.length")
        'cells/*/summary.json: weights[*]'
        >>> kind("checkpoints/fedgmi.6.safetensors: ledger/3/sketch")
        'checkpoints/*: ledger/*/sketch'
    """
    runs = (r": [^:]+\.round \d+", ": *.round *")
    places = (r"\[\d+\]", "[*]"), (r"\.length$", "[*]"), (r"^cells/[^/]+/", "cells/*/"), (r"ledger/\d+", "ledger/*")
    for many, one in (*places, runs, (r"checkpoints/[^:]+", "checkpoints/*")):
        key = re.sub(many, one, key)
    return key
