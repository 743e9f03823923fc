"""What left a site, and what it refused: a line of JSON each, never a value of a row or of what was made of rows.

`audit.jsonl` has a line for every answer, written before it leaves; nothing is ever removed from it. Beyond
`ROTATED_BYTES` it goes on in a new file, and the old one becomes `audit.1.jsonl`, the next `audit.2.jsonl` and so on.
Where a site fails between the line and the answer, the line stands though nothing left: rather one too many than one
that is missing. Asked again, the same answer has no second line there.

`refused.jsonl` has the refusals. `repeated.jsonl` has what tells nothing new of rows: blocks asked for again, keys of
masks, and answers that left before, such as all greetings but the first. Whoever floods a site with requests fills
these two alone. Of each the last `ROTATED_BYTES` stay, and as much of the file before.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

from fedgmi import plain
from fedgmi.deploy.site.own_log import ROTATED_BYTES
from fedgmi.deploy.site.requests import fingerprint
from fedgmi.protocol.step import Step
from fedgmi.protocol.wire import TOKEN, Header, Parcel, hash_of, json_size, travelling
from fedgmi.storage import files

LEFT, REFUSED, REPEATED = "audit.jsonl", "refused.jsonl", "repeated.jsonl"
LOCK = "audit.lock"
SHOWN = 300  # letters of what somebody else chose
SAID = 64  # letters of a text that an answer says; of a longer one, and of tables, there are size and hash
LAST = 253_402_300_799  # the last second of the year 9999, where dates end
OF_LEAF = {"name", "dtype", "shape"}
ASKED = ("kind", "run", "round", "number", "step", "id")
OF_HELLO = ("kind", "data", "hash")
PLACE = (*OF_HELLO, "name", "run", "round", "number", "id", "request")  # by these two lines are of the same answer


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
            again: Whether it tells nothing that did not leave before.
            data: The version of the rows, a digest.

        Raises:
            StorageError: The disk is full, or the folder cannot be written.
        """
        line = line_of(asked, reply, step) | {"data": data}
        again = again or self._stands(line)
        self._append(REPEATED if again else LEFT, line | {"again": again})

    def refused(self, asked: Mapping[str, Any], why: str) -> None:
        """Note a request that was not answered.

        Args:
            asked: Its header.
            why: In words.
        """
        self._append(REFUSED, _asked(asked) | {"why": why[:SHOWN]})

    def lines(self, since: float = 0.0) -> Iterator[dict[str, Any]]:
        """What left, oldest first; since a time in seconds since 1970."""
        return self._lines((*(_numbered(n) for n in self._numbers()), LEFT), since)

    def refusals(self, since: float = 0.0) -> Iterator[dict[str, Any]]:
        """What was refused, likewise."""
        return self._lines((_before(REFUSED), REFUSED), since)

    def repeats(self, since: float = 0.0) -> Iterator[dict[str, Any]]:
        """Greetings, and what left again, likewise."""
        return self._lines((_before(REPEATED), REPEATED), since)

    def damaged(self) -> dict[str, int]:
        """How many lines of each file cannot be read, where there are any: by its path."""
        names = *(_numbered(n) for n in self._numbers()), LEFT, _before(REFUSED), REFUSED
        found = {str(self.where / name): sum(line is None for line in _lines(self.where / name)) for name in names}
        return {path: n for path, n in found.items() if n}

    def _lines(self, names: tuple[str, ...], since: float) -> Iterator[dict[str, Any]]:
        found = (line for name in names for line in _lines(self.where / name))
        return (line for line in found if line is not None and line["time"] >= since)

    def _stands(self, line: Mapping[str, Any]) -> bool:
        """Whether the answer has its line: the site failed before it left, or was asked again."""
        path = self.where / LEFT
        if not path.is_file() or str(line["hash"]).encode() not in path.read_bytes():
            return False
        same = OF_HELLO if line["kind"] == "hello" else PLACE
        return any(all(other.get(key) == line.get(key) for key in same) for other in _lines(path) if other)

    def _append(self, name: str, line: Mapping[str, Any]) -> None:
        text = json.dumps({"time": round(time.time(), 3), **line}, ensure_ascii=True)
        path = self.where / name
        with files.writing(path), files.locked(self.where / LOCK):
            files.rotate(path, ROTATED_BYTES, lambda: self.where / self._older(name))
            new = not path.exists()
            with path.open("ab+") as file:
                file.write(_end_of(file) + text.encode() + b"\n")
                if name == LEFT:
                    file.flush()
                    os.fsync(file.fileno())
            if new and name == LEFT:
                files.sync_folder(self.where)

    def _older(self, name: str) -> str:
        """Where a full file goes."""
        return _numbered(max(self._numbers(), default=0) + 1) if name == LEFT else _before(name)

    def _numbers(self) -> list[int]:
        """Of the full files of what left, oldest first."""
        found = (re.fullmatch(r"audit\.(\d+)\.jsonl", path.name) for path in self.where.glob("audit.*.jsonl"))
        return sorted(int(match[1]) for match in found if match)


