"""FedAvg with fine-tuning: one model for all, which every client tunes to its own rows after the last round.

FedAvg (McMahan et al. 2017, arXiv 1602.05629), then `fine_tuning`, which says how passes, rate and temperature are
chosen, and what newcomers get. Per round and client: one model down, one up; at the end one more model down.
"""

from __future__ import annotations

from typing import Literal

from fedgmi.methods.baselines.averaging import one_model
from fedgmi.methods.baselines.fine_tuning import FineTuningSettings, fine_tuned
from fedgmi.methods.contract import Entry, Method, Task


class FedAvgFtSettings(FineTuningSettings):
    """Those of fine-tuning alone."""

    name: Literal["fedavg-ft"] = "fedavg-ft"


def fedavg_ft(task: Task[FedAvgFtSettings]) -> Method:
    """Build the method for a task.

    Args:
        task: Its expert is the model.

    Returns:
        The method.

    Raises:
        ConfigError: For rows without labels.
    """
    return fine_tuned(one_model(task, "fedavg-ft"), task)


FEDAVG_FT = Entry(fedavg_ft, FedAvgFtSettings, "FedAvg, tuned to each client's rows at the end", has_components=False)
