"""Checkpoints: tensors in safetensors, the rest in JSON, written so that a crash leaves the old one whole.

The tensors go to a file of their own round first; the JSON that names it, with its hash, is the commit. No pickle.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError

from fedgmi.errors import CheckpointError
from fedgmi.folder import write_bytes, write_text
from fedgmi.tree import Tree

FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """server, clients: the state trees · meta: JSON values (round, bytes, seconds, threads, records so far, …)."""

    server: Tree
    clients: Tree
    meta: dict[str, Any]


def save(folder: Path, name: str, checkpoint: Checkpoint) -> None:
    """Write `name` in the folder; the previous checkpoint of that name stands until the new one is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"server/{key}": leaf.cpu().contiguous() for key, leaf in checkpoint.server.items()}
    tensors |= {f"clients/{key}": leaf.cpu().contiguous() for key, leaf in checkpoint.clients.items()}
    payload = safetensors.torch.save(tensors)
    file = folder / f"{name}.{checkpoint.meta['round']}.safetensors"
    write_bytes(file, payload)
    meta = checkpoint.meta | {
        "format": FORMAT,
        "tensors": file.name,
        "sha256": hashlib.sha256(payload).hexdigest(),
    }
    write_text(folder / f"{name}.json", json.dumps(meta, indent=1))
    for stale in folder.glob(f"{name}.*.safetensors"):
        if stale != file:
            stale.unlink()


def load(folder: Path, name: str, *, digest: str) -> Checkpoint | None:
    """The checkpoint `name`, or None where there is none.

    Raises CheckpointError where it is truncated, not ours, or of another configuration (digest).
    """
    path = folder / f"{name}.json"
    if not path.exists():
        return None
    meta = _read_meta(path)
    if meta["digest"] != digest:
        raise CheckpointError(
            "the checkpoint belongs to another configuration",
            where=str(path),
            fix="resume with the config.toml beside it, or give another folder with --out",
        )
    file = folder / str(meta["tensors"])
    again = f"remove {folder} to start afresh, or restore the file"
    try:
        payload = file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror})", where=str(file), fix=again) from error
    if hashlib.sha256(payload).hexdigest() != meta["sha256"]:
        raise CheckpointError("the file is truncated or was changed: its hash differs", where=str(file), fix=again)
    try:
        tensors = safetensors.torch.load(payload)
    except SafetensorError as error:
        raise CheckpointError(f"not a safetensors file ({error})", where=str(file), fix=again) from error
    return Checkpoint(_part(tensors, "server/"), _part(tensors, "clients/"), meta)


def _part(tensors: Tree, prefix: str) -> Tree:
    return {key.removeprefix(prefix): leaf for key, leaf in tensors.items() if key.startswith(prefix)}


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        known = isinstance(meta, dict) and {"format", "digest", "tensors", "sha256", "round"} <= meta.keys()
    except (OSError, ValueError):
        known = False
    if not known or meta["format"] != FORMAT:
        raise CheckpointError(
            "this is no checkpoint of this version of fedgmi, or it is truncated",
            where=str(path),
            fix=f"remove {path.parent} to start afresh, or restore the file",
        )
    return dict(meta)
