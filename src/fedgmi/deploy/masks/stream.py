"""Masks from keys: HKDF makes a key for one purpose (RFC 5869), ChaCha20 expands it to whole numbers (RFC 8439)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from torch import Tensor

KEY = 32  # bytes


@dataclass(frozen=True)
class Where:
    """Which sum a mask is for. Each part goes into its key, so that no mask serves twice.

    Attributes:
        run: The run's name.
        digest: Of the public keys that all have agreed on, hex.
        slot: Which of these keys.
        at: The exchange: its round, and its number within it.
    """

    run: str
    digest: str
    slot: int
    at: tuple[int, int]

    def key(self, secret: bytes, *of: int) -> bytes:
        """The key of a mask: of one site, or of two in either order."""
        return derived(secret, "mask", self.run, self.digest, self.slot, *self.at, *sorted(of))


def derived(secret: bytes, *purpose: int | str, length: int = KEY) -> bytes:
    """HKDF-SHA256 of a secret for a purpose.

    Examples:
        >>> derived(b"secret", "box") == derived(b"secret", "box") != derived(b"secret", "share", 1)
        True
    """
    found: bytes = HKDF(hashes.SHA256(), length, b"fedgmi masks 1", repr(purpose).encode()).derive(secret)
    return found


def public_of(secret: bytes) -> bytes:
    """The public key of X25519 to 32 secret bytes (RFC 7748)."""
    found: bytes = X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
    return found


def agreed(secret: bytes, public: bytes) -> bytes:
    """What both sides of X25519 have, each by its own secret and the other's public key.

    Raises:
        ValueError: For a public key by which anybody would know it.
    """
    found: bytes = X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(public))
    return found


def masks(key: bytes, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Whole numbers for every leaf of a message, uniform modulo 2^64 to whoever lacks the key.

    Args:
        key: 32 bytes, for this message alone.
        shapes: Of the leaves, by name. Each has a nonce of its own: its place in the order of names.

    Returns:
        By name. int64

    Examples:
        >>> found = masks(bytes(32), {"a": (2,), "b": (2,)})
        >>> found["a"].shape, bool((found["a"] == found["b"]).any())
        (torch.Size([2]), False)
    """
    found = {}
    for place, name in enumerate(sorted(shapes)):
        count = int(np.prod(shapes[name], dtype=np.int64))
        nonce = bytes(8) + place.to_bytes(8, "little")  # the first eight are ChaCha20's counter
        drawn = Cipher(ChaCha20(key, nonce), None).encryptor().update(bytes(8 * count))
        numbers = torch.from_numpy(np.frombuffer(drawn, dtype="<i8").copy())
        found[name] = numbers.reshape(shapes[name])
    return found


def shapes_of(leaves: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """By name."""
    return {name: tuple(leaf.shape) for name, leaf in leaves.items()}


def added(leaves: Mapping[str, Tensor], more: Mapping[str, Tensor], sign: int = 1) -> dict[str, Tensor]:
    """Leaf by leaf, modulo 2^64."""
    return {name: leaf + sign * more[name] for name, leaf in leaves.items()}
