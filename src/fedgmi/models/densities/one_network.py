"""A VAE whose components have one encoder and one decoder: a trunk [T], and K small parts of their own [K, H]."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fedgmi.models.densities.elbo import MAX_LOG_VARIANCE, Vae, bernoulli_slope, code_of, gaussian_slope
from fedgmi.models.densities.film import DECODER, ENCODER
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
        """Of mean_B loss_of: back through the decoder to z, then through the encoder; see `Density.gradient_of`."""
        trunk, x, share = self.trunk, x.flatten(2), 1.0 / x.shape[1]
        parts, slopes = self.parts_by_row(params, component), self.common.split(out[:, :trunk])
        inner, moved, code = ENCODER.forward(parts, x)
        mean, log_variance = code_of(code)
        spread = noise * (0.5 * log_variance).exp()
        z = mean + spread
        inner_z, moved_z, output = DECODER.forward(parts, z)
        if self.bernoulli:
            slope = bernoulli_slope(output, x, share)
        else:
            slope, slopes["scale"] = gaussian_slope(parts, output, x, share)
        below = DECODER.backward(parts, slopes, z, inner_z, moved_z, slope)
        of_z = torch.bmm(below, parts["decode_1.weight"].mT)
        centre, log_width = self.prior(parts)
        narrow, variance, off = (-log_width).exp(), log_variance.exp(), mean - centre
        slopes["prior_mean"] = -share * off * narrow
        slopes["prior_log_variance"] = 0.5 * share * (1 - (off.square() + variance) * narrow)
        of_log_variance = 0.5 * (of_z * spread + share * (variance * narrow - 1))
        of_log_variance.masked_fill_(log_variance >= MAX_LOG_VARIANCE, 0.0)
        of_code = torch.cat([of_z - slopes["prior_mean"], of_log_variance], -1)
        ENCODER.backward(parts, slopes, x, inner, moved, of_code)
        n_components = (params.shape[1] - trunk) // self.own.size
        held = F.one_hot(component, n_components).to(x.dtype)  # [J, B, K]
        by_row = torch.cat([slopes[name] for name in self.own.shapes], -1)  # [J, B, H]
        out[:, trunk:] = torch.bmm(held.mT, by_row).flatten(1)
