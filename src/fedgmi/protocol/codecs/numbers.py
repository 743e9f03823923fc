"""How numbers are written: float32, bfloat16, or whole numbers of a few bits, by stochastic rounding.

    b bits, per block of 256 numbers x with s = max |x|, L = 2^(b−1) − 1:     q = ⌊x·L/s + u⌋,  u uniform in [0, 1)
    read as q·s/L, whose expectation is x (QSGD: Alistarh et al. 2017, arXiv 1610.02132, by the largest entry)

Zero is written exactly. s travels as bfloat16, rounded up. What is beyond the largest bfloat16 is written as that.
Adding a way: a function () → `Numbers`, and a line in `NUMBERS`. Reading takes one IEEE operation after the other, so
that all machines read the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 256  # numbers to a scale
SMALLEST = 1e-30  # below it numbers are zero: some machines flush denormal numbers, others do not
LARGEST = torch.finfo(torch.bfloat16).max  # beyond it a number rounded up would be infinite


@dataclass(frozen=True)
class Numbers:
    """A way of writing numbers.

    Attributes:
        name: As the table, and `communication.precision`, have it.
        summary: One line.
        size: (n) → the bytes that n numbers take.
        write: (numbers [M, n] in float32, draws) → their bytes [M, size(n)], each row by itself.
        read: (bytes [M, size(n)], n) → numbers [M, n] in float32.
    """

    name: str
    summary: str
    size: Callable[[int], int]
    write: Callable[[Tensor, torch.Generator], Tensor]
    read: Callable[[Tensor, int], Tensor]


def float32() -> Numbers:
    """Numbers as they are."""

    def write(numbers: Tensor, draws: torch.Generator) -> Tensor:
        return as_bytes(without_denormal(numbers))

    def read(data: Tensor, n: int) -> Tensor:
        return from_rows(data, torch.float32)

    return Numbers("float32", "numbers as they are, 32 bits", lambda n: 4 * n, write, read)


def bfloat16() -> Numbers:
    """The upper half of a float32, by stochastic rounding: relative steps of 2^−7."""

    def write(numbers: Tensor, draws: torch.Generator) -> Tensor:
        bits = bounded(without_denormal(numbers)).view(torch.int32)
        noise = torch.randint(0, 1 << 16, bits.shape, generator=draws, dtype=torch.int32)
        return as_bytes(torch.where(numbers.isfinite(), bits + noise, bits).bitwise_right_shift(16).to(torch.int16))

    def read(data: Tensor, n: int) -> Tensor:
        return from_rows(data, torch.bfloat16)

    return Numbers("bfloat16", "16 bits, by stochastic rounding", lambda n: 2 * n, write, read)


def integers(bits: int) -> Callable[[], Numbers]:
    """Whole numbers of so many bits, with one scale to a block.

    Args:
        bits: 8, 4 or 2: whole numbers that fill bytes.

    Returns:
        A function that makes the way of writing.
    """
    most, in_byte = 2 ** (bits - 1) - 1, 8 // bits

    def size(n: int) -> int:
        return 2 * -(-n // BLOCK) + -(-n // in_byte)

    def write(numbers: Tensor, draws: torch.Generator) -> Tensor:
        blocks = in_blocks(numbers, BLOCK)
        scale = rounded_up(bounded(without_denormal(blocks.abs().amax(2))))
        unit = (scale / most)[:, :, None]
        noise = torch.rand(blocks.shape, generator=draws)
        whole = (blocks / unit.where(unit > 0, 1.0) + noise).floor_().clamp_(-most, most).add_(most).to(torch.uint8)
        whole = in_blocks(whole.view(len(numbers), -1)[:, : numbers.shape[1]], in_byte)
        packed = whole[:, :, 0].clone()
        for place in range(1, in_byte):
            packed |= whole[:, :, place] << (bits * place)
        return torch.cat([as_bytes(scale.to(torch.bfloat16)), packed], 1)

    def read(data: Tensor, n: int) -> Tensor:
        n_blocks = -(-n // BLOCK)
        unit = from_rows(data[:, : 2 * n_blocks], torch.bfloat16) / most
        packed = data[:, 2 * n_blocks :]
        parts = [(packed >> (bits * place)) & (2**bits - 1) for place in range(in_byte)]
        whole = torch.stack(parts, 2).view(len(data), -1)[:, :n].float() - most
        found: Tensor = in_blocks(whole, BLOCK) * unit[:, :, None]
        return found.view(len(data), -1)[:, :n]

    return lambda: Numbers(str(bits), f"{bits} bits, by stochastic rounding in blocks of {BLOCK}", size, write, read)


NUMBERS: dict[str, Callable[[], Numbers]] = {
    "float32": float32,
    "bfloat16": bfloat16,
    "8": integers(8),
    "4": integers(4),
    "2": integers(2),
}
"""Ways of writing numbers by name, the default first."""


def in_blocks(rows: Tensor, length: int) -> Tensor:
    """Rows in blocks, the last one filled up with zeros. [M, n] → [M, ⌈n/length⌉, length]"""
    missing = -rows.shape[1] % length
    return torch.nn.functional.pad(rows, (0, missing)).view(len(rows), -1, length)


def rounded_up(scale: Tensor) -> Tensor:
    """Positive numbers rounded up to such as bfloat16 has."""
    return ((scale.view(torch.int32) + 0xFFFF) & ~0xFFFF).view(torch.float32)


def without_denormal(numbers: Tensor) -> Tensor:
    """The numbers, the smallest of them as zero."""
    return torch.where(numbers.abs() < SMALLEST, 0.0, numbers)


def bounded(numbers: Tensor) -> Tensor:
    """Numbers that bfloat16 has room for; infinite ones and NaN stay, so that they are noticed.

    Examples:
        >>> bounded(torch.tensor([3.4e38, -3.4e38, 1.0, torch.inf])).bfloat16().isinf().tolist()
        [False, False, False, True]
    """
    return numbers.clamp(-LARGEST, LARGEST).where(numbers.isfinite(), numbers)


def as_bytes(rows: Tensor) -> Tensor:
    """Each row's bytes. [M, n] → [M, b], uint8"""
    return rows.contiguous().view(torch.uint8).reshape(len(rows), -1)


def from_rows(data: Tensor, kind: torch.dtype) -> Tensor:
    """The numbers that each row's bytes are. [M, b] → [M, n], float32"""
    return data.reshape(-1).clone().view(kind).view(len(data), -1).float()
