"""A variational auto-encoder (Kingma & Welling 2014): its ELBO, in nats, stands for log p(x)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedgmi.config import DensitySettings
from fedgmi.data.federation import Schema
from fedgmi.densities.base import Density, rows_per_chunk
from fedgmi.errors import ConfigError
from fedgmi.flat import FlatModule, Layout, init_linear, linear

MIN_SCALE = 1e-2
"""The floor of the Gaussian likelihood's scale: without it a constant feature has unbounded density."""

SCALE_SPEED = 5.0
"""The log scale is this times its parameter: at the weights' own learning rate it would take hundreds of steps."""


Parts = Mapping[str, Tensor]


@dataclass(frozen=True)
class Network:
    """An encoder and a decoder, lifted over jobs; `parts` are the parameters, split by name.

    encode(parts, x [J, B, *shape]) → mean and log variance side by side [J, B, 2Z]
    decode(parts, z [J, B, Z]) → one number per feature [J, B, D]
    floats_per_row: working memory of one row
    """

    shapes: dict[str, tuple[int, ...]]
    init: Callable[[torch.Generator], Tensor]
    encode: Callable[[Parts, Tensor], Tensor]
    decode: Callable[[Parts, Tensor], Tensor]
    floats_per_row: int


def vae(settings: DensitySettings, schema: Schema) -> Density:
    """ELBO(x) = E_q log p(x|z) − KL(q(z|x) ‖ N(0, I)), q(z|x) = N(m(x), diag s²(x)), with z = m + s·noise.

    The KL is analytic. The likelihood is Bernoulli (cross-entropy on x in [0, 1]; for grey values a score rather
    than a density) or Gaussian with a learnt scale per feature, at least 1e-2. Samples are the decoder's means
    for Bernoulli (grey values, as the data are), and means plus noise for Gaussian.
    """
    _check(settings, schema)
    network = (_conv if settings.architecture == "conv" else _mlp)(settings, schema)
    likelihood = _bernoulli if settings.likelihood == "bernoulli" else _gaussian
    scale_shape: dict[str, tuple[int, ...]] = {} if likelihood is _bernoulli else {"scale": (schema.n_features,)}
    layout = Layout(network.shapes | scale_shape)

    def init(generator: torch.Generator) -> Tensor:
        weights = network.init(generator)
        return torch.cat([weights, torch.zeros(layout.size - len(weights))])

    def loss(params: Tensor, x: Tensor, noise: Tensor) -> Tensor:
        parts = layout.split(params)
        mean, log_variance = network.encode(parts, x).chunk(2, -1)
        z = mean + noise * (0.5 * log_variance).exp()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)
        return divergence - likelihood(parts, network.decode(parts, z), x.flatten(2))

    def weighted_bound(params: Tensor, x: Tensor, noise: Tensor) -> Tensor:
        """log mean_s p(x|z_s) p(z_s) / q(z_s|x): params [K, P], x [K, R, *shape], noise [R, S, Z] → [K, R]"""
        parts, (n_rows, n_samples) = layout.split(params), noise.shape[:2]
        mean, log_variance = network.encode(parts, x).unsqueeze(2).chunk(2, -1)  # [K, R, 1, Z]
        z = mean + noise * (0.5 * log_variance).exp()  # [K, R, S, Z]
        ratio = 0.5 * (noise.square() + log_variance - z.square()).sum(-1)  # [K, R, S] log p(z)/q(z|x); 2π cancels
        repeated = x.flatten(2).repeat_interleave(n_samples, dim=1)  # [K, R·S, D]
        evidence = likelihood(parts, network.decode(parts, z.flatten(1, 2)), repeated)
        return torch.logsumexp(evidence.view(len(params), n_rows, n_samples) + ratio, -1) - math.log(n_samples)

    @torch.no_grad()
    def log_prob(params: Tensor, x: Tensor, noise: Tensor) -> Tensor:
        n_samples, n_components = noise.shape[1], len(params)
        chunk = rows_per_chunk(n_components * n_samples * (3 * schema.n_features + network.floats_per_row))
        scores = [x.new_zeros(0, n_components)]
        for rows, drawn in zip(torch.split(x, chunk), torch.split(noise, chunk), strict=True):
            repeated = rows.expand(n_components, *rows.shape)
            if n_samples == 1:
                scores.append(-loss(params, repeated, drawn[:, 0].expand(n_components, -1, -1)).mT)
            else:
                scores.append(weighted_bound(params, repeated, drawn).mT)
        return torch.cat(scores)

    @torch.no_grad()
    def sample(params: Tensor, n: int, generator: torch.Generator) -> Tensor:
        parts = layout.split(params[None])
        z = torch.randn(1, n, settings.latent, generator=generator).to(params)
        output = network.decode(parts, z)[0]
        if likelihood is _bernoulli:
            return output.sigmoid().view(n, *schema.shape)
        noise = torch.randn(n, schema.n_features, generator=generator).to(params)
        return (output + _scale(parts) * noise).view(n, *schema.shape)

    return Density(settings.name, False, layout.size, settings.latent, init, loss, log_prob, sample)


