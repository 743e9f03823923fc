"""FedProx: FedAvg whose clients are held near the global model (Li et al. 2020, arXiv 1812.06127).

    w_i ≈ argmin F_i(w) + μ/2·‖w − w_t‖²        w_{t+1} ← Σ_i n_i w_i / Σ_i n_i, over the participants

F_i is the mean cross-entropy of client i's rows, w_t the model as the round received it. Per round and client: one
model down, one up. The paper chooses μ from 0.001, 0.01, 0.1 and 1. The default here is 0.001, since Adam, unlike SGD,
comes near the minimum of F_i + μ/2·‖w − w_t‖² in one round.

Deviations from the paper:
- Clients are drawn uniformly and averaged by their rows, as in FedAvg here. The paper draws them ∝ n_i and averages
  plainly, which is the same mean in expectation.
- Adam and the same passes for every client, as in all methods here, in place of SGD and of stragglers that do less.
"""

from __future__ import annotations

from typing import Literal

from fedgmi.methods.baselines.averaging import OneModelSettings, one_model
from fedgmi.methods.contract import Entry, Method, Task
from fedgmi.settings.base import PositiveFloat

MUS = (0.001, 0.01, 0.1, 1.0)
"""μ from which the paper chooses."""


class FedProxSettings(OneModelSettings):
    """FedProx's own settings.

    Attributes:
        mu: μ of the proximal term μ/2·‖w − w_t‖². 0 would be FedAvg, and is refused.
    """

    name: Literal["fedprox"] = "fedprox"
    mu: PositiveFloat = 0.001


def fedprox(task: Task[FedProxSettings]) -> Method:
    """Build the method for a task.

    Args:
        task: Its expert is the model.

    Returns:
        The method.

    Raises:
        ConfigError: For rows without labels.
    """
    return one_model(task, "fedprox", task.settings.mu)


FEDPROX = Entry(
    fedprox,
    FedProxSettings,
    "FedAvg whose clients are held near the global model",
    has_components=False,
    tune={"mu": MUS},
)