UNMASK = "masks: unmask"
TOLD = {
    "hello": "its name, how many rows it has, and a token by which it is known again in the run",
    "finish": "how good its predictor is on the rows held out",
    UNMASK: "shares by which the sum of several sites comes out of its masks",
}
"""What answers to requests tell that are no step's, by the line's name."""


def line_of(asked: Header, reply: Parcel, step: Step | None) -> dict[str, Any]:
    """What an answer is, without its values.

    Args:
        asked: The request's header.
        reply: The answer.
        step: Of the program; None: it is no step's.

    Returns:
        The request's place, the step's `name` and what it `tells`, the `leaves`, what else is `said` (of texts and
        tables that are long the bytes and a hash), `bytes`, `hash`, and the hash of the `request`.
    """
    leaves = [about(entry) for entry in reply.header.get("layout", ())]
    name = _name(asked, reply) if step is None else step.name
    tells = TOLD.get(name, "") if step is None else step.tells
    tells = tells if leaves or name in ("hello", UNMASK) else ""
    said = {key: value for key, value in reply.header.items() if key not in ("layout", "hash", TOKEN)}
    return {
        **_asked(asked),
        "name": name,
        "tells": tells,
        "leaves": leaves,
        "said": {key: _said(value) for key, value in said.items()},
        "bytes": json_size(reply.header) + len(reply.payload),
        "hash": reply.header.get("hash") or _hash_of(said),
        "request": fingerprint(asked),
    }


def about(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A leaf that left: its name, dtype, shape and bytes; of models [K, P] the rows that travelled."""
    shape, size = travelling(dict(entry))
    return {"name": entry["name"], "dtype": entry["dtype"], "shape": list(shape), "bytes": size}


def _name(asked: Header, reply: Parcel) -> str:
    """What an answer is that is no step's."""
    if reply.header.get("missing"):
        return "blocks that are missing"
    kind, masks = str(asked.get("kind")), asked.get("masks")
    ask = masks.get("ask") if isinstance(masks, dict) else None
    return f"{kind}: {_short(ask)}" if kind == "masks" else kind


def _said(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= SAID):
        return value
    return {"bytes": json_size(value), "hash": _hash_of(value)}


def _hash_of(value: Any) -> str:
    return hash_of(json.dumps(value, sort_keys=True).encode())


def _asked(header: Mapping[str, Any]) -> dict[str, Any]:
    """Of a request what says where it belongs; nothing that is long."""
    found = {key: header[key] for key in ASKED if key in header}
    return {key: _short(value) for key, value in found.items()}


def _short(value: Any) -> int | str:
    if isinstance(value, str):
        return value[:64]
    return value if type(value) is int and 0 <= value < 10**9 else f"a {type(value).__name__}"


def _end_of(file: BinaryIO) -> bytes:
    """What ends a line that a crash cut short, so that the next one is a line of its own."""
    if not file.seek(0, os.SEEK_END):
        return b""
    file.seek(-1, os.SEEK_END)
    return b"" if file.read(1) == b"\n" else b"\n"


def _before(name: str) -> str:
    return name.replace(".", ".1.")


def _numbered(n: int) -> str:
    return LEFT.replace(".", f".{n}.")


def _lines(path: Path) -> Iterator[dict[str, Any] | None]:
    """The lines of a file; None for one that a crash cut short, or that was changed."""
    if not path.exists():
        return
    with path.open(encoding="ascii", errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
                plain.check(line)
            except (ValueError, RecursionError):
                line = None
            yield line if _is_whole(line) else None


def _is_whole(line: Any) -> TypeGuard[dict[str, Any]]:
    """Whether a line is one that `_append` could have written."""
    if not isinstance(line, dict) or not _counts(line.get("time")) or line["time"] > LAST:
        return False
    leaves = line.get("leaves", [])
    whole = isinstance(leaves, list) and all(isinstance(leaf, dict) and leaf.keys() >= OF_LEAF for leaf in leaves)
    return whole and _counts(line.get("bytes", 0))


def _counts(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
