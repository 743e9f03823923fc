"""`FedGMI`: the method behind scikit-learn's vocabulary, over the same functions as the command line."""

from __future__ import annotations

from fedgmi.estimator.base import ConvergenceWarning, InferredWeights, Whose
from fedgmi.estimator.model import FedGMI

__all__ = ["ConvergenceWarning", "FedGMI", "InferredWeights", "Whose"]
