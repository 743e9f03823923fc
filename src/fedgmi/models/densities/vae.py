"""A variational auto-encoder (Kingma & Welling 2014). Its ELBO, in nats, stands for log p(x)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from fedgmi.data.rows import Schema
from fedgmi.errors import ConfigError
from fedgmi.models.densities.networks import NETWORKS, Parts
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
    """ELBO(x) = E_q log p(x|z) − KL(q(z|x) ‖ N(0, I)), q(z|x) = N(m(x), diag s²(x)), with z = m + s·noise.

    The KL is analytic. The likelihood is either of two. Bernoulli is the cross-entropy on x in [0, 1]. For grey values
    it is a score rather than a density. Gaussian has a learnt scale per feature, at least 1e-2. Samples are the
    decoder's means for Bernoulli (grey values, as the data are), and means plus noise for Gaussian.

    Args:
        settings: `density.*`.
        schema: Of the rows.

    Returns:
        A density that is a bound.

    Raises:
        ConfigError: The architecture or the likelihood does not suit such rows.
    """
    _check(settings, schema)
    by_channels = "conv" if schema.colour else "mlp"
    network = NETWORKS[by_channels if settings.architecture == "auto" else settings.architecture](settings, schema)
    by_kind = "bernoulli" if schema.kind == "image" else "gaussian"
    chosen = by_kind if settings.likelihood == "auto" else settings.likelihood
    likelihood = _bernoulli if chosen == "bernoulli" else _gaussian
    likelihood_slope = _bernoulli_slope if chosen == "bernoulli" else _gaussian_slope
    scale_shape: dict[str, tuple[int, ...]] = {} if likelihood is _bernoulli else {"scale": (schema.n_features,)}
    layout = Layout(network.shapes | scale_shape)

    def init(generator: torch.Generator) -> Tensor:
        weights = network.init(generator)
        return torch.cat([weights, torch.zeros(layout.size - len(weights))])

    def loss(params: Tensor, x: Tensor, noise: Tensor) -> Tensor:
        parts = layout.split(params)
        mean, log_variance = _code(network.encode(parts, x))
        z = mean + noise * (0.5 * log_variance).exp()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)
        return divergence - likelihood(parts, network.decode(parts, z), x.flatten(2))

    def gradient(params: Tensor, x: Tensor, noise: Tensor, out: Tensor) -> None:
        """Of mean_B (KL − log p(x|z)): back through the decoder to z, then through the encoder."""
        assert network.layers is not None
        (encoder, decoder), parts, slopes = network.layers, layout.split(params), layout.split(out)
        x, share = x.flatten(2), 1.0 / x.shape[1]
        inner, hidden, code = encoder.forward(parts, x)
        mean, log_variance = _code(code)
        spread = noise * (0.5 * log_variance).exp()
        z = mean + spread
        inner_z, hidden_z, output = decoder.forward(parts, z)
        slope = likelihood_slope(parts, slopes, output, x, share)
        below = decoder.backward(parts, slopes, z, inner_z, hidden_z, slope)
        of_z = torch.bmm(below, parts["decode_1.weight"].mT)
        of_log_variance = 0.5 * (of_z * spread + share * (log_variance.exp() - 1))
        of_log_variance.masked_fill_(log_variance >= MAX_LOG_VARIANCE, 0.0)
        encoder.backward(parts, slopes, x, inner, hidden, torch.cat([of_z + share * mean, of_log_variance], -1))

    def weighted_bound(params: Tensor, x: Tensor, noise: Tensor) -> Tensor:
        """log mean_s p(x|z_s) p(z_s) / q(z_s|x): params [K, P], x [K, R, *shape], noise [R, S, Z] → [K, R]"""
        parts, (n_rows, n_samples) = layout.split(params), noise.shape[:2]
        mean, log_variance = _code(network.encode(parts, x).unsqueeze(2))  # [K, R, 1, Z]
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

    return Density(
        name=settings.name,
        exact=False,
        size=layout.size,
        noise_size=settings.latent,
        init=init,
        loss=loss,
        log_prob=log_prob,
        sample=sample,
        gradient=gradient if network.layers else None,
        longest=LONGEST_GRADIENT if likelihood is _gaussian else None,
        layers=layout.layers,
    )


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
    scale = _scale(parts).unsqueeze(1)  # [J, 1, D]
    return -(0.5 * ((x - output) / scale).square() + scale.log() + 0.5 * math.log(2 * math.pi)).sum(-1)


def _gaussian_slope(parts: Parts, slopes: Parts, output: Tensor, x: Tensor, share: float) -> Tensor:
    """The gradient of −share · log p(x|z) by the means [J, B, D]; that of the scale goes into `slopes`."""
    scale = _scale(parts).unsqueeze(1)  # [J, 1, D]
    distance = (output - x) / scale
    of_scale = share * ((1 - distance.square()) / scale).sum(1)  # [J, D]
    slopes["scale"].copy_(of_scale * (scale.squeeze(1) - MIN_SCALE) * SCALE_SPEED)
    return distance.div_(scale).mul_(share)


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
