"""Trees: flat dictionaries from a name to a tensor. States, messages and checkpoints are all trees."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

Tree = dict[str, Tensor]


def add(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> Tree:
    """Sum leaf by leaf; a leaf that one side lacks counts as zero there, so `{}` is the identity.

    >>> add({"a": torch.ones(2)}, {"a": torch.ones(2), "b": torch.zeros(1)})
    {'a': tensor([2., 2.]), 'b': tensor([0.])}
    """
    merged = dict(left)
    for name, leaf in right.items():
        merged[name] = merged[name] + leaf if name in merged else leaf
    return merged


def concatenate(trees: list[Tree]) -> Tree:
    """Join trees along the leading (client) axis; all must have the same leaves."""
    return {name: torch.cat([tree[name] for tree in trees]) for name in trees[0]} if trees else {}


def take(tree: Mapping[str, Tensor], index: Tensor) -> Tree:
    """The rows `index` of the leading (client) axis of every leaf."""
    return {name: leaf[index] for name, leaf in tree.items()}


def put(tree: Mapping[str, Tensor], index: Tensor, part: Mapping[str, Tensor]) -> Tree:
    """A copy of `tree` whose rows `index` are those of `part`."""
    out = {}
    for name, leaf in tree.items():
        out[name] = leaf.clone()
        out[name][index] = part[name]
    return out


def to(tree: Mapping[str, Tensor], device: torch.device | str) -> Tree:
    """The tree on another device."""
    return {name: leaf.to(device) for name, leaf in tree.items()}


def not_finite(tree: Mapping[str, Tensor]) -> str | None:
    """The name of the first leaf with a NaN or infinite value, or None.

    >>> not_finite({"a": torch.zeros(2), "b": torch.tensor([1.0, float("nan")])})
    'b'
    """
    return next((name for name, leaf in tree.items() if not bool(torch.isfinite(leaf).all())), None)


def n_bytes(tree: Mapping[str, Tensor]) -> int:
    """Bytes of all leaves together.

    >>> n_bytes({"a": torch.zeros(3), "b": torch.zeros(2, dtype=torch.int64)})
    28
    """
    return sum(leaf.numel() * leaf.element_size() for leaf in tree.values())
