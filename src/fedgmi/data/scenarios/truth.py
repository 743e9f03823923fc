"""What a scenario makes: a federation, and the truth about it where there is one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedgmi.data.federation import Federation
from fedgmi.data.rows import Client


@dataclass(frozen=True)
class Truth:
    """Which component each row came from. Only the evaluation and the oracle read it.

    Attributes:
        drawn: The proportions that the scenario drew. [C, K]
        components: For every client the component of each of its training rows. [n_i] each
        held_out_components: The same for held-out rows.
        pure: Held-out rows of each component alone. [K]
    """

    drawn: Tensor
    components: tuple[Tensor, ...]
    held_out_components: tuple[Tensor, ...]
    pure: tuple[Client, ...]

    @property
    def n_components(self) -> int:
        """K."""
        return int(self.drawn.shape[1])

    def proportions(self) -> Tensor:
        """The realised proportions: the share of every component in each client's training rows.

        Returns:
            They sum to 1, or to 0 for a client without rows. [C, K], float64
        """
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
