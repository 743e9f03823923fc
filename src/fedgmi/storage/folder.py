"""A results folder: the names of its files, who may write there, and writing that never leaves half a file."""

from __future__ import annotations

import fcntl
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedgmi.errors import UserError

CONFIG = "config.toml"
RECORDS = "records.jsonl"
SUMMARY = "summary.json"
PICTURE = "proportions.html"
ESTIMATE = "n_components.json"
COMPARISON = "comparison.json"
DIAGNOSIS = "diagnosis.json"
DIAGNOSIS_PICTURE = "diagnosis.html"


def finite(value: Any) -> Any:
    """A JSON value with null in place of every number that JSON cannot say.

    >>> finite({"accuracy": [0.5, float("nan")]})
    {'accuracy': [0.5, None]}
    """
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write strict JSON atomically."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False))


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    write_bytes(path, text.encode())


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A disk that is full or gone is told as such; what was written before stands."""
    try:
        yield
    except OSError as error:
        again = "a run goes on with --resume, a deployment with flwr run"
        fix = f"make room or give the folder back its rights, and start again: {again}"
        raise UserError(f"cannot be written ({error.strerror or error})", where=str(path), fix=fix) from error


def write_bytes(path: Path, payload: bytes) -> None:
    """Write atomically: readers see the old file or the whole new one, whatever happens in between."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, payload)


def _replace(path: Path, payload: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)  # mkstemp's own mode would hide the file from a group that may read the folder
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def append_record(out: Path, record: dict[str, Any]) -> None:
    """Add one line to `records.jsonl`."""
    with writing(out / RECORDS), (out / RECORDS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, allow_nan=False) + "\n")


def read_records(out: Path) -> list[dict[str, Any]]:
    """All lines of `records.jsonl`; a last line that a crash cut short is left out."""
    path, records = out / RECORDS, []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and {"run", "round"} <= record.keys():
            records.append(record)
    return records


def keep_records(out: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Drop the lines that are not to be kept: those after the checkpoint that a run goes on from."""
    kept = [json.dumps(record) + "\n" for record in read_records(out) if keep(record)]
    write_text(out / RECORDS, "".join(kept))


def holds_run(out: Path) -> bool:
    """Whether a finished or unfinished run lies there."""
    # exists() of os, which says False where we may not look
    return not holds_diagnosis(out) and any(os.path.exists(out / name) for name in (CONFIG, RECORDS, SUMMARY))


def holds_diagnosis(out: Path) -> bool:
    """Whether a diagnosis lies there."""
    return os.path.exists(out / DIAGNOSIS)


def holds_comparison(out: Path) -> bool:
    """Whether a comparison that has come to its end lies there."""
    return os.path.exists(out / COMPARISON)


def claim(out: Path, *, resume: bool) -> None:
    """Make the folder, and refuse one that is not writable, or holds results other than a run that is to be resumed."""
    if holds_diagnosis(out):
        fix = "give another folder with --out, or remove this one"
        raise UserError("the folder already holds a diagnosis, which stays untouched", where=str(out), fix=fix)
    if holds_run(out) and not resume:
        state = "a finished" if (out / SUMMARY).exists() else "an unfinished"
        fix = "give another folder with --out, or go on with the run there by: fedgmi run --resume"
        raise UserError(f"the folder already holds {state} run, which stays untouched", where=str(out), fix=fix)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        fix = "give a folder that you may write to with --out"
        reason = "it is a file, not a folder" if isinstance(error, FileExistsError) else error.strerror
        raise UserError(f"results cannot be written there ({reason})", where=str(out), fix=fix) from error


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Nobody else may work in the folder meanwhile; raises UserError where somebody does. It leaves nothing there."""
    place = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        fix = "wait for it to end or stop it, or give another folder with --out"
        raise UserError("another fedgmi is at work there", where=str(out), fix=fix) from error
    else:
        yield
    finally:
        os.close(place)


def read_summary(out: Path) -> dict[str, Any]:
    """The summary of a finished run."""
    path = out / SUMMARY
    if not os.path.exists(path):
        if holds_run(out):
            fix = f"finish it with: fedgmi run --resume --out {out}"
            raise UserError("the run there is not finished", where=str(out), fix=fix)
        fix = "give the folder of `fedgmi run`, `diagnose` or `compare --out`"
        raise UserError("no run lies there", where=str(out), fix=fix)
    again = f"write it anew with: fedgmi run --resume --out {out}"
    return read_json(path, "the summary of a run", {"method", "clients", "rows_per_client"}, again)


def read_diagnosis(out: Path) -> dict[str, Any]:
    """The diagnosis that lies there."""
    keys = {"n_components", "singular_values", "mixture_supported", "clients", "proportion_intervals", "interval_level"}
    again = "diagnose anew, into another folder: fedgmi diagnose --out DIR"
    return read_json(out / DIAGNOSIS, "a diagnosis of fedgmi", keys, again)


def read_comparison(out: Path) -> dict[str, Any]:
    """The comparison that lies there."""
    keys = {"scenario", "methods", "seeds", "cells", "summary", "paired", "best"}
    again = "write it anew with the command that made it: finished cells are read, not repeated"
    return read_json(out / COMPARISON, "a comparison of fedgmi", keys, again)


def read_json(path: Path, kind: str, keys: set[str], fix: str) -> dict[str, Any]:
    """A JSON object of that kind, known by its keys; a UserError with that fix where it is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read ({error})", where=str(path), fix=fix) from error
    if not isinstance(value, dict) or not keys <= value.keys():
        raise UserError(f"this is not {kind}", where=str(path), fix=fix)
    return value
