"""Experts by name: the models of one component's p(y | x). To add one: a function (settings, schema) → Expert, and a
line in EXPERTS."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from fedgmi.data.rows import Schema
from fedgmi.errors import ConfigError, unknown
from fedgmi.models.backward import cross_entropy_backward, linear_backward
from fedgmi.models.expert import Expert
from fedgmi.models.flat import init_linear, linear
from fedgmi.models.heads import HEADS
from fedgmi.models.own import Own, expert_from_module, own_expert
from fedgmi.plugins import Table, function_of_two
from fedgmi.settings.run import ExpertSettings


def mlp(settings: ExpertSettings, schema: Schema) -> Expert:
    """D → hidden → L with ReLU. It is batched by hand, which is faster than `vmap`.

    Args:
        settings: `hidden` matters.
        schema: Of the rows.

    Returns:
        An expert whose first layer is the trunk.
    """
    hidden, n_features, n_classes = settings.hidden, schema.n_features, schema.n_outputs
    sizes = n_features * hidden, hidden, hidden * n_classes, n_classes
    trunk, head = sizes[0] + sizes[1], sizes[2] + sizes[3]

    def heads(params: Tensor, x: Tensor) -> Tensor:
        n_jobs, n_heads = len(params), (params.shape[1] - trunk) // head
        weight, bias, upper = torch.split(params, [*sizes[:2], n_heads * head], 1)
        inner = linear(x.flatten(2), weight.view(n_jobs, n_features, hidden), bias).relu()
        weight, bias = torch.split(upper.view(n_jobs, n_heads, head), list(sizes[2:]), 2)
        weight = weight.view(n_jobs, n_heads, hidden, n_classes).transpose(1, 2).flatten(2)  # all heads in one product
        return linear(inner, weight, bias.flatten(1)).view(n_jobs, -1, n_heads, n_classes)

    def gradient(params: Tensor, x: Tensor, y: Tensor, weight: Tensor, out: Tensor) -> None:
        n_jobs, n_heads = len(params), (params.shape[1] - trunk) // head
        parts, slopes = (torch.split(flat, [*sizes[:2], n_heads * head], 1) for flat in (params, out))
        x = x.flatten(2)
        inner = linear(x, parts[0].view(n_jobs, n_features, hidden), parts[1]).relu_()
        upper, bias = torch.split(parts[2].view(n_jobs, n_heads, head), list(sizes[2:]), 2)
        upper = upper.view(n_jobs, n_heads, hidden, n_classes).mT.flatten(1, 2)  # [J, K·L, hidden]
        logits = torch.baddbmm(bias.flatten(1).unsqueeze(2), upper, inner.mT).view(n_jobs, n_heads, n_classes, -1)
        shares = weight.mT.unsqueeze(2) / x.shape[1]  # [J, K, 1, B]
        slope = cross_entropy_backward(logits, y[:, None, None].expand(-1, n_heads, -1, -1), shares).flatten(1, 2)
        of_upper, of_bias = torch.split(slopes[2].view(n_jobs, n_heads, head), list(sizes[2:]), 2)
        products = torch.bmm(slope, inner).view(n_jobs, n_heads, n_classes, hidden)
        of_upper.view(n_jobs, n_heads, hidden, n_classes).copy_(products.mT)
        of_bias.copy_(slope.sum(2).view(n_jobs, n_heads, n_classes))
        below = torch.ops.aten.threshold_backward(torch.bmm(slope.mT, upper), inner, 0)  # of ReLU
        linear_backward(x, below, slopes[0].view(n_jobs, n_features, hidden), slopes[1])

    def init(generator: torch.Generator) -> Tensor:
        weight = init_linear(n_features, hidden, generator, math.sqrt(2.0)).flatten()
        output = init_linear(hidden, n_classes, generator, 0.5).flatten()
        return torch.cat([weight, torch.zeros(hidden), output, torch.zeros(n_classes)])

    return Expert(
        name="mlp",
        size=trunk + head,
        n_classes=n_classes,
        init=init,
        logits=lambda params, x: heads(params, x).squeeze(2),
        heads=heads,
        gradient=gradient,
        trunk=trunk,
        floats_per_row=2 * hidden + 3 * n_classes + n_features,
    )


def cnn(settings: ExpertSettings, schema: Schema) -> Expert:
    """Two strided 3×3 convolutions, then D' → hidden → L, for images of any size.

    Args:
        settings: `hidden` matters.
        schema: Of the rows.

    Returns:
        An expert whose last layer is the head.

    Raises:
        ConfigError: The rows are no images.
    """
    if schema.kind != "image":
        raise ConfigError(
            "a convolution needs images, and these data are a table", where="expert.name", fix='set expert.name = "mlp"'
        )
    n_channels, height, width = schema.shape
    inner = 32 * ((height + 3) // 4) * ((width + 3) // 4)
    return expert_from_module(
        lambda: nn.Sequential(
            nn.Conv2d(n_channels, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(inner, settings.hidden),
            nn.ReLU(),
            nn.Linear(settings.hidden, schema.n_outputs),
        ),
        schema,
        name="cnn",
    )


Maker = Callable[[ExpertSettings, Schema], Expert]
__all__ = ["EXPERTS", "Expert", "expert_from_module", "make_expert"]

EXPERTS: Table[Maker] = Table("expert", "experts", {"mlp": mlp, "cnn": cnn}, function_of_two)


def make_expert(settings: ExpertSettings, schema: Schema, own: Own = None) -> Expert:
    """The expert that the settings name, for rows and classes of this schema, or one of the user's own.

    Args:
        settings: `expert.*`.
        schema: Of the rows.
        own: A module, a function that makes one, or one that makes an `Expert`; None: the one that is named.

    Returns:
        The expert. With `expert.shared = "none"` it has no trunk.

    Raises:
        ConfigError: No expert has that name, or it cannot be used for such rows.
        UserError: The module cannot be used.
    """
    if own is not None:
        expert = own_expert(own, settings, schema)
    elif settings.name not in EXPERTS:
        raise unknown("expert", settings.name, EXPERTS, "expert.name")
    else:
        expert = EXPERTS[settings.name](settings, schema)
    if schema.task != "classification":  # gradients that are written out are those of the cross-entropy
        expert = replace(expert, head=HEADS[schema.task], gradient=None, by_job=False)
    return expert if settings.shared == "trunk" else replace(expert, trunk=0)
