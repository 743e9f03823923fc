"""What a monitor asks of a model, and how the answers are checked."""

from __future__ import annotations

import warnings
from typing import Any, Protocol

import numpy as np
import torch

from fedgmi.drift.charts import Array
from fedgmi.errors import DataError, FedgmiWarning
from fedgmi.mixture.information import MIN_CONTRAST, contrasts
from fedgmi.mixture.posterior import PROPORTION_FLOOR


class Model(Protocol):
    """A fitted `FedGMI`, or anything with these.

    Attributes:
        n_components_: K.
        client_names_: Names of all clients.
        weights_: Their proportions. [clients, K]
    """

    n_components_: Any
    client_names_: Any
    weights_: Any

    def log_ratios(self, x: Any, /, y: Any = None) -> Any:
        """log p_k(x[, y]), up to a constant per row. [n, K], nats"""
        ...

    def component_log_prob(self, x: Any, /) -> Any:
        """log p_k(x). [n, K], nats"""
        ...


def labels_of(model: Model, x: Any, y: Any) -> Any:
    """Labels as given; without such, those that a `FedGMI` reads from a table's own column; None: there are none.

    Args:
        model: Fitted.
        x: Rows. [n, …]
        y: Labels [n], or None.
    """
    read = getattr(model, "labels_in", None)
    return y if read is None else read(x, y)


def evidence(model: Model, x: Any, y: Any, where: str) -> tuple[Array, Array]:
    """What the model says of rows.

    Args:
        model: Fitted.
        x: Rows. [n, …]
        y: Labels [n], or None.
        where: Named in messages.

    Returns:
        `log_ratios` and `component_log_prob` of the rows. [n, K] each

    Raises:
        DataError: There are no rows, or the model cannot score them.
    """
    if not len(x):
        raise DataError("it has no rows", where=where, fix="leave empty batches out")
    ratios, log_prob = model.log_ratios(x, y), model.component_log_prob(x)
    return _checked(ratios, len(x), model, where), _checked(log_prob, len(x), model, where)


def tells_components_apart(model: Model, x: Any, y: Any, client: str) -> bool:
    """Whether such rows say anything about proportions. With one component they say nothing.

    The two components that are most alike have to have a contrast (`mixture.information`) of .05 or more. A client with
    few rows may be watched all the same: the many rows that follow tell what few could not.

    Args:
        model: Fitted.
        x: Rows. [n, …]
        y: Labels [n], or None.
        client: Named in the warning.

    Returns:
        Whether they do. A FedgmiWarning says so where they do not.
    """
    if model.n_components_ == 1:
        return False
    share = torch.as_tensor(np.asarray(model.weights_, dtype=float)).mean(0)
    ratios, _ = evidence(model, x, y, f"client {client!r}")
    resp = (torch.as_tensor(ratios) + share.clamp(min=PROPORTION_FLOOR).log()).softmax(1)
    tell = bool(contrasts(resp.T @ resp)[0] >= MIN_CONTRAST)
    if not tell:
        cure = "Give labels with the rows, if there are any" if y is None else "Only the fit is watched"
        warnings.warn(
            f"client {client!r}: such rows cannot tell components apart. Moved proportions will not be seen. {cure}.",
            FedgmiWarning,
            stacklevel=4,
        )
    return tell


def _checked(values: Any, n_rows: int, model: Model, where: str) -> Array:
    array = np.asarray(values, dtype=float)
    if array.shape != (n_rows, model.n_components_):
        found = f"{n_rows} rows have scores of shape {array.shape}"
        raise DataError(found, where=where, fix="give x as [n, …], n rows like those the model was fitted on")
    wrong = np.isnan(array).any(1)
    if wrong.any():
        found = f"{int(wrong.sum())} of {n_rows} rows have no score (the first is row {int(wrong.argmax())})"
        raise DataError(found, where=where, fix="look for NaN or infinite values in x, and fill or drop these rows")
    return array
