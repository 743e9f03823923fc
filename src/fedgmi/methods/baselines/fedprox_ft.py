"""FedProx with fine-tuning: a global model that holds its clients near, and that they tune freely after the last round.

FedProx (Li et al. 2020, arXiv 1812.06127; see `fedprox`), then `fine_tuning`, which says how passes, rate and
temperature are chosen, and what newcomers get. No proximal term is in the tuning. Per round and client: one model down,
one up; at the end one more model down.
"""

from __future__ import annotations

from typing import Literal

from fedgmi.methods.baselines.averaging import one_model
from fedgmi.methods.baselines.fedprox import MUS
from fedgmi.methods.baselines.fine_tuning import FineTuningSettings, fine_tuned
from fedgmi.methods.contract import Entry, Method, Task
from fedgmi.settings.base import PositiveFloat


class FedProxFtSettings(FineTuningSettings):
    """Those of fine-tuning, and FedProx's.

    Attributes:
        mu: μ of the proximal term μ/2·‖θ − θ_t‖² in the rounds. 0 would be FedAvg, and is refused.
    """

    name: Literal["fedprox-ft"] = "fedprox-ft"
    mu: PositiveFloat = 0.001


def fedprox_ft(task: Task[FedProxFtSettings]) -> Method:
    """Build the method for a task.

    Args:
        task: Its expert is the model.

    Returns:
        The method.

    Raises:
        ConfigError: For rows without labels.
    """
    return fine_tuned(one_model(task, "fedprox-ft", task.settings.mu), task)


FEDPROX_FT = Entry(
    fedprox_ft,
    FedProxFtSettings,
    "FedProx, tuned to each client's rows at the end",
    has_components=False,
    tune={"mu": MUS},
)
