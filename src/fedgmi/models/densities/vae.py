"""A variational auto-encoder (Kingma & Welling 2014). Its ELBO, in nats, stands for log p(x)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fedgmi.data.rows import Schema
from fedgmi.errors import ConfigError
from fedgmi.models.densities.networks import NETWORKS, Network, Parts, film_mlp
from fedgmi.models.density import Density, rows_per_chunk
from fedgmi.models.flat import Layout
from fedgmi.settings.run import DensitySettings

MIN_SCALE = 1e-2
"""The floor of the Gaussian likelihood's scale. Without it a constant feature would have unbounded density."""

SCALE_SPEED = 5.0
"""The log scale is this times its parameter. At the weights' own learning rate it would take hundreds of steps."""

MAX_LOG_VARIANCE = 5.0
"""Of the code: q(z|x) is at most 12 times as wide as the prior, where a sensible one is narrower. For a row far from
all others an encoder extrapolates, and exp would run out of float32."""

LONGEST_GRADIENT = 3.0
"""Under the Gaussian likelihood. One row 35 deviations out otherwise makes a step for all."""


def vae(settings: DensitySettings, schema: Schema) -> Density:
    """ELBO(x) = E_q log p(x|z) − KL(q(z|x) ‖ p(z)), q(z|x) = N(m(x), diag s²(x)), with z = m + s·noise.

    The prior p(z) is N(0, I). The KL is analytic. The likelihood is either of two. Bernoulli is the cross-entropy on x
    in [0, 1]. For grey values it is a score rather than a density. Gaussian has a learnt scale per feature, at least
    1e-2. Samples are the decoder's means for Bernoulli (grey values, as the data are), and means plus noise for
    Gaussian.

    With `density.shared = "trunk"` all components are one network. A component's own part scales and shifts the hidden
    layers (FiLM, Perez et al. 2018, arXiv 1709.07871), and has a prior p(z) = N(μ_k, diag τ_k²) and a scale of its own.

    Args:
        settings: `density.*`.
        schema: Of the rows.

    Returns:
        A density that is a bound.

    Raises:
        ConfigError: The architecture or the likelihood does not suit such rows, or there is no trunk to share.
    """
    _check(settings, schema)
    by_channels = "conv" if schema.colour else "mlp"
    architecture = by_channels if settings.architecture == "auto" else settings.architecture
    shared = settings.shared == "trunk"
    if shared and architecture != "mlp":
        raise ConfigError(
            f"components cannot share a trunk where the architecture is {architecture}",
            where="density.shared",
            fix='set density.shared = "none", or density.architecture = "mlp"',
        )
    network = film_mlp(settings, schema) if shared else NETWORKS[architecture](settings, schema)
    by_kind = "bernoulli" if schema.kind == "image" else "gaussian"
    bernoulli = (by_kind if settings.likelihood == "auto" else settings.likelihood) == "bernoulli"
    of_scale: dict[str, tuple[int, ...]] = {} if bernoulli else {"scale": (schema.n_features,)}
    prior = {"prior_mean": (settings.latent,), "prior_log_variance": (settings.latent,)} if shared else {}
    made = Vae(network, Layout(network.shapes | prior | of_scale), bernoulli, settings.latent, schema)
    return Density(
        name=settings.name,
        exact=False,
        size=made.layout.size,
        noise_size=settings.latent,
        init=made.init,
        loss=made.loss,
        log_prob=made.log_prob,
        sample=made.sample,
        gradient=made.gradient if network.layers else None,
        longest=None if bernoulli else LONGEST_GRADIENT,
        trunk=network.trunk,
        loss_of=made.loss_of if shared else None,
        layers=made.layout.layers,
    )


