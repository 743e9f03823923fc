"""Checkpoints: tensors in safetensors, the rest in JSON, written so that a crash leaves the old one whole.

The tensors go to a file of their own round first; the JSON that names it, with its hash, is the commit. No pickle.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from fedgmi.errors import CheckpointError
from fedgmi.folder import write_bytes, write_json
from fedgmi.tree import Tree

FORMAT = 1
KEYS = frozenset(
    ("format", "digest", "tensors", "sha256", "round", "threads", "validation", "bytes_down", "bytes_up", "seconds")
)


@dataclass(frozen=True)
class Checkpoint:
    """server, clients: the state trees · meta: JSON values (round, bytes, seconds, threads, records so far, …)."""

    server: Tree
    clients: Tree
    meta: dict[str, Any]


def save(folder: Path, name: str, checkpoint: Checkpoint) -> None:
    """Write `name` in the folder; the previous checkpoint of that name stands until the new one is complete."""
    tensors = {f"server/{key}": _own(leaf) for key, leaf in checkpoint.server.items()}
    tensors |= {f"clients/{key}": _own(leaf) for key, leaf in checkpoint.clients.items()}
    payload = safetensors.torch.save(tensors)
    file = folder / f"{name}.{checkpoint.meta['round']}.safetensors"
    write_bytes(file, payload)
    meta = checkpoint.meta | {
        "format": FORMAT,
        "tensors": file.name,
        "sha256": hashlib.sha256(payload).hexdigest(),
    }
    write_json(folder / f"{name}.json", meta)
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
    file = folder / meta["tensors"]
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


def _own(leaf: Tensor) -> Tensor:
    """In memory of its own: safetensors refuses leaves that share theirs."""
    return leaf.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _part(tensors: Tree, prefix: str) -> Tree:
    return {key.removeprefix(prefix): leaf for key, leaf in tensors.items() if key.startswith(prefix)}


def check_all(folder: Path, *, digest: str) -> None:
    """Raise CheckpointError if any checkpoint there cannot belong to this configuration; nothing large is read."""
    for path in sorted(folder.glob("*.json")):
        _read_meta(path, digest)


def _read_meta(path: Path, digest: str) -> dict[str, Any]:
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError("this is not JSON, or it is truncated", where=str(path), fix=_again(path)) from error
    if isinstance(meta, dict) and meta.get("format", FORMAT) != FORMAT:
        raise CheckpointError(
            f"a checkpoint of format {meta['format']}, where this fedgmi reads format {FORMAT}",
            where=str(path),
            fix="resume with the fedgmi that wrote it, or give another folder with --out",
        )
    if not isinstance(meta, dict) or not meta.keys() >= KEYS:
        raise CheckpointError("this is no checkpoint of fedgmi", where=str(path), fix=_again(path))
    if meta["digest"] != digest:
        raise CheckpointError(
            "the checkpoint belongs to another configuration",
            where=str(path),
            fix="resume with the settings it was made with, or give another folder with --out",
        )
    return meta


def _again(path: Path) -> str:
    return f"restore the file, or remove {path.parent} and resume: the run then starts afresh"
