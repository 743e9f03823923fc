"""Decoded pictures, kept on the disk by what the pictures and the settings are, so that each is decoded once."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import PIL
import torch
from PIL import features
from torch import Tensor

from fedgmi.errors import CheckpointError, FedgmiWarning, UserError
from fedgmi.storage import tensors as store

VARIABLE, FORBIDDEN = "FEDGMI_CACHE", "none"
FORMAT = 1
"""To be raised when `decode_images` makes other values of the same pictures, or files are laid out in another way."""

Batches = Iterable[list[dict[str, Any] | None]]


def cache_folder() -> Path | None:
    """The folder of decoded pictures, which is made when there is something to keep.

    Returns:
        The folder that the variable FEDGMI_CACHE of the environment names; `fedgmi` in the user's folder of caches
            (XDG_CACHE_HOME, or ~/.cache) where it is unset or empty. None where it is "none", or the user has no home.
    """
    named = os.environ.get(VARIABLE)
    if named == FORBIDDEN:
        return None
    try:
        return Path(named or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "fedgmi")).expanduser()
    except RuntimeError:  # a user without a home, as in containers
        return None


def decode_once(
    folder: Path, batches: Callable[[], Batches], decode: Callable[[Batches], Tensor], **settings: Any
) -> Tensor:
    """Take decoded pictures from the cache, or decode and keep them.

    A changed, damaged or shortened file of the cache is made anew. Pictures of which the decoder warned are not kept,
    so that it warns every time. A cache that cannot be written is warned of, and no more.

    Args:
        folder: The cache's.
        batches: () → the encoded pictures, as `decode_images` takes them.
        decode: (batches) → the pictures, with values in [0, 1]. [n, channels, height, width]
        settings: All that `decode` depends on beside the pictures.

    Returns:
        What `decode` returns, to the last bit.
    """
    key = _key(batches(), settings)
    path = folder / f"{key}.json"
    kept = _read(path)
    if kept is not None:
        return kept
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        x = decode(batches())
    seen: dict[Any, Any] = {}
    for warning in told:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno, registry=seen)
    if not told and key == _key(batches(), settings):  # no file was changed meanwhile
        _keep(path, x)
    return x


def _key(batches: Batches, settings: dict[str, Any]) -> str:
    """A hash of the pictures' files, the settings, and the versions of what decodes and resizes."""
    jpeg = features.version("jpg")  # of the library below Pillow: others round the same file to other pixels
    versions = (FORMAT, PIL.__version__, jpeg, torch.__version__)
    found = hashlib.sha256(repr((*versions, sorted(settings.items()))).encode())
    for batch in batches:
        for cell in batch:
            content = file_of(cell)
            found.update(len(content).to_bytes(8, "little") + content)
    return found.hexdigest()


def file_of(cell: dict[str, Any] | None) -> bytes:
    """A picture's file, still encoded; nothing where there is none, for which `decode` has the error.

    Args:
        cell: Of a column of pictures.
    """
    if cell is None or (cell["bytes"] is None and cell["path"] is None):
        return b""
    try:
        return bytes(cell["bytes"]) if cell["bytes"] is not None else Path(cell["path"]).read_bytes()
    except OSError:
        return b""


def _read(path: Path) -> Tensor | None:
    """The pictures in a file of the cache; None where it is not there or not whole."""
    try:
        meta = store.read_meta(path, lambda _: None, kind="cache of pictures", fix="remove it")
        x = store.read_tensors(path, meta, fix="remove it")["x"]
    except (CheckpointError, KeyError):
        return None
    return x if x.is_floating_point() else x.float().div_(255)


def _keep(path: Path, x: Tensor) -> None:
    whole = (x * 255).round_().to(torch.uint8)
    exact = torch.equal(whole.float().div_(255), x)  # as they are unless they were resized: a quarter of the space
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # others may not be allowed to see these pictures
        store.save(path, {"x": whole if exact else x}, {}, file=path.with_suffix(".safetensors").name)
    except (OSError, UserError) as error:
        reason = error.what if isinstance(error, UserError) else error.strerror
        told = f"decoded pictures cannot be kept in {path.parent} ({reason}), and are decoded anew each time. "
        told += f"Set the environment's {VARIABLE} to a folder with room, or to {FORBIDDEN!r}"
        warnings.warn(FedgmiWarning(told), stacklevel=2)
