"""FedPer: lower layers for all, a last layer for every client (Arivazhagan et al. 2019, arXiv 1912.00818).

    (b_i, h_i) ← some passes over client i's rows, from (b, h_i)        b ← Σ_i n_i b_i / Σ_i n_i

Base layers b and personal layers h_i are trained together. h_i stays with the client. The last layer is personal; the
paper tries more of them, too. Per round and client: the base layers down and up.

Deviations from the paper:
- Means are over the participants. In the paper all clients take part in every round.
- Adam, fresh in every round.

A client that was never there has no head: see `own_heads`.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.methods.baselines.own_heads import own_heads
from fedgmi.methods.contract import Entry, Method, Task
from fedgmi.methods.local_training import train_own
from fedgmi.settings.base import MethodSettings


class FedPerSettings(MethodSettings):
    """FedPer has none of its own."""

    name: Literal["fedper"] = "fedper"


def fedper(task: Task[FedPerSettings]) -> Method:
    """Build the method for a task.

    Args:
        task: Its expert is the form of the models.

    Returns:
        The method.

    Raises:
        ConfigError: For rows without labels, and for an expert without a trunk.
    """

    def train(models: Tensor, rows: Rows, round: int) -> Tensor:
        return train_own(task, rows, models, (task.seed, round, "expert"))

    return own_heads(task, "fedper", train)


FEDPER = Entry(fedper, FedPerSettings, "lower layers for all, a last layer for every client", has_components=False)
