"""Which entries of a difference travel: all, the largest, some drawn at random, or whole layers drawn at random.

    top      the k = ⌈top·n⌉ largest |d|; the rest is kept, and added to the next difference (error feedback: Stich et
             al. 2018, arXiv 1809.07599). Their places go along: the sorted numbers by Elias and Fano (1974)
    mask     k = ⌈mask·n⌉ places that both sides draw alike, numbers times n/k (Konečný et al. 2016, arXiv 1610.05492)
    layers   each layer with that probability p, drawn alike too, numbers times 1/p (FedLP: Zhu et al. 2023,
             arXiv 2303.06360, where the mean is over those who sent the layer)

Adding one: a function (settings, layers) → `Choice` or None, and a line in `CHOICES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedgmi.randomness import generator
from fedgmi.settings.communication import CommunicationSettings

Key = tuple[int | str, ...]
Layers = Mapping[int, tuple[int, ...]]
"""By the length of a flat model, the lengths of its layers."""


@dataclass(frozen=True)
class Choice:
    """A rule by which entries travel.

    Attributes:
        name: As the settings have it.
        summary: One line.
        count: (n, key) → how many of n entries travel.
        pick: (differences [M, n], key) → places in ascending order [M, count].
        factor: (n, count) → what numbers are multiplied with when they are read.
        told: Whether the places go along; else both sides draw them by the key, and `pick` looks at shapes alone.
        keeps: Whether what is left out is added to the next difference.
        down: Whether the server's models travel so too.
    """

    name: str
    summary: str
    count: Callable[[int, Key], int]
    pick: Callable[[Tensor, Key], Tensor]
    factor: Callable[[int, int], float] = lambda n, count: 1.0
    told: bool = False
    keeps: bool = False
    down: bool = False


def top(settings: CommunicationSettings, layers: Layers) -> Choice | None:
    """The largest entries, with error feedback."""
    if settings.top == 1:
        return None

    def count(n: int, key: Key) -> int:
        return share_of(settings.top, n)

    def pick(differences: Tensor, key: Key) -> Tensor:
        largest = differences.abs().topk(count(differences.shape[1], key), dim=1, sorted=False).indices
        return largest.sort(1).values

    return Choice("top", "the entries that differ most", count, pick, told=True, keeps=True, down=True)


def mask(settings: CommunicationSettings, layers: Layers) -> Choice | None:
    """Entries drawn at random."""
    if settings.mask == 1:
        return None

    def count(n: int, key: Key) -> int:
        return share_of(settings.mask, n)

    def pick(differences: Tensor, key: Key) -> Tensor:
        n = differences.shape[1]
        drawn = torch.randperm(n, generator=generator(*key, "mask"))[: count(n, key)]
        return drawn.sort().values.expand(len(differences), -1)

    return Choice("mask", "entries drawn at random", count, pick, lambda n, k: n / max(1, k))


def whole_layers(settings: CommunicationSettings, layers: Layers) -> Choice | None:
    """Layers drawn at random, each by itself."""
    if settings.layers == 1:
        return None
    rate = settings.layers

    def drawn(n: int, key: Key) -> Tensor:
        lengths = torch.tensor(layers.get(n, (n,)))
        sent = torch.rand(len(lengths), generator=generator(*key, "layers")) < rate
        return sent.repeat_interleave(lengths).nonzero().flatten()

    def pick(differences: Tensor, key: Key) -> Tensor:
        return drawn(differences.shape[1], key).expand(len(differences), -1)

    return Choice("layers", "layers drawn at random", lambda n, key: len(drawn(n, key)), pick, lambda n, k: 1 / rate)


CHOICES: dict[str, Callable[[CommunicationSettings, Layers], Choice | None]] = {
    "top": top,
    "mask": mask,
    "layers": whole_layers,
}
"""Rules by the setting that turns them on; None where it does not."""


def share_of(share: float, n: int) -> int:
    """⌈share·n⌉, at least one."""
    return min(n, max(1, math.ceil(share * n - 1e-9)))


def places_size(n: int, count: int) -> int:
    """Bytes of so many sorted places among n.

    Examples:
        >>> places_size(4096, 410), 4096 // 8
        (270, 512)
    """
    low = _low_bits(n, count)
    return -(-count * low // 8) + -(-(count + (n >> low) + 1) // 8)


def write_places(places: Tensor, n: int) -> Tensor:
    """Sorted places among n as bytes: their lower bits, then how many begin with each of the upper ones.

    Args:
        places: In ascending order, each once. [M, k]
        n: Above all of them.

    Returns:
        [M, places_size(n, k)], uint8

    Examples:
        >>> places = torch.tensor([[1, 5, 6]])
        >>> read_places(write_places(places, 9), 9, 3)
        tensor([[1, 5, 6]])
    """
    found, count = places.numpy(), places.shape[1]
    low = _low_bits(n, count)
    lower = (found[:, :, None] >> np.arange(low)) & 1
    upper = np.zeros((len(found), count + (n >> low) + 1), dtype=np.uint8)
    np.put_along_axis(upper, (found >> low) + np.arange(count), 1, axis=1)
    parts = [np.packbits(lower.reshape(len(found), -1).astype(np.uint8), axis=1), np.packbits(upper, axis=1)]
    return torch.from_numpy(np.concatenate(parts, 1))


def read_places(data: Tensor, n: int, count: int) -> Tensor:
    """The places that `write_places` wrote.

    Raises:
        ValueError: For bytes that are none of these.
    """
    low, rows = _low_bits(n, count), data.numpy()
    n_lower = -(-count * low // 8)
    lower = np.unpackbits(rows[:, :n_lower], axis=1, count=count * low).reshape(len(rows), count, low)
    upper = np.unpackbits(rows[:, n_lower:], axis=1, count=count + (n >> low) + 1)
    if (upper.sum(1) != count).any():
        raise ValueError("places of entries that are not as many as they should be")
    high = np.flatnonzero(upper).reshape(len(rows), count) - upper.shape[1] * np.arange(len(rows))[:, None]
    found = (high - np.arange(count)) << low
    for place in range(low):
        found |= lower[:, :, place].astype(np.int64) << place
    if (found >= n).any() or (np.diff(found, axis=1) <= 0).any():
        raise ValueError("places of entries beyond the model, or twice the same")
    return torch.from_numpy(found)


def _low_bits(n: int, count: int) -> int:
    return max(0, (n // max(1, count)).bit_length() - 1)
