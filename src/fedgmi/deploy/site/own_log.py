"""`log.txt` in a site's folder: what its owner reads when something went wrong. None of it is sent.

It has at most `ROTATED_BYTES`, and the file before, `log.1.txt`, as much: whoever floods a site with requests fills no
disk.
"""

from __future__ import annotations

import time
import traceback
from pathlib import Path

from fedgmi.errors import UserError, counted
from fedgmi.protocol.wire import WireError
from fedgmi.protocol.words import one_line
from fedgmi.storage import files

FILE, OLDER, LOCK = "log.txt", "log.1.txt", "log.lock"
ROTATED_BYTES = 8 * 2**20
LINES = 200  # of a failure: a request may choose how many its text has


def log(where: Path, error: Exception) -> None:
    """Write what explains itself in one line, else the whole of it with its traceback.

    Args:
        where: The site's folder.
        error: As it was raised.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
    """
    if isinstance(error, UserError | WireError):
        note(where, one_line(counted(str(error)), 2000))
        return
    lines = "".join(traceback.format_exception(error)).split("\n")
    if len(lines) > LINES:
        lines[LINES // 2 : -LINES // 2] = [f"… {len(lines) - LINES} lines are left out"]
    _append(where, "\n  ".join(one_line(line, 2000) for line in lines))


def note(where: Path, line: str) -> None:
    """Write one line.

    Args:
        where: The site's folder.
        line: What there is to tell.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
    """
    _append(where, line)


def _append(where: Path, text: str) -> None:
    path = where / FILE
    with files.writing(where), files.locked(where / LOCK):
        files.rotate(path, ROTATED_BYTES, lambda: where / OLDER)
        with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