def _bernoulli(parts: Parts, output: Tensor, x: Tensor) -> Tensor:
    """log p(x|z) from logits [J, B, D] and x [J, B, D] → [J, B]"""
    return -F.binary_cross_entropy_with_logits(output, x, reduction="none").sum(-1)


def _gaussian(parts: Parts, output: Tensor, x: Tensor) -> Tensor:
    """log p(x|z) from means [J, B, D] and x [J, B, D] → [J, B]"""
    scale = _scale(parts).unsqueeze(1)  # [J, 1, D]
    return -(0.5 * ((x - output) / scale).square() + scale.log() + 0.5 * math.log(2 * math.pi)).sum(-1)


def _scale(parts: Parts) -> Tensor:
    """[J, D]; starts at one, never below the floor."""
    return MIN_SCALE + (1 - MIN_SCALE) * (SCALE_SPEED * parts["scale"]).exp()


def _check(settings: DensitySettings, schema: Schema) -> None:
    if schema.kind == "tabular" and settings.architecture == "conv":
        raise ConfigError(
            "a convolution needs images, and these data are a table",
            where="density.architecture",
            fix='set density.architecture = "mlp"',
        )
    if schema.kind == "tabular" and settings.likelihood == "bernoulli":
        raise ConfigError(
            "the Bernoulli likelihood needs values in [0, 1], and these data are a table",
            where="density.likelihood",
            fix='set density.likelihood = "gaussian"',
        )


def _mlp(settings: DensitySettings, schema: Schema) -> Network:
    """D → hidden → 2Z, and Z → hidden → D. SiLU learns faster here than ReLU. Batched by hand: faster than `vmap`."""
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

    def two_layers(prefix: str, parts: Parts, x: Tensor) -> Tensor:
        first, second = f"{prefix}_1", f"{prefix}_2"
        inner = F.silu(linear(x, parts[f"{first}.weight"], parts[f"{first}.bias"]))
        return linear(inner, parts[f"{second}.weight"], parts[f"{second}.bias"])

    def init(generator: torch.Generator) -> Tensor:
        tensors = {name: torch.zeros(shape) for name, shape in shapes.items()}
        for name, (n_in, n_out) in layers.items():
            gain = math.sqrt(2.0) if name.endswith("1") else 1.0
            tensors[f"{name}.weight"] = init_linear(n_in, n_out, generator, gain)
        return Layout(shapes).join(tensors)

    return Network(
        shapes=shapes,
        init=init,
        encode=lambda parts, x: two_layers("encode", parts, x.flatten(2)),
        decode=lambda parts, z: two_layers("decode", parts, z),
        floats_per_row=2 * hidden,
    )


class ConvVae(nn.Module):
    """Two strided convolutions and a linear layer each way, for images of any size [channels, height, width]."""

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
        """x [B, *shape] → [B, 2Z]"""
        output: Tensor = self.to_latent(self.down(x).flatten(1))
        return output

    def decode(self, z: Tensor) -> Tensor:
        """z [B, Z] → [B, D]; what four pixels of one code cover beyond the image is cut off."""
        image: Tensor = self.up(self.from_latent(z).unflatten(1, self.inner))
        return image[:, :, : self.shape[1], : self.shape[2]].flatten(1)


def _conv(settings: DensitySettings, schema: Schema) -> Network:
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
