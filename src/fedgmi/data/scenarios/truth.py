"""What a scenario makes: a federation, and the truth about it where there is one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedgmi.data.federation import Federation
from fedgmi.data.rows import Client


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
    """What a scenario returns.

    Attributes:
        federation: Clients and their rows, in their own units.
        truth: Where it is known.
    """

    federation: Federation
    truth: Truth | None = None