@dataclass(frozen=True)
class Vae:
    """What a VAE does with flat parameters [J, P].

    Attributes:
        network: Encoder and decoder.
        layout: Of the parameters: the network's, then the prior's where components share a trunk, and the scale's.
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
        return self._loss(self._by_row(self.layout.split(params)), x, noise)

    def loss_of(self, params: Tensor, x: Tensor, noise: Tensor, component: Tensor) -> Tensor:
        """See `Density.loss_of`."""
        trunk, own = self.network.trunk, self.layout.size - self.network.trunk
        parts = params[:, trunk:].view(len(params), -1, own)
        of_rows = parts.gather(1, component[:, :, None].expand(-1, -1, own))  # [J, B, H]
        shapes = self.layout.shapes
        common = Layout({name: shapes[name] for name in self.network.common}).split(params[:, :trunk])
        rest = Layout({name: shapes[name] for name in shapes if name not in common}).split(of_rows)
        return self._loss(common | rest, x, noise)

    def gradient(self, params: Tensor, x: Tensor, noise: Tensor, out: Tensor) -> None:
        """Of mean_B (KL − log p(x|z)): back through the decoder to z, then through the encoder."""
        assert self.network.layers is not None
        (encoder, decoder), parts, slopes = self.network.layers, self.layout.split(params), self.layout.split(out)
        x, share = x.flatten(2), 1.0 / x.shape[1]
        inner, hidden, code = encoder.forward(parts, x)
        mean, log_variance = _code(code)
        spread = noise * (0.5 * log_variance).exp()
        z = mean + spread
        inner_z, hidden_z, output = decoder.forward(parts, z)
        likelihood_slope = _bernoulli_slope if self.bernoulli else _gaussian_slope
        slope = likelihood_slope(parts, slopes, output, x, share)
        below = decoder.backward(parts, slopes, z, inner_z, hidden_z, slope)
        of_z = torch.bmm(below, parts["decode_1.weight"].mT)
        of_log_variance = 0.5 * (of_z * spread + share * (log_variance.exp() - 1))
        of_log_variance.masked_fill_(log_variance >= MAX_LOG_VARIANCE, 0.0)
        encoder.backward(parts, slopes, x, inner, hidden, torch.cat([of_z + share * mean, of_log_variance], -1))

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
        parts = self._by_row(self.layout.split(params[None]))
        mean, log_variance = self._prior(parts)
        noise = torch.randn(1, n, self.latent, generator=generator).to(params)
        output = self.network.decode(parts, mean + (0.5 * log_variance).exp() * noise)[0]
        if self.bernoulli:
            return output.sigmoid().view(n, *self.schema.shape)
        noise = torch.randn(n, self.schema.n_features, generator=generator).to(params)
        return (output + _scale(parts)[0] * noise).view(n, *self.schema.shape)

    def _loss(self, parts: Parts, x: Tensor, noise: Tensor) -> Tensor:
        """KL − log p(x|z) of rows x [J, B, *shape]; what is each component's own has an axis of rows. [J, B]"""
        mean, log_variance = _code(self.network.encode(parts, x))
        z = mean + noise * (0.5 * log_variance).exp()
        centre, log_width = self._prior(parts)
        moved = ((mean - centre).square() + log_variance.exp()) * (-log_width).exp()
        divergence = 0.5 * (moved - 1 - log_variance + log_width).sum(-1)
        return divergence - self._likelihood(parts, self.network.decode(parts, z), x.flatten(2))

    def _weighted_bound(self, params: Tensor, x: Tensor, noise: Tensor) -> Tensor:
        """log mean_s p(x|z_s) p(z_s) / q(z_s|x): params [K, P], x [K, R, *shape], noise [R, S, Z] → [K, R]"""
        parts, (n_rows, n_samples) = self._by_row(self.layout.split(params)), noise.shape[:2]
        mean, log_variance = _code(self.network.encode(parts, x).unsqueeze(2))  # [K, R, 1, Z]
        z = mean + noise * (0.5 * log_variance).exp()  # [K, R, S, Z]
        centre, log_width = (part[:, :, None] for part in self._prior(parts))  # [K, 1, 1, Z]; 2π cancels
        of_prior = (z - centre).square() * (-log_width).exp() + log_width
        ratio = 0.5 * (noise.square() + log_variance - of_prior).sum(-1)  # [K, R, S] log p(z)/q(z|x)
        repeated = x.flatten(2).repeat_interleave(n_samples, dim=1)  # [K, R·S, D]
        evidence = self._likelihood(parts, self.network.decode(parts, z.flatten(1, 2)), repeated)
        return torch.logsumexp(evidence.view(len(params), n_rows, n_samples) + ratio, -1) - math.log(n_samples)

    def _likelihood(self, parts: Parts, output: Tensor, x: Tensor) -> Tensor:
        """log p(x|z). [J, B]"""
        return (_bernoulli if self.bernoulli else _gaussian)(parts, output, x)

    def _by_row(self, parts: Parts) -> Parts:
        """What each component has for itself, with an axis for the rows, all of which are of that component."""
        return {name: part if name in self.network.common else part.unsqueeze(1) for name, part in parts.items()}

    def _prior(self, parts: Parts) -> tuple[Tensor, Tensor]:
        """Mean and log variance of p(z). [J, B, Z], or of a single row"""
        if "prior_mean" in parts:
            return parts["prior_mean"], parts["prior_log_variance"]
        zero = next(iter(parts.values())).new_zeros(1, 1, self.latent)
        return zero, zero


def _code(encoded: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log variance of the code, from the encoder's output [..., 2Z] → [..., Z] each"""
    mean, log_variance = encoded.chunk(2, -1)
    return mean, log_variance.clamp(max=MAX_LOG_VARIANCE)


def _bernoulli(parts: Parts, output: Tensor, x: Tensor) -> Tensor:
    """log p(x|z) from logits [J, B, D] and x [J, B, D] → [J, B]"""
    return -F.binary_cross_entropy_with_logits(output, x, reduction="none").sum(-1)


def _bernoulli_slope(parts: Parts, slopes: Parts, output: Tensor, x: Tensor, share: float) -> Tensor:
    """The gradient of −share · log p(x|z) by the logits, whose memory it takes. [J, B, D]"""
    return output.sigmoid_().sub_(x).mul_(share)


def _gaussian(parts: Parts, output: Tensor, x: Tensor) -> Tensor:
    """log p(x|z) from means [J, B, D] and x [J, B, D] → [J, B]"""
    scale = _scale(parts)  # [J, 1, D], or of each row
    return -(0.5 * ((x - output) / scale).square() + scale.log() + 0.5 * math.log(2 * math.pi)).sum(-1)


def _gaussian_slope(parts: Parts, slopes: Parts, output: Tensor, x: Tensor, share: float) -> Tensor:
    """The gradient of −share · log p(x|z) by the means [J, B, D]; that of the scale goes into `slopes`."""
    scale = _scale(parts).unsqueeze(1)  # [J, 1, D]
    distance = (output - x) / scale
    of_scale = share * ((1 - distance.square()) / scale).sum(1)  # [J, D]
    slopes["scale"].copy_(of_scale * (scale.squeeze(1) - MIN_SCALE) * SCALE_SPEED)
    return distance.div_(scale).mul_(share)


def _scale(parts: Parts) -> Tensor:
    """[…, D]; starts at one, never below the floor."""
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
