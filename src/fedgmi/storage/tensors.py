"""Tensors in safetensors, beside JSON that names them. A crash leaves the old state whole.

The tensors go to a file of their own first. The JSON that names it, with its hash, is the commit. No pickle, ever.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from fedgmi.errors import CheckpointError
from fedgmi.storage.files import write_bytes, write_json
from fedgmi.tree import Tree

Meta = dict[str, Any]


def save(path: Path, tensors: Tree, meta: Meta, *, file: str) -> None:
    """Write tensors, then the JSON that names them.

    Args:
        path: The JSON.
        tensors: By name, of any shape, dtype and device.
        meta: JSON values to keep beside them. The keys `tensors`, `sha256` (of their bytes) and `check` (of all the
            other values) are added.
        file: The name of the tensors' file, in the folder of `path`.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
    """
    payload = safetensors.torch.save({key: _own(leaf) for key, leaf in tensors.items()})
    write_bytes(path.parent / file, payload)
    whole = meta | {"tensors": file, "sha256": hashlib.sha256(payload).hexdigest()}
    write_json(path, whole | {"check": _check(whole)})


def read_meta(path: Path, check: Callable[[Meta], None], *, kind: str, fix: str) -> Meta:
    """Read the JSON that `save` wrote.

    Args:
        path: The JSON.
        check: (meta) → nothing. It raises where the content is not as it should be.
        kind: What it should be, for the message: "checkpoint".
        fix: What to do where it is none.

    Returns:
        The JSON's values.

    Raises:
        CheckpointError: It cannot be read, is no JSON object, lacks the keys that `save` adds, or was changed since.
    """
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError("this is not JSON, or it is truncated", where=str(path), fix=fix) from error
    if not isinstance(meta, dict) or not {"tensors", "sha256"} <= meta.keys():
        raise CheckpointError(f"this is no {kind} of fedgmi", where=str(path), fix=fix)
    check(meta)
    if meta.pop("check", None) != _check(meta):
        raise CheckpointError("the file is damaged or was changed: its check differs", where=str(path), fix=fix)
    return meta


def read_tensors(path: Path, meta: Meta, *, fix: str) -> Tree:
    """Read the tensors that a JSON names.

    Args:
        path: The JSON.
        meta: What `read_meta` found there.
        fix: What to do where they are damaged.

    Returns:
        The tensors, in memory of the CPU.

    Raises:
        CheckpointError: The file is missing, not safetensors, or its hash is not the one in `meta`.
    """
    file = path.parent / Path(str(meta["tensors"])).name  # never outside the folder, whatever the JSON says
    try:
        payload = file.read_bytes()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "no file has such a name"
        raise CheckpointError(f"cannot be read ({why})", where=ascii(str(file))[1:-1], fix=fix) from error
    if hashlib.sha256(payload).hexdigest() != meta["sha256"]:
        raise CheckpointError("the file is truncated or was changed: its hash differs", where=str(file), fix=fix)
    try:
        return safetensors.torch.load(payload)
    except SafetensorError as error:
        raise CheckpointError(f"not a safetensors file ({error})", where=str(file), fix=fix) from error


def part(tensors: Tree, prefix: str) -> Tree:
    """Take the leaves whose names start with a prefix, and cut it off.

    Examples:
        >>> part({"server/w": torch.ones(1), "clients/w": torch.zeros(1)}, "server/")
        {'w': tensor([1.])}
    """
    return {key.removeprefix(prefix): leaf for key, leaf in tensors.items() if key.startswith(prefix)}


def _check(meta: Meta) -> str:
    """A hash of JSON values, as they are read again."""
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def _own(leaf: Tensor) -> Tensor:
    """In memory of its own: safetensors refuses leaves that share theirs."""
    return leaf.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
