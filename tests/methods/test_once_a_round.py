"""Whatever changes from round to round, each trains components once."""

import pytest
import torch

from fedgmi.methods.fedgmi.conditions import densities_stay, densities_train
from fedgmi.methods.fedgmi.schedule import closed
from fedgmi.methods.fedgmi.settings import FedGMISettings
from fedgmi.methods.fedgmi.state import Components


@pytest.mark.parametrize("reference_rounds", [0, 1, 2, 5])
def test_components_are_trained_once_in_each_round(reference_rounds):
    """Also in the last round of densities, after which the next condition holds."""
    own = FedGMISettings(reference_rounds=reference_rounds)
    trained = []
    for version in range(6):
        now = version
        for row in closed(own).round:
            if row.when(own, Components.leaves(version=torch.tensor(now))):
                trained.append((version, row.when))
                now += 1
    assert trained == [(v, densities_stay if v >= reference_rounds else densities_train) for v in range(6)]
