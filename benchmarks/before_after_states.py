"""The states that checkpoints hold for before_after.py. Names from before the redesign become today's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

PARTS = {
    "sketch": {name: name for name in ("mean", "std", "centres", "topics", "word_map", "components_shown")},
    "reference": {name: f"judge_{name}" for name in ("density", "expert", "version")},
    "calibration": {name: name for name in ("weights", "weights_before", "bias", "scale", "share")}
    | {"begun": "calibrated"},
    "gate": {name: f"gate_{name}" for name in ("weights", "bias", "share", "contrast")} | {"cells": "cell_topics"},
}
"""fedgmi's parts, and how their leaves were called when its state was flat."""
TODAY = {f"server/{before}": f"server/{part}/{name}" for part, names in PARTS.items() for name, before in names.items()}


def hashes(results: Path) -> Iterator[tuple[str, int]]:
    """A hash of every tensor's type, shape and bits.

    Args:
        results: A results folder.

    Yields:
        `FILE: NAME` and the hash.
    """
    for path in sorted(results.rglob("*.safetensors")):
        own = path.name.startswith("fedgmi") or path.name.startswith("oracle")
        for name, value in tensors(path.read_bytes()):
            yield f"{path.relative_to(results).as_posix()}: {TODAY.get(name, name) if own else name}", value


def tensors(data: bytes) -> Iterator[tuple[str, int]]:
    """What a safetensors file holds: eight bytes of length, a JSON header of that length, then all tensors."""
    start = 8 + int.from_bytes(data[:8], "little")
    for name, entry in json.loads(data[8:start]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            what = f"{entry['dtype']} {entry['shape']} ".encode() + data[start + begin : start + end]
            yield name, int.from_bytes(hashlib.blake2b(what, digest_size=6).digest(), "little")
