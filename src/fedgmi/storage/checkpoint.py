"""Checkpoints of a run: server, clients and what a run needs to go on. See `store` for how they are written."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedgmi.errors import CheckpointError
from fedgmi.storage import tensors as store
from fedgmi.tree import Tree

FORMAT = 2
KEYS = frozenset(
    ("format", "digest", "tensors", "sha256", "round", "threads", "validation", "bytes_down", "bytes_up", "seconds")
)


@dataclass(frozen=True)
class Checkpoint:
    """Where a run stands.

    Attributes:
        server: The server's state.
        clients: The clients' states. [N, …]
        meta: JSON values: round, bytes, seconds, threads, records so far, ….
        ledger: What has travelled, as `Ledger.to_tree` lays it out.
    """

    server: Tree
    clients: Tree
    meta: dict[str, Any]
    ledger: Tree = field(default_factory=dict)


def save(folder: Path, name: str, checkpoint: Checkpoint) -> None:
    """Write `name` in the folder; the previous checkpoint of that name stands until the new one is complete."""
    tensors = {f"server/{key}": leaf for key, leaf in checkpoint.server.items()}
    tensors |= {f"clients/{key}": leaf for key, leaf in checkpoint.clients.items()}
    tensors |= {f"ledger/{key}": leaf for key, leaf in checkpoint.ledger.items()}
    file = folder / f"{name}.{checkpoint.meta['round']}.safetensors"
    store.save(folder / f"{name}.json", tensors, checkpoint.meta | {"format": FORMAT}, file=file.name)
    ours = re.compile(re.escape(name) + r"\.\d+\.safetensors")  # not a glob: lr1.* would match lr1.5.3.safetensors
    for stale in folder.iterdir():
        if ours.fullmatch(stale.name) and stale != file:
            stale.unlink(missing_ok=True)


def load(folder: Path, name: str, *, digest: str) -> Checkpoint | None:
    """The checkpoint `name`, or None where there is none.

    Raises CheckpointError where it is truncated, not ours, or of another configuration (digest).
    """
    path = folder / f"{name}.json"
    if not path.exists():
        return None
    meta = _read_meta(path, digest)
    again = _again(path)
    if meta["tensors"] != f"{name}.{meta['round']}.safetensors":
        raise CheckpointError("it names tensors that are not its own", where=str(path), fix=again)
    tensors = store.read_tensors(path, meta, fix=again)
    parts = {prefix: store.part(tensors, f"{prefix}/") for prefix in ("server", "clients", "ledger")}
    return Checkpoint(meta=meta, **parts)


def check_all(folder: Path, *, digest: str) -> None:
    """Raise CheckpointError if any checkpoint there cannot belong to this configuration; nothing large is read."""
    for path in sorted(folder.glob("*.json")):
        _read_meta(path, digest)


def _read_meta(path: Path, digest: str) -> dict[str, Any]:
    def check(meta: dict[str, Any]) -> None:
        if meta.get("format", FORMAT) != FORMAT:
            raise CheckpointError(
                f"another fedgmi wrote this checkpoint (format {meta['format']}, and this one reads format {FORMAT})",
                where=str(path),
                fix="resume with the fedgmi that wrote it, or give another folder with --out",
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
    return f"restore the file, or remove {path.parent} and resume: the run then starts afresh"
