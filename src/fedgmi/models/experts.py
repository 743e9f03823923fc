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
from fedgmi.settings.effects import refuse_without_effect
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

    def features(params: Tensor, x: Tensor) -> Tensor:
        weight, bias = torch.split(params[:, :trunk], list(sizes[:2]), 1)
        return linear(x.flatten(2), weight.reshape(len(params), n_features, hidden), bias).relu()

    def heads(params: Tensor, x: Tensor) -> Tensor:
        n_jobs, n_heads = len(params), (params.shape[1] - trunk) // head
        inner, upper = features(params, x), params[:, trunk:]
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
        features=features,
        floats_per_row=2 * hidden + 3 * n_classes + n_features,
        layers=(trunk, head),
    )


def softmax_regression(settings: ExpertSettings, schema: Schema) -> Expert:
    """D → L: multinomial logistic regression, log p(y | x) = (x·W + b)_y up to a constant.

    W begins small and random, so that experts of a mixture differ from the start. b begins at 0.

    Args:
        settings: Nothing in them matters. There are no lower layers to share.
        schema: Of the rows.

    Returns:
        An expert without a trunk.

    Raises:
        ConfigError: For a setting that would be ignored.
    """
    refuse_without_effect(settings, "expert", ["hidden"], "a linear expert has no hidden layer")
    n_features, n_classes = schema.n_features, schema.n_classes
    sizes = [n_features * n_classes, n_classes]

    def heads(params: Tensor, x: Tensor) -> Tensor:
        weight, bias = torch.split(params.view(len(params), -1, sum(sizes)), sizes, 2)
        weight = weight.reshape(len(params), -1, n_features, n_classes)
        logits = torch.einsum("jbd,jkdl->jbkl", x.flatten(2), weight)
        return logits + bias.unsqueeze(1)

    def gradient(params: Tensor, x: Tensor, y: Tensor, weight: Tensor, out: Tensor) -> None:
        logits, x = heads(params, x).permute(0, 2, 3, 1), x.flatten(2)  # [J, K, L, B]
        shares = weight.mT.unsqueeze(2) / x.shape[1]  # [J, K, 1, B]
        slope = cross_entropy_backward(logits, y[:, None, None].expand(-1, logits.shape[1], -1, -1), shares)
        of_weight, of_bias = torch.split(out.view(len(params), -1, sum(sizes)), sizes, 2)
        of_weight.copy_(torch.einsum("jbd,jklb->jkdl", x, slope).flatten(2))
        of_bias.copy_(slope.sum(3))

    def init(generator: torch.Generator) -> Tensor:
        return torch.cat([init_linear(n_features, n_classes, generator, 0.1).flatten(), torch.zeros(n_classes)])

    return Expert(
        name="linear",
        size=sum(sizes),
        n_classes=n_classes,
        init=init,
        logits=lambda params, x: heads(params, x).squeeze(2),
        heads=heads,
        gradient=gradient,
        floats_per_row=3 * n_classes + n_features,
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

OWN: dict[str, Maker] = {"mlp": mlp, "cnn": cnn, "linear": softmax_regression}
EXPERTS: Table[Maker] = Table("expert", "experts", OWN, function_of_two)


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
    else:
        name = ("cnn" if schema.colour else "mlp") if settings.name == "auto" else settings.name
        if name not in EXPERTS:
            raise unknown("expert", name, EXPERTS, "expert.name")
        expert = EXPERTS[name](settings, schema)
    if schema.task != "classification":  # gradients that are written out are those of the cross-entropy
        expert = replace(expert, head=HEADS[schema.task], gradient=None, by_job=False)
    return expert if settings.shared == "trunk" else replace(expert, trunk=0)
