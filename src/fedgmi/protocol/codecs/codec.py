"""A codec: which entries of a difference travel, and how their numbers are written. Rows [M, n] to bytes and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedgmi.protocol.codecs.choices import Choice, Key, places_size, read_places, write_places
from fedgmi.protocol.codecs.numbers import Numbers
from fedgmi.randomness import generator


@dataclass(frozen=True)
class Codec:
    """A way of sending differences of models.

    Attributes:
        numbers: How numbers are written.
        choice: Which entries travel; None: all.

    Examples:
        >>> from fedgmi.protocol.codecs.numbers import NUMBERS
        >>> codec = Codec(NUMBERS["4"]())
        >>> codec.size(1000, ()), codec.encode(torch.randn(2, 1000), (0,)).shape
        (508, torch.Size([2, 508]))
    """

    numbers: Numbers
    choice: Choice | None = None

    @property
    def keeps(self) -> bool:
        """Whether what is left out is added to the next difference."""
        return self.choice is not None and self.choice.keeps

    def size(self, n: int, key: Key) -> int:
        """Bytes of one row of n entries. Layers drawn at random alone look at the key.

        Args:
            n: Entries of the model.
            key: Of the draws.

        Returns:
            Bytes.
        """
        if self.choice is None:
            return self.numbers.size(n)
        count = self.choice.count(n, key)
        places = places_size(n, count) if self.choice.told else 0
        return places + self.numbers.size(count) if count else 0

    def encode(self, rows: Tensor, key: Key) -> Tensor:
        """Differences as bytes.

        Args:
            rows: [M, n], float32, on the CPU
            key: Of the draws: (seed, round, client, exchange, what it is).

        Returns:
            [M, size(n)], uint8
        """
        if not rows.numel():
            return torch.zeros(len(rows), self.size(rows.shape[1], key), dtype=torch.uint8)
        draws = generator(*key, "rounding")
        if self.choice is None:
            return self.numbers.write(rows, draws)
        places = self.choice.pick(rows, key)
        if not places.shape[1]:  # of layers drawn at random there may be none
            return torch.zeros(len(rows), 0, dtype=torch.uint8)
        written = self.numbers.write(rows.gather(1, places), draws)
        return torch.cat([write_places(places, rows.shape[1]), written], 1) if self.choice.told else written

    def decode(self, data: Tensor, n: int, key: Key) -> Tensor:
        """The differences that bytes stand for, with zeros for entries that did not travel.

        Args:
            data: [M, size(n)], uint8
            n: Entries of the model.
            key: As it was encoded with.

        Returns:
            [M, n], float32

        Raises:
            ValueError: For bytes that stand for nothing.
        """
        if data.shape[1] != self.size(n, key):
            raise ValueError(f"{data.shape[1]} bytes came of each model, expected {self.size(n, key)}")
        if not len(data) or not n:
            return torch.zeros(len(data), n)
        if self.choice is None:
            return self.numbers.read(data, n)
        places, data = self._places(data, n, key)
        count = places.shape[1]
        if not count:
            return torch.zeros(len(data), n)
        numbers = self.numbers.read(data, count) * self.choice.factor(n, count)
        return torch.zeros(len(data), n).scatter_(1, places, numbers)

    def left(self, rows: Tensor, data: Tensor, key: Key) -> Tensor:
        """What of the differences has not travelled. Rounding is unbiased, and is not made up for.

        Args:
            rows: As they were encoded. [M, n]
            data: What they became.
            key: As they were encoded with.

        Returns:
            [M, n]
        """
        if not rows.numel():
            return rows.clone()
        places, _ = self._places(data, rows.shape[1], key)
        return rows.scatter(1, places, 0.0)

    def _places(self, data: Tensor, n: int, key: Key) -> tuple[Tensor, Tensor]:
        """Where the entries belong, and the bytes of their numbers."""
        assert self.choice is not None
        if not self.choice.told:
            return self.choice.pick(torch.zeros(1, 1).expand(len(data), n), key), data
        count = self.choice.count(n, key)
        size = places_size(n, count)
        return read_places(data[:, :size], n, count), data[:, size:]
