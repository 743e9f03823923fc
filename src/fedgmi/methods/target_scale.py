"""A scale for targets that are no classes, so that every method sees numbers of a known size.

regression   client  Σ y, Σ y² and n of its rows       server  mean and deviation, the leaf `target/scale`
             methods see z = (y − mean)/deviation; predictions come back in the target's own units
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedgmi.data.rows import Schema
from fedgmi.data.standardise import feature_sums, standardisation
from fedgmi.models.heads import parts
from fedgmi.tree import Tree

TARGET = "target"
SCALE = f"{TARGET}/scale"
TARGET_LEAVES = (SCALE,)
TELLS = {"regression": "sums of its targets, Σy and Σy², of which the federation's mean and deviation are made"}


def target_sums(schema: Schema, y: Tensor) -> Tree:
    """What one client's rows add to the scale.

    Args:
        schema: Which task it is.
        y: Of its rows, in its own units. [n]

    Returns:
        Sums by name, which may be added up over clients.
    """
    return {f"target {name}": leaf for name, leaf in feature_sums(y[:, None]).items()}


def target_leaves(schema: Schema, sums: Tree) -> Tree:
    """The scale from all clients' sums: mean and deviation. A target that is constant has deviation 1.

    Args:
        schema: Which task it is.
        sums: What `target_sums` returns, added up.

    Returns:
        The server's leaf. [2], float64
    """
    own = {name.removeprefix("target "): leaf for name, leaf in sums.items() if name.startswith("target ")}
    found = standardisation(own)
    return {SCALE: torch.cat([found.mean, found.std])}


def to_scale(schema: Schema, server: Tree, y: Tensor) -> Tensor:
    """Targets as methods see them.

    Args:
        schema: Which task it is.
        server: With the scale.
        y: In its own units. [R]

    Returns:
        [R], float32
    """
    mean, deviation = server[SCALE].to(y.device).unbind()
    scaled: Tensor = (y.double() - mean) / deviation
    return scaled.float()


def to_units(schema: Schema, server: Tree, numbers: Tensor) -> Tensor:
    """Predictions in the target's own units.

    Args:
        schema: Which task it is.
        server: With the scale.
        numbers: As the head has them: (log weight, m, log s) for each part. […, 3·K]

    Returns:
        […, 3·K], float64
    """
    mean, deviation = server[SCALE].to(numbers.device).unbind()
    log_weight, m, log_scale = parts(numbers.double()).unbind(-1)
    return torch.stack([log_weight, m * deviation + mean, log_scale + deviation.log()], -1).flatten(-2)
