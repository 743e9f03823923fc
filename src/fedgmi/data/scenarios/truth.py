"""What a scenario makes: a federation, and the truth about it where there is one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedgmi.data.federation import Federation
from fedgmi.data.rows import Client, rescale
from fedgmi.data.standardise import Standardisation


@dataclass(frozen=True)
class Truth:
    """Which component each row came from. Lives in the scenario; only `evaluation` and the oracle read it.

    drawn [C, K]: the proportions the scenario drew · components: per client, [n_i] of its training rows
    · held_out_components: the same for held-out rows · pure: K sets of held-out rows, one per component.
    """

    drawn: Tensor
    components: tuple[Tensor, ...]
    held_out_components: tuple[Tensor, ...]
    pure: tuple[Client, ...]

    @property
    def n_components(self) -> int:
        return int(self.drawn.shape[1])

    def proportions(self) -> Tensor:
        """[C, K] the realised share of every component in each client's training rows."""
        k = self.n_components
        return torch.stack([torch.bincount(z, minlength=k).double() / max(len(z), 1) for z in self.components])


@dataclass(frozen=True)
class Scenario:
    """What a scenario returns: the federation, the truth where there is one, and the scale of its rows.

    standardisation: how rows were brought to mean 0 and deviation 1; None where they are in their own units.
    """

    federation: Federation
    truth: Truth | None = None
    standardisation: Standardisation | None = None

    @property
    def bytes_spent(self) -> tuple[int, int]:
        """Down to all clients and up from them, before any method begins: what the standardisation took."""
        scale, n_clients = self.standardisation, len(self.federation.clients)
        return (0, 0) if scale is None else (n_clients * scale.bytes_down, n_clients * scale.bytes_up)

    def rescaled(self, scale: Standardisation) -> Scenario:
        """All rows on that scale, the truth's pure ones included."""
        truth = None if self.truth is None else replace(self.truth, pure=rescale(self.truth.pure, scale))
        return Scenario(self.federation.rescaled(scale), truth, scale)
