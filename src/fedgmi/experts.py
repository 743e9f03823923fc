"""Experts: the model of one component's p(y | x)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedgmi.config import ExpertSettings
from fedgmi.data.federation import Schema
from fedgmi.densities.base import rows_per_chunk
from fedgmi.errors import ConfigError, unknown
from fedgmi.flat import FlatModule, Layout, init_linear, linear


@dataclass(frozen=True)
class Expert:
    """A classifier with flat parameters [P] and L classes, lifted over jobs.

    init(generator) → [P] · logits(params [J, P], x [J, B, *shape]) → [J, B, L]
    """

    name: str
    size: int
    n_classes: int
    init: Callable[[torch.Generator], Tensor]
    logits: Callable[[Tensor, Tensor], Tensor]
    floats_per_row: int = field(default=4096, repr=False)

    def loss(self, params: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy −log p(y|x) in nats: params [J, P], x [J, B, *shape], y [J, B] → [J, B]."""
        logits = self.logits(params, x)
        return F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").view(y.shape)

    @torch.no_grad()
    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """log p_k(y|x) of every class, no gradient: params [K, P], x [R, *shape] → [R, K, L]."""
        parts = [x.new_zeros(0, len(params), self.n_classes)]
        for rows in torch.split(x, rows_per_chunk(self.floats_per_row * len(params))):
            logits = self.logits(params, rows.expand(len(params), *rows.shape))
            parts.append(logits.log_softmax(-1).transpose(0, 1))
        return torch.cat(parts)


def mlp(settings: ExpertSettings, schema: Schema) -> Expert:
    """D → hidden → L with ReLU. Batched by hand: faster than `vmap`."""
    hidden, n_features, n_classes = settings.hidden, schema.n_features, schema.n_classes
    layout = Layout(
        {
            "hidden.weight": (n_features, hidden),
            "hidden.bias": (hidden,),
            "output.weight": (hidden, n_classes),
            "output.bias": (n_classes,),
        }
    )

    def logits(params: Tensor, x: Tensor) -> Tensor:
        part = layout.split(params)
        inner = linear(x.flatten(2), part["hidden.weight"], part["hidden.bias"]).relu()
        return linear(inner, part["output.weight"], part["output.bias"])

    def init(generator: torch.Generator) -> Tensor:
        tensors = {name: torch.zeros(shape) for name, shape in layout.shapes.items()}
        tensors["hidden.weight"] = init_linear(n_features, hidden, generator, math.sqrt(2.0))
        tensors["output.weight"] = init_linear(hidden, n_classes, generator, 0.5)
        return layout.join(tensors)

    return Expert("mlp", layout.size, n_classes, init, logits, 2 * hidden + 3 * n_classes + n_features)


def cnn(settings: ExpertSettings, schema: Schema) -> Expert:
    """Two strided 3×3 convolutions, then D' → hidden → L, for images of any size."""
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
            nn.Linear(settings.hidden, schema.n_classes),
        ),
        schema,
        name="cnn",
    )


EXPERTS: dict[str, Callable[[ExpertSettings, Schema], Expert]] = {"mlp": mlp, "cnn": cnn}


def make_expert(settings: ExpertSettings, schema: Schema) -> Expert:
    """The expert that the settings name, for rows and classes of this schema."""
    if settings.name not in EXPERTS:
        raise unknown("expert", settings.name, EXPERTS, "expert.name")
    return EXPERTS[settings.name](settings, schema)


def expert_from_module(make: Callable[[], nn.Module], schema: Schema, name: str = "custom") -> Expert:
    """Any classifier of the user's: `make()` builds an `nn.Module` from x [B, *shape] to logits [B, L].

    >>> schema = Schema(shape=(4,), n_classes=3, kind="tabular")
    >>> expert_from_module(lambda: nn.Linear(4, 3), schema).size
    15
    """
    module = FlatModule(make)
    with torch.no_grad():
        logits = module(torch.zeros(1, module.size), torch.zeros(1, 2, *schema.shape))
    if logits.shape != (1, 2, schema.n_classes):
        raise ConfigError(
            f"the module turns 2 rows into {tuple(logits.shape[1:])}, not (2, {schema.n_classes})",
            where="expert",
            fix=f"end it with one logit for each of the {schema.n_classes} classes",
        )
    return Expert(name, module.size, schema.n_classes, module.init, module, 32 * schema.n_features + 4096)
