"""A variational auto-encoder (Kingma & Welling 2014). Its ELBO, in nats, stands for log p(x)."""

from __future__ import annotations

from dataclasses import replace

from fedgmi.data.rows import Schema
from fedgmi.errors import ConfigError
from fedgmi.models.densities.elbo import Vae
from fedgmi.models.densities.film import film_mlp
from fedgmi.models.densities.networks import NETWORKS
from fedgmi.models.densities.one_network import OneNetwork
from fedgmi.models.density import Density
from fedgmi.models.flat import Layout
from fedgmi.settings.run import DensitySettings

LONGEST_GRADIENT = 3.0
"""Under the Gaussian likelihood. One row 35 deviations out otherwise makes a step for all."""


def vae(settings: DensitySettings, schema: Schema) -> Density:
    """ELBO(x) = E_q log p(x|z) − KL(q(z|x) ‖ p(z)), q(z|x) = N(m(x), diag s²(x)), with z = m + s·noise.

    The prior p(z) is N(0, I). The KL is analytic. The likelihood is either of two. Bernoulli is the cross-entropy on x
    in [0, 1]. For grey values it is a score rather than a density. Gaussian has a learnt scale per feature, at least
    1e-2. Samples are the decoder's means for Bernoulli (grey values, as the data are), and means plus noise for
    Gaussian.

    Where the networks are MLPs, all components have one encoder and one decoder, unless `density.shared = "none"`. A
    component's own part is small: it scales and shifts the hidden layers (see `film`), and has a prior
    N(μ_k, diag τ_k²) and a scale.

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
    shared = settings.shared == "trunk" or (settings.shared == "auto" and architecture == "mlp")
    if shared and architecture != "mlp":
        raise ConfigError(
            f"components cannot share a trunk where the architecture is {architecture}",
            where="density.shared",
            fix='set density.shared = "none", or density.architecture = "mlp"',
        )
    by_kind = "bernoulli" if schema.kind == "image" else "gaussian"
    bernoulli = (by_kind if settings.likelihood == "auto" else settings.likelihood) == "bernoulli"
    scale: dict[str, tuple[int, ...]] = {} if bernoulli else {"scale": (schema.n_features,)}
    if shared:
        network = film_mlp(settings, schema)
        prior = {"prior_mean": (settings.latent,), "prior_log_variance": (settings.latent,)}
        one = OneNetwork(network, Layout(network.shapes | prior | scale), bernoulli, settings.latent, schema)
        return replace(_density(settings.name, one), trunk=one.trunk, loss_of=one.loss_of, gradient_of=one.gradient_of)
    network = NETWORKS[architecture](settings, schema)
    made = Vae(network, Layout(network.shapes | scale), bernoulli, settings.latent, schema)
    return replace(_density(settings.name, made), gradient=made.gradient if network.layers else None)


def _density(name: str, made: Vae) -> Density:
    """A VAE as a density of the table."""
    return Density(
        name=name,
        exact=False,
        size=made.layout.size,
        noise_size=made.latent,
        init=made.init,
        loss=made.loss,
        log_prob=made.log_prob,
        sample=made.sample,
        longest=None if made.bernoulli else LONGEST_GRADIENT,
        layers=made.layout.layers,
    )


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
