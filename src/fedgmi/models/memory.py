"""How much memory training may take, and what happens where there is too little of it."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass

import torch
from rich import filesize

from fedgmi.errors import ConfigError, FedgmiWarning

CHUNK_BYTES = {"cpu": 32 * 2**20, "cuda": 2 * 2**30}
"""Working memory of the jobs trained together. On a CPU it is about the size of the cache, for larger is slower."""
STATE = 4 * 6
"""Bytes of a parameter in training: itself, its gradient, Adam's two moments, and buffers, each a float32."""


@dataclass
class WorkingMemory:
    """What the jobs that are trained together may take. It halves where the device runs out of memory, and stays so.

    Attributes:
        bytes: None for what suits the device.
        told: Whether a warning said that there is too little.
    """

    bytes: int | None = None
    told: bool = False

    def jobs(self, per_job: int, device: torch.device) -> int:
        """How many jobs are trained together, at least 1.

        Args:
            per_job: Bytes that one takes.
            device: Where.

        >>> WorkingMemory(1000).jobs(300, torch.device("cpu"))
        3
        """
        allowed = CHUNK_BYTES["cuda" if device.type == "cuda" else "cpu"] if self.bytes is None else self.bytes
        return max(1, allowed // per_job)

    def halve(self, jobs: int, per_job: int, model: str) -> int:
        """Take half of the jobs that were too many, and say so the first time.

        Args:
            jobs: How many they were, at least 2.
            per_job: Bytes that one takes.
            model: What is trained.

        Returns:
            How many are trained together from now on.
        """
        fewer = (jobs + 1) // 2
        self.bytes = fewer * per_job
        if not self.told:
            what = f"{model}: there was no memory for {jobs} models at once, so training goes on with {fewer}"
            warnings.warn(
                FedgmiWarning(f"{what}, or fewer if need be. Results are the same, up to rounding"), stacklevel=3
            )
        self.told = True
        return fewer


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out. PyTorch has a class of its own for that on a GPU, not on a CPU.

    >>> ran_out(RuntimeError("DefaultCPUAllocator: can't allocate memory")), ran_out(RuntimeError("shapes differ"))
    (True, False)
    """
    words = "can't allocate memory", "not enough memory", "ALLOC_FAILED"
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def too_large(model: str, size: int, wanted: int, found: str) -> ConfigError:
    """The error for a model of which not even one can be trained.

    Args:
        model: Which it is.
        size: Its parameters.
        wanted: Bytes that one takes in training.
        found: What there is.

    >>> too_large("expert mlp", 10**9, 24 * 10**9, "this machine has 8.0 GB").what
    'it has 1,000,000,000 parameters, and one in training wants 24.0 GB; this machine has 8.0 GB'
    """
    return ConfigError(
        f"it has {size:,} parameters, and one in training wants {filesize.decimal(wanted)}; {found}",
        where=model,
        fix="make it smaller (expert.hidden, density.hidden, or layers of your own), "
        "or take a smaller training.batch_size",
    )


def require_memory(model: str, size: int) -> None:
    """Refuse a model of which this machine could not hold one in training, before anything is made of it. Whether a
    GPU's memory is enough shows in training.

    Args:
        model: Which it is.
        size: Its parameters.

    Raises:
        ConfigError: It names the model, and what it wants.
    """
    there = memory_here()
    if there is not None and STATE * size > there:
        raise too_large(model, size, STATE * size, f"this machine has {filesize.decimal(there)}")


def memory_here() -> int | None:
    """Bytes of this machine's memory; None where the system does not tell (Windows)."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
