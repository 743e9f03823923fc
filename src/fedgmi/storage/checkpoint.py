"""Checkpoints of a run: server, clients and what a run needs to go on. `storage.tensors` says how they are written."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedgmi import __version__
from fedgmi.errors import CheckpointError
from fedgmi.storage import tensors as store
from fedgmi.tree import Tree

FORMAT = 3
"""Grows when an older fedgmi cannot read what this one writes. In 1 leaves had other names, and there was no ledger. In
2 there was no name and no check."""
KEYS = frozenset(("format", "name", "digest", "round", "threads", "validation", "bytes_down", "bytes_up", "seconds"))


@dataclass(frozen=True)
class Checkpoint:
    """Where a run stands.

    Attributes:
        server: The server's state.
        clients: The clients' states, one row a client: [C, …].
        meta: JSON values: round, bytes, seconds, threads and so on.
        ledger: What has travelled, as `Ledger.to_tree` lays it out: int64. Empty where nothing is counted.
    """

    server: Tree
    clients: Tree
    meta: dict[str, Any]
    ledger: Tree = field(default_factory=dict)


def save(folder: Path, name: str, checkpoint: Checkpoint) -> None:
    """Write a checkpoint. The one before of that name stands until the new one is complete, then it is removed.

    Args:
        folder: Where checkpoints are. It is made where there is none.
        name: The run's.
        checkpoint: What to write. Its `meta` has a `round` and the `digest` of the settings.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
    """
    tensors = {f"server/{key}": leaf for key, leaf in checkpoint.server.items()}
    tensors |= {f"clients/{key}": leaf for key, leaf in checkpoint.clients.items()}
    tensors |= {f"ledger/{key}": leaf for key, leaf in checkpoint.ledger.items()}
    file = folder / f"{name}.{checkpoint.meta['round']}.safetensors"
    meta = checkpoint.meta | {"format": FORMAT, "version": __version__, "name": name}
    store.save(folder / f"{name}.json", tensors, meta, file=file.name)
    ours = re.compile(re.escape(name) + r"\.\d+\.safetensors")  # not a glob: lr1.* would match lr1.5.3.safetensors
    for stale in folder.iterdir():
        if ours.fullmatch(stale.name) and stale != file:
            stale.unlink(missing_ok=True)


def load(folder: Path, name: str, *, digest: str) -> Checkpoint | None:
    """Read a checkpoint.

    Args:
        folder: Where checkpoints are.
        name: The run's.
        digest: Of the settings that the run goes on with.

    Returns:
        The checkpoint; None where there is none of that name.

    Raises:
        CheckpointError: It is truncated, of another format or of other settings, or no checkpoint of fedgmi.
    """
    path = folder / f"{name}.json"
    if not path.exists():
        return None
    meta = _read_meta(path, digest)
    again = _again(path)
    if meta["name"] != name:
        raise CheckpointError(f"it is of the run {meta['name']!r}, not of {name!r}", where=str(path), fix=again)
    if meta["tensors"] != f"{name}.{meta['round']}.safetensors":
        raise CheckpointError("it names tensors that are not its own", where=str(path), fix=again)
    tensors = store.read_tensors(path, meta, fix=again)
    parts = {prefix: store.part(tensors, f"{prefix}/") for prefix in ("server", "clients", "ledger")}
    return Checkpoint(meta=meta, **parts)


def check_all(folder: Path, *, digest: str) -> None:
    """Refuse a folder with a checkpoint that cannot be gone on with. Nothing large is read.

    Args:
        folder: Where checkpoints are.
        digest: Of the settings that the run goes on with.

    Raises:
        CheckpointError: As `load` does, for the first one that is wrong. Tensors are not looked at.
    """
    for path in sorted(folder.glob("*.json")):
        _read_meta(path, digest)


def _read_meta(path: Path, digest: str) -> dict[str, Any]:
    def check(meta: dict[str, Any]) -> None:
        found = meta.get("format", FORMAT)
        if found != FORMAT:
            known = f". It was version {meta['version']}" if "version" in meta else ""
            raise CheckpointError(
                f"another fedgmi wrote this checkpoint (format {found}, and this one reads format {FORMAT}){known}",
                where=str(path),
                fix="resume with the fedgmi that wrote it, or start the run again in another folder, with --out",
            )
        if not meta.keys() >= KEYS:
            raise CheckpointError("this is no checkpoint of fedgmi", where=str(path), fix=_again(path))
        if meta["digest"] != digest:
            raise CheckpointError(
                "the checkpoint belongs to another configuration",
                where=str(path),
                fix="resume with the settings it was made with, or give another folder with --out",
            )

    return store.read_meta(path, check, kind="checkpoint", fix=_again(path))


def _again(path: Path) -> str:
    return f"restore the file, or remove {path.parent} and resume: the run then starts from the beginning"
