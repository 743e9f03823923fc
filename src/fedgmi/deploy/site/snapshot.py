"""A run's own copy of a site's rows: what a run began with it ends with, whatever becomes of the file meanwhile.

It lies in the run's folder at the site, as safetensors, pinned by the rows' digest, and goes with that folder: those of
the last two runs stay. Nothing of it is sent.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from fedgmi.data.rows import Client
from fedgmi.errors import CheckpointError
from fedgmi.storage import files
from fedgmi.storage import tensors as store
from fedgmi.storage.own_files import Hex64, OwnFile
from fedgmi.tree import Tree

ROWS, TENSORS = "rows.json", "rows.safetensors"
CHANGED = "rows.changed"  # the digest that was told last
AGAIN = "remove the run's folder; the site then joins the run anew, with the rows that it has now"
PARTS = ("train", "held_out", "validation")


class Snapshot(NamedTuple):
    """A site's rows at the beginning of a run.

    Attributes:
        train: The rows to train on.
        held_out: The rows to test its predictor on; None where there are none.
        validation: The rows by which things are chosen; None where there are none.
        digest: Of all of them, hex.
        content: Of the rows of the file, whichever part each is in, hex; "": unknown.
    """

    train: Client
    held_out: Client | None
    validation: Client | None
    digest: str
    content: str = ""


class _Rows(OwnFile):
    """The JSON beside them."""

    what = "a snapshot of rows"
    name: str
    digest: str
    content: str = ""
    tensors: str
    sha256: Hex64


def keep(run: Path, rows: Snapshot) -> None:
    """Write them, readable for their owner alone.

    Args:
        run: The run's folder.
        rows: What it begins with.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
    """
    tensors: Tree = {}
    for name in PARTS:
        part: Client | None = getattr(rows, name)
        leaves = {} if part is None else {"x": part.x, "y": part.y}
        tensors |= {f"{name}/{key}": leaf for key, leaf in leaves.items() if leaf is not None}
    with _for_its_owner():
        about = {"name": rows.train.name, "digest": rows.digest, "content": rows.content}
        store.save(run / ROWS, tensors, about, file=TENSORS)


def digest_of(run: Path) -> str | None:
    """The digest of the rows that a run began with; None where it has not begun here.

    Args:
        run: The run's folder.

    Raises:
        CheckpointError: Where the file is damaged.
    """
    return _about(run)[0].digest if (run / ROWS).exists() else None


def load(run: Path) -> Snapshot:
    """What `keep` wrote.

    Args:
        run: The run's folder.

    Raises:
        CheckpointError: Where a file is damaged.
    """
    about, meta = _about(run)
    tensors = store.read_tensors(run / ROWS, meta, fix=AGAIN)
    parts = {name: store.part(tensors, f"{name}/") for name in PARTS}
    if not parts["train"] or not all("x" in part for part in parts.values() if part):
        raise CheckpointError("there are no rows in it", where=str(run / ROWS), fix=AGAIN)
    found = {name: Client(about.name, part["x"], part.get("y")) for name, part in parts.items() if part}
    return Snapshot(found["train"], found.get("held_out"), found.get("validation"), about.digest, about.content)


def _about(run: Path) -> tuple[_Rows, store.Meta]:
    """What the JSON says: of the rows, and all of it."""
    path = run / ROWS
    meta = store.read_meta(path, lambda meta: None, kind="snapshot", fix=AGAIN)
    return _Rows.parse(json.dumps(meta), partial(CheckpointError, where=str(path), fix=AGAIN)), meta


def of_run(site: Path, run: object) -> Snapshot | None:
    """The snapshot of a run by its name; None where there is none.

    Args:
        site: The site's folder.
        run: The run's name, as a request has it.
    """
    if not isinstance(run, str) or not re.fullmatch(r"[0-9a-f]{8,64}", run):
        return None
    return load(site / "runs" / run) if (site / "runs" / run / ROWS).exists() else None


def first_told(run: Path, digest: str) -> bool:
    """Whether it is the first time that these rows are found in place of the run's, so that one line tells of it.

    Args:
        run: The run's folder.
        digest: Of the rows that are there now, or what is wrong with them.
    """
    path = run / CHANGED
    if path.exists() and path.read_text(encoding="utf-8") == digest:
        return False
    files.write_text(path, digest)
    return True


@contextmanager
def _for_its_owner() -> Iterator[None]:
    before = os.umask(0o077)  # at no moment is it for others to read
    try:
        yield
    finally:
        os.umask(before)
