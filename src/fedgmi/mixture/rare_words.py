"""Rare words back off: from a cell and a label together to the cell alone or the label alone.

A word with few rows tells next to nothing, and many such words tell much together. So the rare words of a cell are
counted as one, "the cell, other labels", or those of a label are, "the label, other cells". What is too rare for both
is one last word. Clients need only know where each word goes.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

MIN_WORD_ROWS = 20
"""A word with fewer pooled rows is rare. docs/decisions.md has what 10 and 40 do."""
MUCH_LOST = 0.05
"""Of the rows: where more have neither cell nor label left, a diagnosis says so."""
TURNS = 3
"""How often words whose group is too small try the other one."""
CHANCE, CLEARLY = 2.0, 5.0
"""Deviations of chance: of less nothing is known, and of more no doubt is left."""
Part = Literal["cell", "label"]


def telling(histograms: Tensor, n_values: int) -> Part | None:
    """What clients differ by, where that is cells or labels alone and of these there are fewer. Rare words keep it.

    Where there are more, a word's group by these is the smaller one already.

    Of each table of clients by cells, or by labels, χ² less its degrees of freedom is in deviations of chance √(2·df).

    Args:
        histograms: Exact counts of raw words. [C, W]
        n_values: L, how many labels a cell is counted with.

    Returns:
        "cell" where clients differ in cells by more than 5 deviations and in labels by less than 2, and there are fewer
        cells than labels; "label" likewise; else None.

    >>> cells = torch.tensor([[90.0, 10.0], [10.0, 90.0], [50.0, 50.0]])
    >>> telling(cells.repeat_interleave(3, 1), n_values=3)
    'cell'
    """
    table = histograms.double().reshape(len(histograms), -1, n_values)
    beyond = {}
    for name, axis in (("cell", 2), ("label", 1)):
        seen = table.sum(axis)
        expected = seen.sum(1, keepdim=True) * seen.sum(0) / seen.sum().clamp(min=1.0)
        held = expected > 0
        freedom = max(1, (int(held.any(1).sum()) - 1) * (int(held.any(0).sum()) - 1))
        excess = ((seen - expected).square()[held] / expected[held]).sum() - freedom
        beyond[name] = float(excess) / math.sqrt(2 * freedom)
    n_cells = table.shape[1]
    if beyond["cell"] > CLEARLY and beyond["label"] < CHANCE and n_cells < n_values:
        return "cell"
    return "label" if beyond["label"] > CLEARLY and beyond["cell"] < CHANCE and n_values < n_cells else None


def back_off(counts: Tensor, n_values: int = 1, noise_deviation: float = 0.0, telling: Part | None = None) -> Tensor:
    """Where each word goes: common ones stay by themselves, rare ones join those of their cell or of their label.

    Of the two a word takes the smaller group that is common, since that tells more of it. Where one of the two tells
    nothing of clients, it takes the other's. A group of m words is common where it has at least 20 rows, and 2·√m
    deviations of noise.

    Args:
        counts: Pooled rows of each word: of cell 0 with every label, of cell 1, and so on. [W]
        n_values: L, how many labels a cell is counted with.
        noise_deviation: Standard deviation of the noise in each pooled count.
        telling: What clients differ by, where it is one of the two alone.

    Returns:
        The new index of each word: common ones first, in order, then cells, labels, and the rest. [W]

    >>> back_off(torch.tensor([30, 12, 11, 40, 1, 2]), n_values=3).tolist()  # the last two: too rare for anything
    [0, 2, 2, 1, 3, 3]
    >>> back_off(torch.tensor([30, 12, 40, 11]), n_values=2).tolist()
    [0, 2, 1, 2]
    >>> back_off(torch.tensor([30, 12, 40, 11]), n_values=2, noise_deviation=18.0).tolist()
    [1, 1, 0, 1]
    """
    n_words, words = len(counts), torch.arange(len(counts), device=counts.device)
    cell, label = words // n_values, words % n_values + n_words // n_values
    n_groups, last = n_words // n_values + n_values, n_words + n_words // n_values + n_values
    rare = counts < max(MIN_WORD_ROWS, 2 * noise_deviation)
    if n_values == 1:
        return compact(torch.where(rare, last, words))  # a cell has nothing to back off to

    def rows(group: Tensor) -> Tensor:
        """Of each rare word's group; infinitely many where these are too few to be common. [W]"""
        inside = rare.double()
        total = torch.zeros(n_groups, dtype=torch.float64, device=counts.device)
        size = total.index_add(0, group, inside)[group]
        total = total.index_add(0, group, counts.double() * inside)[group]
        return total.where(total >= (2 * noise_deviation * size.sqrt()).clamp(min=MIN_WORD_ROWS), torch.inf)

    by_label = rows(label) < rows(cell)
    if telling is not None:
        by_label = torch.full_like(by_label, telling == "label")
    for _ in range(TURNS):
        by_label ^= rows(torch.where(by_label, label, cell)).isinf()
    group = torch.where(by_label, label, cell)
    found = torch.where(rows(group).isinf(), last, n_words + group)
    return compact(torch.where(rare, found, words))


def compact(keys: Tensor) -> Tensor:
    """Keys numbered in order, without gaps. [W]"""
    numbered: Tensor = torch.unique(keys, return_inverse=True)[1]
    return numbered


def merge_words(histograms: Tensor, word_map: Tensor) -> Tensor:
    """Counts after merging rare words.

    Args:
        histograms: Counts. [C, W]
        word_map: Where each word goes. [W]

    Returns:
        [C, W']
    """
    merged = histograms.new_zeros((len(histograms), int(word_map.max()) + 1))
    return merged.index_add_(1, word_map, histograms)


def share_lost(counts: Tensor, word_map: Tensor, n_values: int = 1) -> float:
    """The share of rows in words of which neither cell nor label is left.

    Args:
        counts: Pooled rows of each word. [W]
        word_map: What `back_off` made of them. [W]
        n_values: L.

    Returns:
        From 0 to 1.

    >>> counts = torch.tensor([30, 12, 11, 40, 1, 2])
    >>> round(share_lost(counts, back_off(counts, n_values=2), n_values=2), 3)
    0.271
    """
    words = torch.arange(len(counts), device=counts.device)
    parts = [words // n_values, words % n_values] if n_values > 1 else [words]
    lost = torch.ones(int(word_map.max()) + 1, dtype=torch.bool, device=counts.device)
    for part in parts:
        ends = torch.zeros_like(lost, dtype=torch.long)
        first = ends.scatter_reduce(0, word_map, part, "amin", include_self=False)
        lost &= first != ends.scatter_reduce(0, word_map, part, "amax", include_self=False)
    rows = counts.double().clamp(min=0.0)
    return float(rows[lost[word_map]].sum() / rows.sum().clamp(min=1.0))
