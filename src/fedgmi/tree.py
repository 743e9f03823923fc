"""Trees: flat dictionaries from a name to a tensor. States, messages and checkpoints are all trees."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

Tree = dict[str, Tensor]


def add(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> Tree:
    """Sum two trees leaf by leaf. A leaf that one of them lacks counts as zero there, so `{}` is the identity.

    Args:
        left: A tree.
        right: Another. Leaves of the same name have the same shape.

    Returns:
        All leaves of both.

    Examples:
        >>> add({"a": torch.ones(2)}, {"a": torch.ones(2), "b": torch.zeros(1)})
        {'a': tensor([2., 2.]), 'b': tensor([0.])}
    """
    merged = dict(left)
    for name, leaf in right.items():
        merged[name] = merged[name] + leaf if name in merged else leaf
    return merged


def concatenate(trees: list[Tree]) -> Tree:
    """Join trees along the leading axis, which is that of the clients.

    Args:
        trees: All with the same leaves.

    Returns:
        One tree; `{}` where there is none to join.
    """
    return {name: torch.cat([tree[name] for tree in trees]) for name in trees[0]} if trees else {}


def take(tree: Mapping[str, Tensor], index: Tensor) -> Tree:
    """Some rows of every leaf.

    Args:
        tree: Leaves with clients as their leading axis. [C, …]
        index: Which rows, as numbers [n] or as a mask [C].

    Returns:
        The same leaves with these rows alone. [n, …]
    """
    return {name: leaf[index] for name, leaf in tree.items()}


def put(tree: Mapping[str, Tensor], index: Tensor, part: Mapping[str, Tensor]) -> Tree:
    """A copy of a tree with some rows replaced.

    Args:
        tree: Leaves with clients as their leading axis. [C, …]
        index: Which rows. [n]
        part: What they become, with the same leaves. [n, …]

    Returns:
        The new tree. The old one stays as it is.
    """
    out = {}
    for name, leaf in tree.items():
        out[name] = leaf.clone()
        out[name][index] = part[name]
    return out


def to(tree: Mapping[str, Tensor], device: torch.device | str) -> Tree:
    """The tree on another device."""
    return {name: leaf.to(device) for name, leaf in tree.items()}


def not_finite(tree: Mapping[str, Tensor]) -> str | None:
    """Look for a NaN or an infinite value.

    Args:
        tree: Any.

    Returns:
        The name of the first leaf that holds one, or None.

    Examples:
        >>> not_finite({"a": torch.zeros(2), "b": torch.tensor([1.0, float("nan")])})
        'b'
    """
    return next((name for name, leaf in tree.items() if not bool(torch.isfinite(leaf).all())), None)


def digest(leaves: Iterable[Tensor]) -> str:
    """SHA-256 of some tensors, hex: of their shapes, types and numbers, wherever they lie.

    Examples:
        >>> digest([torch.ones(2)]) == digest([torch.ones(2)]), digest([torch.ones(2)]) == digest([torch.ones(2, 1)])
        (True, False)
    """
    found = hashlib.sha256()
    for leaf in leaves:
        found.update(repr((tuple(leaf.shape), str(leaf.dtype))).encode())
        found.update(leaf.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
