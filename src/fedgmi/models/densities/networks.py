"""The encoders and decoders of a variational auto-encoder, lifted over jobs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedgmi.data.rows import Schema
from fedgmi.models.backward import linear_backward
from fedgmi.models.flat import FlatModule, Layout, init_linear, linear
from fedgmi.settings.run import DensitySettings

Parts = Mapping[str, Tensor]


@dataclass(frozen=True)
class TwoLayers:
    """I → hidden → O with SiLU between, which learns faster here than ReLU. It is batched by hand, which is faster than
    `vmap`.

    Attributes:
        prefix: Of its parameters' names.
    """

    prefix: str

    def forward(self, parts: Parts, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden layer before SiLU, hidden layer, output, of x [J, B, I]."""
        first, second = f"{self.prefix}_1", f"{self.prefix}_2"
        inner = linear(x, parts[f"{first}.weight"], parts[f"{first}.bias"])
        hidden = F.silu(inner)
        return inner, hidden, linear(hidden, parts[f"{second}.weight"], parts[f"{second}.bias"])

    def backward(
        self, parts: Parts, slopes: dict[str, Tensor], x: Tensor, inner: Tensor, hidden: Tensor, output: Tensor
    ) -> Tensor:
        """Write the gradients of the parameters into the views `slopes`.

        Args:
            parts: The parameters.
            slopes: Where their gradients go.
            x: The input. [J, B, I]
            inner: As `forward` gave it. [J, B, hidden]
            hidden: As `forward` gave it. [J, B, hidden]
            output: The gradient of the output. [J, B, O]

        Returns:
            The gradient of the first layer's output, before SiLU. [J, B, hidden]
        """
        first, second = f"{self.prefix}_1", f"{self.prefix}_2"
        linear_backward(hidden, output, slopes[f"{second}.weight"], slopes[f"{second}.bias"])
        below = torch.bmm(output, parts[f"{second}.weight"].mT)
        slope: Tensor = torch.ops.aten.silu_backward(below, inner)
        linear_backward(x, slope, slopes[f"{first}.weight"], slopes[f"{first}.bias"])
        return slope


@dataclass(frozen=True)
class Network:
    """An encoder and a decoder, lifted over jobs. `parts` are the parameters, split by name.

    Attributes:
        shapes: Shape of each parameter, by name.
        init: generator → fresh parameters [P].
        encode: parts, x [J, B, *shape] → mean and log variance side by side [J, B, 2Z].
        decode: parts, z [J, B, Z] → one number per feature [J, B, D].
        floats_per_row: Working memory that one row needs, in numbers of 4 bytes.
        layers: Encoder and decoder where their gradients are written out; None: autograd finds them.
    """

    shapes: dict[str, tuple[int, ...]]
    init: Callable[[torch.Generator], Tensor]
    encode: Callable[[Parts, Tensor], Tensor]
    decode: Callable[[Parts, Tensor], Tensor]
    floats_per_row: int
    layers: tuple[TwoLayers, TwoLayers] | None = None


def mlp(settings: DensitySettings, schema: Schema) -> Network:
    """D → hidden → 2Z, and Z → hidden → D.

    Args:
        settings: `hidden` and `latent` matter.
        schema: Of the rows.

    Returns:
        The network.
    """
    n_features, hidden, latent = schema.n_features, settings.hidden, settings.latent
    layers = {
        "encode_1": (n_features, hidden),
        "encode_2": (hidden, 2 * latent),
        "decode_1": (latent, hidden),
        "decode_2": (hidden, n_features),
    }
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (n_in, n_out) in layers.items():
        shapes |= {f"{name}.weight": (n_in, n_out), f"{name}.bias": (n_out,)}

    encoder, decoder = TwoLayers("encode"), TwoLayers("decode")

    def init(generator: torch.Generator) -> Tensor:
        tensors = {name: torch.zeros(shape) for name, shape in shapes.items()}
        for name, (n_in, n_out) in layers.items():
            gain = math.sqrt(2.0) if name.endswith("1") else 1.0
            tensors[f"{name}.weight"] = init_linear(n_in, n_out, generator, gain)
        return Layout(shapes).join(tensors)

    return Network(
        shapes=shapes,
        init=init,
        encode=lambda parts, x: encoder.forward(parts, x.flatten(2))[-1],
        decode=lambda parts, z: decoder.forward(parts, z)[-1],
        floats_per_row=2 * hidden,
        layers=(encoder, decoder),
    )


class ConvVae(nn.Module):
    """Two strided convolutions and a linear layer each way, for images of any size.

    Args:
        shape: Channels, height, width.
        hidden: Width of the linear layers.
        latent: Z.
        channels: Of the first convolution. The second has twice as many.
    """

    def __init__(self, shape: tuple[int, ...], hidden: int, latent: int, channels: int = 16) -> None:
        super().__init__()
        n_channels, height, width = shape
        self.shape = shape
        self.inner = (2 * channels, (height + 3) // 4, (width + 3) // 4)
        inner = math.prod(self.inner)
        self.down = nn.Sequential(
            nn.Conv2d(n_channels, channels, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1),
            nn.SiLU(),
        )
        self.to_latent = nn.Sequential(nn.Linear(inner, hidden), nn.SiLU(), nn.Linear(hidden, 2 * latent))
        self.from_latent = nn.Sequential(nn.Linear(latent, hidden), nn.SiLU(), nn.Linear(hidden, inner), nn.SiLU())
        self.up = nn.Sequential(
            nn.ConvTranspose2d(2 * channels, channels, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.ConvTranspose2d(channels, n_channels, 4, stride=2, padding=1),
        )

    def encode(self, x: Tensor) -> Tensor:
        """Mean and log variance of the code.

        Args:
            x: Images. [B, *shape]

        Returns:
            [B, 2Z]
        """
        output: Tensor = self.to_latent(self.down(x).flatten(1))
        return output

    def decode(self, z: Tensor) -> Tensor:
        """One number per feature. What four pixels of one code cover beyond the image is cut off.

        Args:
            z: Codes. [B, Z]

        Returns:
            [B, D]
        """
        image: Tensor = self.up(self.from_latent(z).unflatten(1, self.inner))
        return image[:, :, : self.shape[1], : self.shape[2]].flatten(1)


def conv(settings: DensitySettings, schema: Schema) -> Network:
    """`ConvVae` as a network.

    Args:
        settings: `hidden` and `latent` matter.
        schema: Of the rows, which are images.

    Returns:
        The network.
    """
    module = FlatModule(lambda: ConvVae(schema.shape, settings.hidden, settings.latent))
    shapes = module.layout.shapes

    def own(parts: Parts) -> Parts:
        return {name: parts[name] for name in shapes}

    return Network(
        shapes=shapes,
        init=module.init,
        encode=lambda parts, x: module.call("encode", own(parts), x),
        decode=lambda parts, z: module.call("decode", own(parts), z),
        floats_per_row=2 * settings.hidden + 64 * schema.n_features,
    )


NETWORKS: dict[str, Callable[[DensitySettings, Schema], Network]] = {"mlp": mlp, "conv": conv}
