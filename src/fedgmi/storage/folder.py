"""A results folder: the names of its files, who may write there, and what lies in it."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fedgmi import plain
from fedgmi.errors import FedgmiWarning, UserError
from fedgmi.storage.files import write_text, writing

CONFIG = "config.toml"
CHECKPOINTS = "checkpoints"
RECORDS = "records.jsonl"
SUMMARY = "summary.json"
PICTURE = "proportions.html"
ESTIMATE = "n_components.json"
COMPARISON = "comparison.json"
CELLS = "cells"
DIAGNOSIS = "diagnosis.json"
DIAGNOSIS_PICTURE = "diagnosis.html"
OF_DEPLOYMENT = "diagnosis"  # the folder of the diagnosis that a deployment makes beside its run
LOCK = ".lock"


def append_record(out: Path, record: dict[str, Any]) -> None:
    """Add one line to `records.jsonl`.

    Args:
        out: The results folder.
        record: One round's record.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
    """
    with writing(out / RECORDS), (out / RECORDS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, allow_nan=False) + "\n")


def read_records(out: Path) -> list[dict[str, Any]]:
    """Read `records.jsonl`.

    Args:
        out: The results folder.

    Returns:
        One record a line, in the order in which they were written. A last line that a crash cut short is left out, and
        so is whatever has no run's name and no whole number of a round. Empty where there is no such file.
    """
    path, records = out / RECORDS, []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
            plain.check(record)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and isinstance(record.get("run"), str) and type(record.get("round")) is int:
            records.append(record)
    return records


def keep_records(out: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Drop lines of `records.jsonl`. A resumed run drops those after the checkpoint that it goes on from.

    Args:
        out: The results folder.
        keep: (record) → whether its line stays.
    """
    kept = [json.dumps(record) + "\n" for record in read_records(out) if keep(record)]
    write_text(out / RECORDS, "".join(kept))


def warn_of_lost_records(out: Path) -> None:
    """Say so where `records.jsonl` lacks rounds that the checkpoints know of: it was cut short, or removed.

    Args:
        out: The results folder of a run.
    """
    there = {(record["run"], record["round"]) for record in read_records(out)}
    lost = {}
    for path in sorted((out / CHECKPOINTS).glob("*.json")):
        try:
            meta = json.loads(path.read_text(encoding="utf-8"))
            done, last = len(meta["validation"]), int(meta["round"])  # an entry for each round that was recorded
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            ArithmeticError,
            RecursionError,
        ):  # whoever goes on from it says what is wrong with it
            continue
        lost[path.stem] = done - sum(run == path.stem and round <= last for run, round in there)
    lost = {run: n for run, n in lost.items() if n > 0}
    if lost:
        n, by_run = sum(lost.values()), ", ".join(f"{run} {n}" for run, n in lost.items())
        what = f"{out / RECORDS}: it lacks {n} round{'s' * (n != 1)} ({by_run}) that were recorded, so it was cut short"
        warnings.warn(FedgmiWarning(f"{what}. Results do not depend on it"), stacklevel=2)


def holds_run(out: Path) -> bool:
    """Whether the folder holds a run, finished or not."""
    # exists() of os, which says False where we may not look
    other = holds_diagnosis(out) or holds_comparison(out)
    return not other and any(os.path.exists(out / name) for name in (CONFIG, RECORDS, SUMMARY))


def holds_diagnosis(out: Path) -> bool:
    """Whether the folder holds a diagnosis."""
    return os.path.exists(out / DIAGNOSIS)


def holds_comparison(out: Path) -> bool:
    """Whether the folder holds a comparison, finished or not."""
    return any(os.path.exists(out / name) for name in (COMPARISON, CELLS))


def refuse_others(out: Path, *, comparison: bool = False) -> None:
    """Refuse a folder that holds something else than a run.

    Args:
        out: The folder; there may be none yet.
        comparison: Whether it may hold a comparison.

    Raises:
        UserError: It holds a diagnosis or a comparison.
    """
    if holds_comparison(out) and not comparison:
        fix = "give another folder with --out, or go on with the comparison by the same fedgmi compare"
        raise UserError("the folder already holds a comparison, which stays untouched", where=str(out), fix=fix)
    if holds_diagnosis(out):
        fix = "give another folder with --out, or remove this one"
        raise UserError("the folder already holds a diagnosis, which stays untouched", where=str(out), fix=fix)


def claim(out: Path, *, resume: bool, comparison: bool = False) -> None:
    """Make a results folder, and refuse one that cannot be used.

    Args:
        out: The folder. It may exist already.
        resume: Whether it may hold a run, to go on with.
        comparison: Whether it is for a comparison, which may go on with one.

    Raises:
        UserError: The folder is not writable, holds a diagnosis or a comparison, or holds a run although `resume` is
            False. Nothing in it is changed.
    """
    refuse_others(out, comparison=comparison)
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
def claimed(out: Path, *, resume: bool) -> Iterator[None]:
    """Claim a folder for as long as the block runs. Where it fails before anything was written, the folder goes again.

    Args:
        out: The folder.
        resume: See `claim`.

    Raises:
        UserError: See `claim`.
    """
    there = os.path.exists(out)
    claim(out, resume=resume)
    try:
        yield
    except UserError:
        if not there and not any(out.iterdir()):
            out.rmdir()
        raise


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Keep every other fedgmi out of a folder while the block runs.

    The lock is the file `.lock` in the folder. It is gone after the block. After a crash it may stay, which does no
    harm: the operating system releases a lock when its process ends.

    Args:
        out: The folder, which exists.

    Raises:
        UserError: Another process works there, or the folder cannot be written.
    """
    from filelock import FileLock, Timeout  # not above: `fedgmi --help` does without it

    lock = FileLock(out / LOCK)
    with writing(out):
        try:
            lock.acquire(blocking=False)
        except Timeout as error:
            fix = "wait for it to end or stop it, or give another folder with --out"
            raise UserError("another fedgmi is at work there", where=str(out), fix=fix) from error
    try:
        yield
    finally:
        if os.name == "posix":  # elsewhere filelock removes the file
            with suppress(OSError):
                (out / LOCK).unlink()  # while the lock is held: filelock never takes one on a file that was removed
        lock.release()
