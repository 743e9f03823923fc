"""Every random draw comes from a generator whose key says what the draw is for.

A key is (seed, round, client, purpose) or any part of it. Two draws with different keys are independent.
No draw depends on which others were made before it. So a resumed run ends as an uninterrupted one does, and a
federation over Flower ends as one in process.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch


def derive_seed(*key: int | str) -> int:
    """A seed from a key, by BLAKE2b.

    Args:
        key: What the draw is for.

    Returns:
        A whole number of 63 bits.

    Examples:
        >>> derive_seed(0, "split") == derive_seed(0, "split") != derive_seed(1, "split")
        True
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*key: int | str) -> torch.Generator:
    """A fresh generator for PyTorch's draws.

    Args:
        key: What the draws are for.

    Returns:
        A generator on the CPU. Draw there and move the numbers: then all devices see the same ones.
    """
    return torch.Generator().manual_seed(derive_seed(*key))


def numpy_generator(*key: int | str) -> np.random.Generator:
    """A fresh generator for NumPy's and SciPy's draws.

    Args:
        key: What the draws are for.

    Returns:
        The generator.
    """
    return np.random.default_rng(derive_seed(*key))


def row_noise(x: torch.Tensor, n_samples: int, size: int, *key: int | str) -> torch.Tensor:
    """Standard normal noise for each row that comes from the row itself, neither from its place nor its neighbours.

    Equal rows get equal noise. The bits of a row's numbers, mixed with the key, count up a SplitMix64 (Steele et al.
    2014), and Box-Muller makes normal numbers of it.

    Args:
        x: Rows. [n, …], float32
        n_samples: S.
        size: Z.
        key: What the draws are for.

    Returns:
        On the CPU. [n, S, Z], float32

    Examples:
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        >>> bool((row_noise(x, 1, 3, 0)[1] == row_noise(x.flip(0), 1, 3, 0)[0]).all())
        True
    """
    bits = np.ascontiguousarray((x.detach().cpu().float().flatten(1) + 0.0).numpy()).view(np.uint32)  # −0 is 0
    state = np.full(len(bits), derive_seed(*key, "row"), dtype=np.uint64)
    for column in bits.T:
        state = _mixed(state ^ column.astype(np.uint64))
    n_numbers = n_samples * size
    counters = np.arange(1, 2 * n_numbers + 1, dtype=np.uint64) * GOLDEN
    normal = np.empty((len(bits), n_numbers), dtype=np.float32)
    step = max(1, NUMBERS_AT_ONCE // max(1, n_numbers))
    for begin in range(0, len(bits), step):
        some = state[begin : begin + step, None] + counters
        uniform = (_mixed(some) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        radius = np.sqrt(-2.0 * np.log1p(-uniform[:, :n_numbers]))
        normal[begin : begin + step] = radius * np.cos(2.0 * np.pi * uniform[:, n_numbers:])
    return torch.from_numpy(normal).view(len(bits), n_samples, size)


NUMBERS_AT_ONCE = 1 << 20


GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2⁶⁴ over the golden ratio: SplitMix64's step."""


def _mixed(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's output function, after one step."""
    state = state + GOLDEN
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def keyed_normal(shape: Sequence[int], *key: int | str) -> torch.Tensor:
    """Standard normal numbers from SHAKE-256 of a key, by Box-Muller: for noise that is to protect somebody.

    Who lacks the key cannot tell them from other ones, which does not hold for `generator`. They are in floating point:
    add them in float64, and write the sum in fewer digits.

    Args:
        shape: Of what is drawn.
        key: What the draws are for, with a secret where they are to protect somebody.

    Returns:
        On the CPU. [*shape], float64, at most 8.7 from 0

    Examples:
        >>> one = keyed_normal((2, 3), "a secret", "noise")
        >>> bool((one == keyed_normal((2, 3), "a secret", "noise")).all()), tuple(one.shape)
        (True, (2, 3))
    """
    n = math.prod(shape)
    half = -(-n // 2)
    bits = np.frombuffer(hashlib.shake_256(repr(key).encode()).digest(16 * half), dtype="<u8")
    uniform = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    radius, angle = np.sqrt(-2.0 * np.log(uniform[:half])), 2.0 * np.pi * uniform[half:]
    normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:n]
    return torch.from_numpy(normal).view(shape)


class KeyedBits(random.Random):
    """Whole-number draws from the bits of SHAKE-256(key, 0), SHAKE-256(key, 1), …

    This is for noise that is to protect somebody. `randrange` and `getrandbits` are exact, without floating point. Who
    lacks the key cannot tell the bits from coin tosses, which does not hold for the generators above. The same key
    gives the same draws.

    Examples:
        >>> KeyedBits(0, "noise").randrange(10**6) == KeyedBits(0, "noise").randrange(10**6)
        True
    """

    def __init__(self, *key: int | str) -> None:
        """Start at the first bit.

        Args:
            key: What the draws are for, with a secret where they are to protect somebody.
        """
        self._key, self._block, self._bits = repr(key), 0, b""
        super().__init__()

    def seed(self, *args: object, **kwargs: object) -> None:
        """Do nothing: the key is the seed."""

    def getrandbits(self, k: int, /) -> int:
        """The next k bits, as a whole number. Whole bytes are used up."""
        n = -(-k // 8)
        while len(self._bits) < n:
            self._bits += hashlib.shake_256(repr((self._key, self._block)).encode()).digest(1024)
            self._block += 1
        drawn, self._bits = self._bits[:n], self._bits[n:]
        return int.from_bytes(drawn, "big") >> (8 * n - k)

    def random(self) -> float:
        """A number from 0 up to 1, of 53 bits."""
        return self.getrandbits(53) / 2**53
