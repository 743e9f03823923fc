"""Gradients of a user's module, one job after another.

`vmap` turns J convolutions into one grouped convolution, which a CPU runs a fifth slower than J convolutions, and it
copies the gradients of large layers. So a module that convolves, or that is large, is not packed on a CPU. The rule is
by what was measured (`benchmarks/peers.py`), and not by a clock at the start: a run would not be the same twice.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedgmi.models.flat import FlatModule

LARGE = 2**16
"""A module with so many parameters is not packed on a CPU."""


def wants_loop(module: nn.Module) -> bool:
    """Whether a CPU does better with one job after another.

    Args:
        module: The user's.

    Examples:
        >>> wants_loop(nn.Linear(10, 4)), wants_loop(nn.Conv2d(1, 4, 3))
        (False, True)
    """
    convolves = any(isinstance(part, nn.modules.conv._ConvNd) for part in module.modules())
    return convolves or sum(p.numel() for p in module.parameters()) >= LARGE


def write_gradient(
    body: FlatModule | None, head: FlatModule, params: Tensor, x: Tensor, y: Tensor, weight: Tensor, out: Tensor
) -> None:
    """The gradient of mean_B Σ_k weight_k · CE(head_k(body(x)), y), job by job.

    Args:
        body: The trunk; None where there is none.
        head: What stands on it, once per component.
        params: [J, T + K·H]
        x: [J, B, *shape]
        y: [J, B]
        weight: [J, B, K]
        out: Where the gradient goes. [J, T + K·H]
    """
    trunk = body.size if body else 0
    for j in range(len(params)):
        flats, slopes = ([flat[:trunk], *torch.split(flat[trunk:], head.size)] for flat in (params[j], out[j]))
        modules = [body, *[head] * (len(flats) - 1)]
        parts = [
            {name: leaf.detach().requires_grad_() for name, leaf in module.layout.split(flat).items()} if module else {}
            for module, flat in zip(modules, flats, strict=True)
        ]
        with torch.enable_grad():
            inner = body.one(parts[0], x[j]) if body else x[j]
            losses = [F.cross_entropy(head.one(own, inner), y[j], reduction="none") for own in parts[1:]]
            loss = (weight[j] * torch.stack(losses, 1)).sum() / len(y[j])
            leaves = [leaf for own in parts for leaf in own.values()]
            found = iter(torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True))
        for module, slope in zip(modules, slopes, strict=True):
            if module:
                for leaf in module.layout.split(slope).values():
                    leaf.copy_(next(found))
