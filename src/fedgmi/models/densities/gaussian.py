"""A Gaussian with full covariance, in closed form. It is exact, so tests measure other densities by it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fedgmi.data.rows import Schema
from fedgmi.models.density import Density, rows_per_chunk
from fedgmi.settings.effects import all_but, refuse_without_effect
from fedgmi.settings.run import DensitySettings

MIN_VARIANCE = 1e-4
"""The floor of the covariance's eigenvalues: a scale of 1e-2."""


def gaussian(settings: DensitySettings, schema: Schema) -> Density:
    """log N(x; μ, Σ) with flat parameters (E[x], upper triangle of E[x xᵀ]), P = D + D(D + 1)/2.

    The parameters are moments on purpose. The mean of clients' moments weighted by mass *is* the moment of all rows
    together, so the server's ordinary mean of parameters is exactly the global maximum-likelihood fit.

    Σ = E[x xᵀ] − μ μᵀ with eigenvalues of at least 1e-4. This is the maximum-likelihood covariance under that
    constraint, so EM stays exact. Everything is computed in float64. Moments travel in float32, so features should be
    standardised: a mean of 1000 would drown a variance of 1.

    Args:
        settings: Nothing in them matters to a Gaussian, so that none may be set.
        schema: Of the rows.

    Returns:
        An exact density that is fitted in closed form.

    Raises:
        ConfigError: For a setting that would be ignored.
    """
    refuse_without_effect(settings, "density", all_but(settings, ()), "a Gaussian has nothing to set")
    n_features = schema.n_features
    centre, variance = (0.5, 0.25) if schema.kind == "image" else (0.0, 1.0)

    def init(generator: torch.Generator) -> Tensor:
        spread = math.sqrt(variance) * (0.1 if schema.kind == "image" else 1.0)
        mean = centre + spread * torch.randn(n_features, generator=generator, dtype=torch.float64)
        second = variance * torch.eye(n_features, dtype=torch.float64) + mean.outer(mean)
        return to_moments(mean[None], second[None])[0].float()

    def sample(params: Tensor, n: int, generator: torch.Generator) -> Tensor:
        mean, scale, basis = (part[0] for part in _spectrum(params[None], n_features))
        noise = torch.randn(n, n_features, generator=generator, dtype=torch.float64).to(params.device)
        return (mean + (noise * scale) @ basis.mT).to(params.dtype).view(n, *schema.shape)

    def log_prob(params: Tensor, x: Tensor, noise: Tensor) -> Tensor:
        return _log_prob(params, x.flatten(1))

    return Density(
        name="gaussian",
        exact=True,
        size=n_features + n_features * (n_features + 1) // 2,
        noise_size=0,
        init=init,
        loss=None,
        log_prob=log_prob,
        sample=sample,
        fit=_fit,
    )


def to_moments(mean: Tensor, second: Tensor) -> Tensor:
    """Flat parameters from moments.

    Args:
        mean: E[x]. [K, D]
        second: E[x xᵀ]. [K, D, D]

    Returns:
        [K, P]
    """
    rows, columns = torch.triu_indices(mean.shape[-1], mean.shape[-1], device=mean.device)
    return torch.cat([mean, second[..., rows, columns]], dim=-1)


def mean_and_covariance(params: Tensor, n_features: int) -> tuple[Tensor, Tensor]:
    """Mean and covariance from flat parameters. The covariance has no floor yet.

    Args:
        params: [K, P]
        n_features: D.

    Returns:
        Mean [K, D] and covariance [K, D, D]. float64
    """
    params = params.detach().double()
    mean, upper = params[:, :n_features], params[:, n_features:]
    rows, columns = torch.triu_indices(n_features, n_features, device=params.device)
    second = params.new_zeros(len(params), n_features, n_features)
    second[:, rows, columns] = upper
    second[:, columns, rows] = upper
    return mean, second - mean.unsqueeze(-1) * mean.unsqueeze(-2)


def _spectrum(params: Tensor, n_features: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [K, D], scales [K, D] and principal axes [K, D, D] (in columns), with the floor applied."""
    mean, covariance = mean_and_covariance(params, n_features)
    variance, basis = torch.linalg.eigh(covariance)
    return mean, variance.clamp(min=MIN_VARIANCE).sqrt(), basis


@torch.no_grad()
def _log_prob(params: Tensor, x: Tensor) -> Tensor:
    """params [K, P], x [R, D] → [R, K]."""
    n_features = x.shape[1]
    mean, scale, basis = _spectrum(params, n_features)
    whiten = basis / scale.unsqueeze(-2)  # [K, D, D]
    constant = -0.5 * n_features * math.log(2 * math.pi) - scale.log().sum(-1)  # [K]
    parts = []
    for rows in torch.split(x, rows_per_chunk(4 * len(params) * n_features)):
        distance = ((rows.double() - mean.unsqueeze(1)) @ whiten).square().sum(-1)  # [K, R]
        parts.append((constant.unsqueeze(1) - 0.5 * distance).mT)
    return torch.cat(parts).to(x.dtype) if parts else x.new_zeros(0, len(params))


@torch.no_grad()
def _fit(x: Tensor, weights: Tensor, client_index: Tensor, n_clients: int) -> Tensor:
    """x [R, *shape], weights [R, K], client_index [R] → the weighted moments of every client [C, K, P]."""
    x, weights = x.flatten(1), weights.double()
    moments = []
    for client in range(n_clients):
        mine = client_index == client
        rows, weight = x[mine].double(), weights[mine]
        mass = weight.sum(0).clamp(min=torch.finfo(torch.float64).tiny)
        share = (weight / mass).mT  # [K, n]
        second = (share.unsqueeze(1) * rows.mT) @ rows  # [K, D, D]
        moments.append(to_moments(share @ rows, second))
    return torch.stack(moments).to(x.dtype)
