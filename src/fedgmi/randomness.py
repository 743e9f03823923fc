"""Every random draw comes from a generator keyed by what it is for.

A key is (seed, round, client, purpose) or any part of it. Two draws with different keys are independent,
and no draw depends on which others were made before it: this is what makes a resumed run end as an
uninterrupted one, and a federation over Flower as one in process.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def derive_seed(*key: int | str) -> int:
    """A 63-bit seed from a key.

    >>> derive_seed(0, "split") == derive_seed(0, "split") != derive_seed(1, "split")
    True
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*key: int | str) -> torch.Generator:
    """A fresh CPU generator for the key. Draw on the CPU and move: all devices then see the same numbers."""
    return torch.Generator().manual_seed(derive_seed(*key))


def numpy_generator(*key: int | str) -> np.random.Generator:
    """The same for NumPy and SciPy draws."""
    return np.random.default_rng(derive_seed(*key))
