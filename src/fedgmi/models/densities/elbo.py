"""What a variational auto-encoder does with flat parameters: the ELBO, its gradient, scores and samples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fedgmi.data.rows import Schema
from fedgmi.models.densities.networks import Network, Parts
from fedgmi.models.density import rows_per_chunk
from fedgmi.models.flat import Layout

MIN_SCALE = 1e-2
"""The floor of the Gaussian likelihood's scale. Without it a constant feature would have unbounded density."""

SCALE_SPEED = 5.0
"""The log scale is this times its parameter. At the weights' own learning rate it would take hundreds of steps."""

MAX_LOG_VARIANCE = 5.0
"""Of the code: q(z|x) is at most 12 times as wide as the prior, where a sensible one is narrower. For a row far from
all others an encoder extrapolates, and exp would run out of float32."""


@dataclass(frozen=True)
class Vae:
    """What a VAE does with flat parameters [J, P].

    Attributes:
        network: Encoder and decoder.
        layout: Of the parameters: the network's, the prior's where each component has one, and the scale's.
        bernoulli: Whether that is the likelihood; else it is Gaussian.
        latent: Z.
        schema: Of the rows.
    """

    network: Network
    layout: Layout
    bernoulli: bool
    latent: int
    schema: Schema

    def init(self, generator: torch.Generator) -> Tensor:
        """Fresh parameters. [P]"""
        weights = self.network.init(generator)
        return torch.cat([weights, torch.zeros(self.layout.size - len(weights))])

    def loss(self, params: Tensor, x: Tensor, noise: Tensor) -> Tensor:
        """See `Density.loss`."""
        return self.loss_by_parts(self.parts_of(params), x, noise)

    def gradient(self, params: Tensor, x: Tensor, noise: Tensor, out: Tensor) -> None:
        """Of mean_B (KL − log p(x|z)); see `Density.gradient`."""
        slopes = self.layout.split(out)
        scale = slopes.get("scale")
        self.backward(self.parts_of(params), slopes, x, noise)
        if scale is not None:
            torch.sum(slopes["scale"], 1, out=scale)

    def backward(self, parts: Parts, slopes: dict[str, Tensor], x: Tensor, noise: Tensor) -> None:
        """Back through the decoder to z, then through the encoder.

        Args:
            parts: The parameters, as `loss_by_parts` takes them.
            slopes: By name, views into which the layers' gradients are written. Those of what `likelihood` and `prior`
                read are put there, of each row by itself.
            x: Rows. [J, B, *shape]
            noise: [J, B, Z]
        """
        assert self.network.layers is not None
        (encoder, decoder), x, share = self.network.layers, x.flatten(2), 1.0 / x.shape[1]
        inner, hidden, code = encoder.forward(parts, x)
        mean, log_variance = code_of(code)
        spread = noise * (0.5 * log_variance).exp()
        z = mean + spread
        inner_z, hidden_z, output = decoder.forward(parts, z)
        if self.bernoulli:
            slope = bernoulli_slope(output, x, share)
        else:
            slope, slopes["scale"] = gaussian_slope(parts, output, x, share)
        below = decoder.backward(parts, slopes, z, inner_z, hidden_z, slope)
        of_z = torch.bmm(below, parts["decode_1.weight"].mT)
        of_mean, of_log_variance = self.divergence_slopes(parts, slopes, mean, log_variance, share)
        of_log_variance += 0.5 * of_z * spread
        of_log_variance.masked_fill_(log_variance >= MAX_LOG_VARIANCE, 0.0)
        encoder.backward(parts, slopes, x, inner, hidden, torch.cat([of_z + of_mean, of_log_variance], -1))

    def divergence_slopes(
        self, parts: Parts, slopes: dict[str, Tensor], mean: Tensor, log_variance: Tensor, share: float
    ) -> tuple[Tensor, Tensor]:
        """The gradients of share · KL by the code's mean and log variance. [J, B, Z]; a prior's go to `slopes`."""
        return share * mean, 0.5 * share * (log_variance.exp() - 1)

    @torch.no_grad()
    def log_prob(self, params: Tensor, x: Tensor, noise: Tensor) -> Tensor:
        """See `Density.log_prob`."""
        n_samples, n_components = noise.shape[1], len(params)
        chunk = rows_per_chunk(n_components * n_samples * (3 * self.schema.n_features + self.network.floats_per_row))
        scores = [x.new_zeros(0, n_components)]
        for rows, drawn in zip(torch.split(x, chunk), torch.split(noise, chunk), strict=True):
            repeated = rows.expand(n_components, *rows.shape)
            if n_samples == 1:
                scores.append(-self.loss(params, repeated, drawn[:, 0].expand(n_components, -1, -1)).mT)
            else:
                scores.append(self._weighted_bound(params, repeated, drawn).mT)
        return torch.cat(scores)

    @torch.no_grad()
    def sample(self, params: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """See `Density.sample`."""
        parts = self.parts_of(params[None])
        mean, log_variance = self.prior(parts)
        noise = torch.randn(1, n, self.latent, generator=generator).to(params)
        output = self.network.decode(parts, mean + (0.5 * log_variance).exp() * noise)[0]
        if self.bernoulli:
            return output.sigmoid().view(n, *self.schema.shape)
        noise = torch.randn(n, self.schema.n_features, generator=generator).to(params)
        return (output + scale_of(parts)[0] * noise).view(n, *self.schema.shape)

    def loss_by_parts(self, parts: Parts, x: Tensor, noise: Tensor) -> Tensor:
        """KL − log p(x|z) of rows x [J, B, *shape]; what is each component's own has an axis of rows. [J, B]"""
        mean, log_variance = code_of(self.network.encode(parts, x))
        z = mean + noise * (0.5 * log_variance).exp()
        centre, log_width = self.prior(parts)
        moved = ((mean - centre).square() + log_variance.exp()) * (-log_width).exp()
        divergence = 0.5 * (moved - 1 - log_variance + log_width).sum(-1)
        return divergence - self.likelihood(parts, self.network.decode(parts, z), x.flatten(2))

    def _weighted_bound(self, params: Tensor, x: Tensor, noise: Tensor) -> Tensor:
        """log mean_s p(x|z_s) p(z_s) / q(z_s|x): params [K, P], x [K, R, *shape], noise [R, S, Z] → [K, R]"""
        parts, (n_rows, n_samples) = self.parts_of(params), noise.shape[:2]
        mean, log_variance = code_of(self.network.encode(parts, x).unsqueeze(2))  # [K, R, 1, Z]
        z = mean + noise * (0.5 * log_variance).exp()  # [K, R, S, Z]
        centre, log_width = (part[:, :, None] for part in self.prior(parts))  # [K, 1, 1, Z]; 2π cancels
        of_prior = (z - centre).square() * (-log_width).exp() + log_width
        ratio = 0.5 * (noise.square() + log_variance - of_prior).sum(-1)  # [K, R, S] log p(z)/q(z|x)
        repeated = x.flatten(2).repeat_interleave(n_samples, dim=1)  # [K, R·S, D]
        evidence = self.likelihood(parts, self.network.decode(parts, z.flatten(1, 2)), repeated)
        return torch.logsumexp(evidence.view(len(params), n_rows, n_samples) + ratio, -1) - math.log(n_samples)

    def likelihood(self, parts: Parts, output: Tensor, x: Tensor) -> Tensor:
        """log p(x|z). [J, B]"""
        return (bernoulli if self.bernoulli else gaussian)(parts, output, x)

    def parts_of(self, params: Tensor) -> Parts:
        """The parameters by name. What `likelihood` and `prior` read has an axis of rows. [J, …]"""
        parts = self.layout.split(params)
        return parts | {name: parts[name].unsqueeze(1) for name in ("scale",) if name in parts}

    def prior(self, parts: Parts) -> tuple[Tensor, Tensor]:
        """Mean and log variance of p(z), one for all rows or one for each. [J, B, Z]"""
        zero = next(iter(parts.values())).new_zeros(1, 1, self.latent)
        return zero, zero


def code_of(encoded: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log variance of the code, from the encoder's output [..., 2Z] → [..., Z] each"""
    mean, log_variance = encoded.chunk(2, -1)
    return mean, log_variance.clamp(max=MAX_LOG_VARIANCE)


def bernoulli(parts: Parts, output: Tensor, x: Tensor) -> Tensor:
    """log p(x|z) from logits [J, B, D] and x [J, B, D] → [J, B]"""
    return -F.binary_cross_entropy_with_logits(output, x, reduction="none").sum(-1)


def bernoulli_slope(output: Tensor, x: Tensor, share: float) -> Tensor:
    """The gradient of −share · log p(x|z) by the logits, whose memory it takes. [J, B, D]"""
    return output.sigmoid_().sub_(x).mul_(share)


def gaussian(parts: Parts, output: Tensor, x: Tensor) -> Tensor:
    """log p(x|z) from means [J, B, D] and x [J, B, D] → [J, B]"""
    scale = scale_of(parts)  # [J, 1, D], or of each row
    return -(0.5 * ((x - output) / scale).square() + scale.log() + 0.5 * math.log(2 * math.pi)).sum(-1)


def gaussian_slope(parts: Parts, output: Tensor, x: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """The gradient of −share · log p(x|z) by the means and by each row's scale, both [J, B, D]."""
    scale = scale_of(parts)  # [J, 1, D], or of each row
    distance = (output - x) / scale
    of_scale = (1 - distance.square()) * (share * SCALE_SPEED * (scale - MIN_SCALE) / scale)
    return distance.div_(scale).mul_(share), of_scale


def scale_of(parts: Parts) -> Tensor:
    """[…, D]; starts at one, never below the floor."""
    return MIN_SCALE + (1 - MIN_SCALE) * (SCALE_SPEED * parts["scale"]).exp()
