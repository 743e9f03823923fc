"""Files that a crash never leaves half written, and reading JSON that may be damaged."""

from __future__ import annotations

import errno
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedgmi import plain
from fedgmi.errors import StorageError, UserError

FULL = (errno.ENOSPC, errno.EDQUOT)


def finite(value: Any) -> Any:
    """Replace every number that JSON cannot write.

    Args:
        value: Dicts, lists and tuples of JSON values, nested in any way.

    Returns:
        The same value with None for NaN and infinities, and lists for tuples.

    Examples:
        >>> finite({"accuracy": [0.5, float("nan")]})
        {'accuracy': [0.5, None]}
    """
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Tell the user about a disk that is full or gone. What was written before stays as it is.

    Args:
        path: What is written in the block, for the message.

    Raises:
        StorageError: The block raised an OSError.
    """
    try:
        yield
    except OSError as error:
        fix = "make room on the disk"
        if error.errno not in FULL:
            fix += ", or let the user who runs this write there"
        raise StorageError(f"cannot be written ({error.strerror or error})", where=str(path), fix=fix) from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time in the block; others wait. The operating system releases the lock when a process ends.

    Args:
        path: The lock. Its folder is made where there is none.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
    """
    from filelock import FileLock  # not above: `fedgmi --help` does without it

    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path).acquire()
    with lock:
        yield


def rotate(path: Path, most: int, older: Callable[[], Path]) -> None:
    """Move a file aside that has become too large, so that a new one begins.

    Args:
        path: The file; there may be none yet.
        most: How many bytes it may have.
        older: () → where it goes. Whatever is there is lost.
    """
    if path.exists() and path.stat().st_size > most:
        path.replace(older())


def write_json(path: Path, value: dict[str, Any], *, lines: bool = True) -> None:
    """Write strict JSON atomically.

    Args:
        path: The file. Its folder is made where there is none.
        value: What to write. `finite` takes out numbers that JSON cannot write.
        lines: Whether people read it: each value then has a line of its own. Without, writing is many times faster.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
        ValueError: A number is not finite.
    """
    write_text(path, json.dumps(value, indent=1 if lines else None, allow_nan=False))


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8.

    Args:
        path: The file. Its folder is made where there is none.
        text: What to write.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
    """
    write_bytes(path, text.encode())


def write_bytes(path: Path, payload: bytes, *, sync: bool = True) -> None:
    """Write a file atomically. Readers see the old file or the whole new one, also after a crash.

    Args:
        path: The file. Its folder is made where there is none.
        payload: What to write.
        sync: Whether to wait until the disk has it. Without, a power cut may leave a damaged file, so only what its
            reader checks and can do without is written so.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, payload, sync)


def write_in_place(path: Path, payload: bytes) -> None:
    """Write a file that its reader checks and can do without: a crash may leave a part of it.

    It makes no second file to put in place of the first, as `write_bytes` does.

    Args:
        path: The file. Its folder is made where there is none.
        payload: What to write.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(payload)


def _replace(path: Path, payload: bytes, sync: bool) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(payload)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)  # mkstemp's own mode would hide the file from a group that may read the folder
        os.replace(name, path)
        if sync:
            sync_folder(path.parent)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def sync_folder(path: Path) -> None:
    """Wait until the disk has the names in a folder: a file that is safe from a power cut is found by its name.

    Args:
        path: The folder.
    """
    if os.name != "posix":
        return  # a folder cannot be opened there
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network drives cannot be asked
            raise
    finally:
        os.close(handle)


def read_json(path: Path, kind: str, keys: set[str], fix: str) -> dict[str, Any]:
    """Read a JSON object of one kind.

    Args:
        path: The file.
        kind: What it should be, for the message: "the summary of a run".
        keys: Keys that every object of the kind has.
        fix: What to do where it is none.

    Returns:
        The object.

    Raises:
        UserError: The file cannot be read, is no JSON object, or lacks one of the keys.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        plain.check(value)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot be read ({plain.why(error)})", where=str(path), fix=fix) from error
    if not isinstance(value, dict) or not keys <= value.keys():
        raise UserError(f"this is not {kind}", where=str(path), fix=fix)
    return value
