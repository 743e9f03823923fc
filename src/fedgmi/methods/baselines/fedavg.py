"""FedAvg: one model for all (McMahan et al. 2017, arXiv 1602.05629).

    w ← Σ_i n_i w_i / Σ_i n_i        over the participants alone, w_i trained from w on client i's rows

An absent client does not enter the mean. Per round and client: one model down, one up.
"""

from __future__ import annotations

from typing import Literal

from fedgmi.methods.baselines.averaging import OneModelSettings, one_model
from fedgmi.methods.contract import Entry, Method, Task


class FedAvgSettings(OneModelSettings):
    """FedAvg has no more."""

    name: Literal["fedavg"] = "fedavg"


def fedavg(task: Task[FedAvgSettings]) -> Method:
    """Build the method for a task.

    Args:
        task: Its expert is the model.

    Returns:
        The method.

    Raises:
        ConfigError: For rows without labels.
    """
    return one_model(task, "fedavg")


FEDAVG = Entry(fedavg, FedAvgSettings, "one model for all", has_components=False)
