"""Random damage, drawn from a seed; and what a case may cost: five seconds, and 200 MB together with all others."""

from __future__ import annotations

import copy
import json
import math
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MOST_S, MOST_MB = 5.0, 200.0


DEEP = {"@deep": 40, "@deeper": 900, "@deepest": 20_000}
"""Texts in whose place `text_of` writes a list in a list, so many times."""

HOSTILE: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 3, 0.5, -0.0, math.inf, -math.inf, math.nan, 1e308, 10**400, -(10**30), 2**62),
    *(
        10**9,
        "",
        "a",
        "\ud800",
        "\x1b[31m",
        "a\nb",
        "x" * 3000,
        "float32",
        "int64",
        "w",
        "l",
        "h",
        "1e9",
        "é",
        "../../x",
    ),
    *([], [0], [-1], [0, 0], [10**9], [2**62, 8], ["a"], [[0]], {}, {"name": 1}, {"": {}}, *DEEP),
    *(["ab" * 16] * 50, [0.5] * 7),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a value of JSON, its own place first."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from places(one, (*path, key))


def damaged(value: Any, draws: random.Random) -> Any:
    """A copy in which one to three things are others, are missing, are there twice, or have other names."""
    value = copy.deepcopy(value)
    for _ in range(draws.choice((1, 1, 1, 2, 3))):
        every = [path for path in places(value) if path]
        if not every:
            return draws.choice(HOSTILE)
        *outer, last = draws.choice(every)
        holder = value
        for key in outer:
            holder = holder[key]
        _change(holder, last, draws)
    return value


def _change(holder: Any, key: Any, draws: random.Random) -> None:
    how = draws.randrange(8)
    if how == 0:
        del holder[key]
    elif how == 1 and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(holder[key]))
    elif how == 1:
        holder[str(key) + draws.choice(("x", "/", "\ud800"))] = holder.pop(key)
    elif how == 2 and isinstance(holder[key], int | float) and abs(holder[key]) < 1e300:
        holder[key] = draws.choice((-holder[key], holder[key] + 1, holder[key] * 1000, float(holder[key])))
    elif how == 3 and isinstance(holder[key], list):
        holder[key] = holder[key] * draws.choice((0, 2, 300))
    else:
        holder[key] = copy.deepcopy(draws.choice(HOSTILE))


def damaged_bytes(data: bytes, draws: random.Random) -> bytes:
    """The same with other bytes, too few, too many, or none."""
    found = bytearray(data)
    how = draws.randrange(6)
    if how == 0 and found:
        return bytes(found[: draws.randrange(len(found))])
    if how == 1:
        return bytes(found) + draws.randbytes(draws.choice((1, 8, 4096)))
    if how == 2:
        return draws.choice((b"", b"\x00", b"{}", b"\xff\xfe", b"[" * 5000, b'{"a":' * 3000))
    for _ in range(draws.choice((1, 4, 40)) if found else 0):
        found[draws.randrange(len(found))] = draws.randrange(256)
    return bytes(found)


def text_of(value: Any) -> str:
    """As JSON, where Python can write it: NaN, infinities and lone surrogates included."""
    text = json.dumps(value)
    for name, n in DEEP.items():
        text = text.replace(f'"{name}"', "[" * n + "]" * n)
    return text


@contextmanager
def cheap() -> Iterator[Callable[[], None]]:
    """What the block does may take so much memory. Before each case call what it gives: it sets the clock anew."""

    def late(*_: object) -> None:
        raise AssertionError(f"a case takes more than {MOST_S:g} s")

    before, at_first = signal.signal(signal.SIGALRM, late), _memory("VmRSS")
    _forget_peak()
    try:
        yield lambda: signal.setitimer(signal.ITIMER_REAL, MOST_S)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert _memory("VmHWM") - at_first < MOST_MB


def _memory(what: str) -> float:
    """Of this process, in MB; 0 where the system does not tell."""
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return 0.0
    return next((float(line.split()[1]) / 1000 for line in text.splitlines() if line.startswith(what)), 0.0)


def _forget_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return
