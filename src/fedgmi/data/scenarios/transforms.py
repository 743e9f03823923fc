"""What tells components apart: which labels they have, how they rename them, how pictures are turned."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fedgmi.errors import ConfigError
from fedgmi.randomness import numpy_generator
from fedgmi.settings.run import ScenarioSettings


def at_most(limit: int, scenario: ScenarioSettings, why: str) -> None:
    """Refuse more components than the scenario can tell apart.

    Args:
        limit: How many it can.
        scenario: The section `scenario`.
        why: The reason, as a sentence without capital and full stop.

    Raises:
        ConfigError: For more components.
    """
    if scenario.n_components > limit:
        raise ConfigError(
            f"there are to be {scenario.n_components} components, but {scenario.name} can have {limit} at most: {why}",
            where="scenario.n_components",
            fix=f"set it to {limit} or less",
        )


def label_sets(n_classes: int, scenario: ScenarioSettings) -> tuple[tuple[int, ...], ...]:
    """The labels of each component: Y_k = {(round(k·n/K) + j) mod n : j < L}.

    L is `labels_per_component`, or half of the n classes.

    Args:
        n_classes: n.
        scenario: The section `scenario`.

    Returns:
        Y_k of each component. [K, L]

    Raises:
        ConfigError: For more components than labels, and for so many labels that all components would have the same.

    Examples:
        >>> label_sets(10, ScenarioSettings(n_components=3))
        ((0, 1, 2, 3, 4), (3, 4, 5, 6, 7), (7, 8, 9, 0, 1))
    """
    n_components = scenario.n_components
    at_most(n_classes, scenario, f"there are {n_classes} labels to begin with")
    each = scenario.labels_per_component or math.ceil(n_classes / 2)
    if each > n_classes or (each == n_classes and n_components > 1):
        raise ConfigError(
            f"{each} labels per component out of {n_classes} would make all components the same",
            where="scenario.labels_per_component",
            fix=f"set it to {max(1, n_classes - 1)} or less",
        )
    starts = [round(k * n_classes / n_components) for k in range(n_components)]
    return tuple(tuple((start + j) % n_classes for j in range(each)) for start in starts)


def label_permutations(n_classes: int, scenario: ScenarioSettings, seed: int) -> Tensor:
    """Draw how each component renames the labels: σ_k = τ⁻¹ ∘ (shift by s_k) ∘ τ, with distinct shifts and s_0 = 0.

    So component 0 keeps the labels, and no label has the same name in two components.

    Args:
        n_classes: L.
        scenario: The section `scenario`.
        seed: The run's.

    Returns:
        σ_k(y) of each component k and label y. [K, L]

    Raises:
        ConfigError: For more components than labels.
    """
    at_most(n_classes, scenario, f"{n_classes} labels cannot be renamed throughout in more ways")
    order = torch.from_numpy(numpy_generator(seed, "label-swap", "order").permutation(n_classes))
    place = torch.argsort(order)
    others = 1 + torch.from_numpy(numpy_generator(seed, "label-swap", "shifts").permutation(max(n_classes - 1, 0)))
    shifts = torch.cat([torch.zeros(1, dtype=torch.int64), others])[: scenario.n_components]
    return order[(place[None, :] + shifts[:, None]) % n_classes]


def rotate(x: Tensor, degrees: float) -> Tensor:
    """Turn square pictures counter-clockwise, bilinearly, with zeros outside the frame.

    Args:
        x: Pictures. [n, c, s, s]
        degrees: By how much.

    Returns:
        The turned pictures. [n, c, s, s]

    Examples:
        >>> x = torch.rand(1, 1, 8, 8)
        >>> torch.allclose(rotate(x, 90), torch.rot90(x, 1, dims=(-2, -1)), atol=1e-5)
        True
    """
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    matrix = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0]]).expand(len(x), 2, 3)
    grid = torch.nn.functional.affine_grid(matrix, list(x.shape), align_corners=False)
    return torch.nn.functional.grid_sample(x, grid, align_corners=False).clamp(0, 1)
