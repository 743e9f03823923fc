"""A VAE whose components have one encoder and one decoder: a trunk [T], and K small parts of their own [K, H]."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fedgmi.models.densities.elbo import Vae
from fedgmi.models.densities.networks import Parts
from fedgmi.models.flat import Layout


class OneNetwork(Vae):
    """The VAE of one component [T + H], or of all of them at once [T + K·H].

    What is a component's own is γ and β of both hidden layers, mean and log variance of the prior, and the scale.
    """

    @property
    def common(self) -> Layout:
        """Of the trunk."""
        return Layout({name: shape for name, shape in self.layout.shapes.items() if name.endswith(("weight", "bias"))})

    @property
    def own(self) -> Layout:
        """Of a component's own part."""
        common = self.common.shapes
        return Layout({name: shape for name, shape in self.layout.shapes.items() if name not in common})

    @property
    def trunk(self) -> int:
        """T."""
        return self.common.size

    def parts_of(self, params: Tensor) -> Parts:
        """See `Vae.parts_of`; all own parts have an axis of rows."""
        own = self.own.split(params[:, self.trunk :])
        return self.common.split(params[:, : self.trunk]) | {name: part.unsqueeze(1) for name, part in own.items()}

    def prior(self, parts: Parts) -> tuple[Tensor, Tensor]:
        """See `Vae.prior`."""
        return parts["prior_mean"], parts["prior_log_variance"]

    def divergence_slopes(
        self, parts: Parts, slopes: dict[str, Tensor], mean: Tensor, log_variance: Tensor, share: float
    ) -> tuple[Tensor, Tensor]:
        """See `Vae.divergence_slopes`."""
        centre, log_width = self.prior(parts)
        narrow, variance, off = (-log_width).exp(), log_variance.exp(), mean - centre
        slopes["prior_mean"] = -share * off * narrow
        slopes["prior_log_variance"] = 0.5 * share * (1 - (off.square() + variance) * narrow)
        return -slopes["prior_mean"], 0.5 * share * (variance * narrow - 1)

    def parts_by_row(self, params: Tensor, component: Tensor) -> Parts:
        """The parameters that are each row's. params: [J, T + K·H], component: [J, B]"""
        trunk, size = self.trunk, self.own.size
        parts = params[:, trunk:].view(len(params), -1, size)
        of_rows = parts.gather(1, component[:, :, None].expand(-1, -1, size))  # [J, B, H]
        return self.common.split(params[:, :trunk]) | self.own.split(of_rows)

    def loss_of(self, params: Tensor, x: Tensor, noise: Tensor, component: Tensor) -> Tensor:
        """See `Density.loss_of`."""
        return self.loss_by_parts(self.parts_by_row(params, component), x, noise)

    def gradient_of(self, params: Tensor, x: Tensor, noise: Tensor, component: Tensor, out: Tensor) -> None:
        """Of mean_B loss_of; see `Density.gradient_of`. Each own part's is the sum over its rows."""
        trunk = self.trunk
        slopes = self.common.split(out[:, :trunk])
        self.backward(self.parts_by_row(params, component), slopes, x, noise)
        n_components = (params.shape[1] - trunk) // self.own.size
        held = F.one_hot(component, n_components).to(x.dtype)  # [J, B, K]
        by_row = torch.cat([slopes[name] for name in self.own.shapes], -1)  # [J, B, H]
        out[:, trunk:] = torch.bmm(held.mT, by_row).flatten(1)
