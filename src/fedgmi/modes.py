"""Modes of the whole process that our computations need: set for as long as they run, and put back afterwards.

A user's process is not ours. Who fits a model in a notebook finds 5e-324 above 0 as before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch

GRAIN = 32768
"""PyTorch gives a thread so many numbers at least."""


def flushes_denormals() -> bool:
    """Whether this thread takes denormal numbers for 0. PyTorch does not tell, so a number is tried."""
    return not float.fromhex("0x0.0000000000001p-1022") > 0.0


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Denormal numbers are 0 in here: on many CPUs they are ten times slower, and Adam's moments underflow.

    Worker threads take the mode over from the thread that starts them, and keep it for good. So they are started
    before it is set, and do without. A program of our own sets the mode for good at its start; see `runs.setup`.
    """
    if flushes_denormals():
        yield
        return
    threads = torch.get_num_threads()
    if threads > 1:
        torch.ones(threads * GRAIN).mul_(2.0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextmanager
def own_modes(threads: int | None = None) -> Iterator[None]:
    """What our computations expect of the process: denormals flushed, float32 by default, and a number of threads.

    Args:
        threads: Of the CPU; None: as they are. Whatever number is set in here ends with the block.
    """
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        with _float32(), flushed_denormals():
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _float32() -> Iterator[None]:
    """float32 by default for as long as anybody is in here: the first one sets it, and the last one puts it back."""
    with _LOCK:
        if not _USERS:
            _USERS["dtype"] = torch.get_default_dtype()
            torch.set_default_dtype(torch.float32)
        mine = object()
        _USERS[mine] = None
    try:
        yield
    finally:
        with _LOCK:
            del _USERS[mine]
            if len(_USERS) == 1:
                torch.set_default_dtype(_USERS.pop("dtype"))


_LOCK = Lock()
_USERS: dict[object, Any] = {}
"""Who needs float32 now, and what was the default before."""
