"""What left a site, and what it refused: a line of JSON each, never a value of a row or of what was made of rows.

`audit.jsonl` has a line for every answer, written before it leaves; nothing is ever removed from it. `refused.jsonl`
has the refusals, `repeated.jsonl` greetings and answers that left before. Whoever floods a site with requests fills
these two alone, of which the last `ROTATED_BYTES` stay, and the file before.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedgmi.protocol.step import Step
from fedgmi.protocol.wire import TOKEN, Header, Parcel, hash_of, json_size, travelling
from fedgmi.storage import files

LEFT, REFUSED, REPEATED = "audit.jsonl", "refused.jsonl", "repeated.jsonl"
ROTATED_BYTES = 8 * 2**20
SHOWN = 300  # letters of what somebody else chose
ASKED = ("kind", "run", "round", "number", "step", "id")


@dataclass(frozen=True)
class Audit:
    """A site's log of what left.

    Attributes:
        where: The site's folder.
    """

    where: Path

    def left(self, asked: Header, reply: Parcel, step: Step | None, *, again: bool = False, data: str = "") -> None:
        """Note an answer. Where that is impossible the answer must not leave.

        Args:
            asked: The request's header.
            reply: The answer.
            step: Of the program; None: it is no step's.
            again: Whether the same left before.
            data: The version of the rows, a digest.

        Raises:
            StorageError: The disk is full, or the folder cannot be written.
        """
        line = line_of(asked, reply, step) | {"again": again, "data": data}
        self._append(REPEATED if again or asked.get("kind") == "hello" else LEFT, line)

    def refused(self, asked: Mapping[str, Any], why: str) -> None:
        """Note a request that was not answered.

        Args:
            asked: Its header.
            why: In words.
        """
        self._append(REFUSED, _asked(asked) | {"why": why[:SHOWN]})

    def lines(self, since: float = 0.0) -> Iterator[dict[str, Any]]:
        """What left, oldest first; since a time in seconds since 1970."""
        return self._lines((LEFT,), since)

    def refusals(self, since: float = 0.0) -> Iterator[dict[str, Any]]:
        """What was refused, likewise."""
        return self._lines((_before(REFUSED), REFUSED), since)

    def repeats(self, since: float = 0.0) -> Iterator[dict[str, Any]]:
        """Greetings, and what left again, likewise."""
        return self._lines((_before(REPEATED), REPEATED), since)

    def _lines(self, names: tuple[str, ...], since: float) -> Iterator[dict[str, Any]]:
        found = (line for name in names for line in _lines(self.where / name))
        return (line for line in found if isinstance(line.get("time"), int | float) and line["time"] >= since)

    def _append(self, name: str, line: Mapping[str, Any]) -> None:
        text = json.dumps({"time": round(time.time(), 3), **line}, ensure_ascii=True)
        with files.writing(self.where / name):
            self.where.mkdir(parents=True, exist_ok=True)
            path = self.where / name
            if name != LEFT and path.exists() and path.stat().st_size > ROTATED_BYTES:
                path.replace(self.where / _before(name))
            with path.open("a", encoding="ascii") as file:
                file.write(text + "\n")  # at once, so that lines of two processes do not mix


TOLD = {
    "hello": "its name, how many rows it has, and a token by which it is known again in the run",
    "finish": "how good its predictor is on the rows held out",
}
"""What answers to requests tell that are no step's."""


def line_of(asked: Header, reply: Parcel, step: Step | None) -> dict[str, Any]:
    """What an answer is, without its values.

    Args:
        asked: The request's header.
        reply: The answer.
        step: Of the program; None: it is no step's.

    Returns:
        The request's place, the step's `name` and what it `tells`, the `leaves`, what else is `said`, `bytes`, `hash`.
    """
    kind = str(asked.get("kind"))
    leaves = [about(entry) for entry in reply.header.get("layout", ())]
    name, tells = (kind, TOLD.get(kind, "")) if step is None else (step.name, step.tells)
    tells = tells if leaves or kind == "hello" else ""
    return {
        **_asked(asked),
        "name": name,
        "tells": tells,
        "leaves": leaves,
        "said": {key: value for key, value in reply.header.items() if key not in ("layout", "hash", TOKEN)},
        "bytes": json_size(reply.header) + len(reply.payload),
        "hash": reply.header.get("hash", hash_of(b"")),
    }


def about(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A leaf that left: its name, dtype, shape and bytes; of models [K, P] the rows that travelled."""
    shape, size = travelling(dict(entry))
    return {"name": entry["name"], "dtype": entry["dtype"], "shape": list(shape), "bytes": size}


def _asked(header: Mapping[str, Any]) -> dict[str, Any]:
    """Of a request what says where it belongs; nothing that is long."""
    found = {key: header[key] for key in ASKED if key in header}
    return {key: _short(value) for key, value in found.items()}


def _short(value: Any) -> int | str:
    if isinstance(value, str):
        return value[:64]
    return value if type(value) is int and 0 <= value < 10**9 else f"a {type(value).__name__}"


def _before(name: str) -> str:
    return name.replace(".", ".1.")


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file; those that a crash cut short are left out."""
    if not path.exists():
        return
    with path.open(encoding="ascii", errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                continue
            if isinstance(line, dict):
                yield line
