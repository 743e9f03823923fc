"""One network for all components, of which each scales and shifts the hidden layers (FiLM)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fedgmi.data.rows import Schema
from fedgmi.models.backward import linear_backward
from fedgmi.models.densities.networks import Network, Parts, TwoLayers, mlp
from fedgmi.models.flat import linear
from fedgmi.settings.run import DensitySettings

OWN_START = 0.1
"""The deviation of γ and β at the start. Components that begin alike would stay so where densities are all the evidence
there is."""


class FilmLayers(TwoLayers):
    """I → hidden → O, whose hidden layer is SiLU((1 + γ_k)·h + β_k) (Perez et al. 2018, arXiv 1709.07871)."""

    @property
    def own(self) -> tuple[str, str]:
        """The names of γ and β, which each component has for itself: [J, 1, hidden] or [J, B, hidden]."""
        return f"{self.prefix}.gain", f"{self.prefix}.shift"

    def forward(self, parts: Parts, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """h, what goes into SiLU, and the output, of x [J, B, I]."""
        gain, shift = self.own
        inner = linear(x, parts[f"{self.prefix}_1.weight"], parts[f"{self.prefix}_1.bias"])
        moved = torch.addcmul(inner + parts[shift], inner, parts[gain])
        return inner, moved, linear(F.silu(moved), parts[f"{self.prefix}_2.weight"], parts[f"{self.prefix}_2.bias"])

    def backward(
        self, parts: Parts, slopes: dict[str, Tensor], x: Tensor, inner: Tensor, moved: Tensor, output: Tensor
    ) -> Tensor:
        """Write the gradients of the layers into the views in `slopes`, and put those of γ and β of each row there.

        Args:
            parts: The parameters.
            slopes: By name.
            x: The input. [J, B, I]
            inner: As `forward` gave it. [J, B, hidden]
            moved: As `forward` gave it. [J, B, hidden]
            output: The gradient of the output. [J, B, O]

        Returns:
            The gradient of h. [J, B, hidden]
        """
        (gain, shift), first, second = self.own, f"{self.prefix}_1", f"{self.prefix}_2"
        linear_backward(F.silu(moved), output, slopes[f"{second}.weight"], slopes[f"{second}.bias"])
        below = torch.bmm(output, parts[f"{second}.weight"].mT)
        slopes[shift] = torch.ops.aten.silu_backward(below, moved)
        slopes[gain] = slopes[shift] * inner
        slope: Tensor = torch.addcmul(slopes[shift], slopes[shift], parts[gain])
        linear_backward(x, slope, slopes[f"{first}.weight"], slopes[f"{first}.bias"])
        return slope


ENCODER, DECODER = FilmLayers("encode"), FilmLayers("decode")


def film_mlp(settings: DensitySettings, schema: Schema) -> Network:
    """The layers of `mlp`, and every γ and β.

    Args:
        settings: `hidden` and `latent` matter.
        schema: Of the rows.

    Returns:
        The network. What components have in common comes first.
    """
    plain, hidden = mlp(settings, schema), settings.hidden
    own = {name: (hidden,) for layers in (ENCODER, DECODER) for name in layers.own}

    def init(generator: torch.Generator) -> Tensor:
        start = OWN_START * torch.randn(len(own) * hidden, generator=generator)
        return torch.cat([plain.init(generator), start])

    return Network(
        shapes=plain.shapes | own,
        init=init,
        encode=lambda parts, x: ENCODER.forward(parts, x.flatten(2))[-1],
        decode=lambda parts, z: DECODER.forward(parts, z)[-1],
        floats_per_row=4 * hidden,
        layers=(ENCODER, DECODER),
    )
