"""What the coordinator of benchmarks/faults.py runs: where `fault.json` lies in the app's folder, its disk is full when
the checkpoint of that round is written, once. A limit on the size of files stands in for the full disk."""

from __future__ import annotations

import json
import resource
from pathlib import Path

from fedgmi.flower_app import server_app
from fedgmi.storage import checkpoint
from fedgmi.storage.checkpoint import Checkpoint

FAULT = Path("fault.json")
LEAST = 512  # bytes that a file may have
save = checkpoint.save


def save_or_fail(folder: Path, name: str, state: Checkpoint) -> None:
    """As fedgmi does; a write past the limit is an OSError, as it is on a full disk."""
    if not FAULT.exists() or json.loads(FAULT.read_text())["round"] != state.meta["round"]:
        return save(folder, name, state)
    FAULT.rename("fault.done.json")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LEAST, before[1]))
    try:
        save(folder, name, state)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


checkpoint.save = save_or_fail
app = server_app(Path(__file__).parent)
