"""How good predicted risks are, and what can be read off them.

A prediction is a mixture of risks: (log weight, η) for each part, one after the other [n, 2·K]; see
`fedgmi.models.survival_head`.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]
PAIRS = 1 << 24
"""So many pairs of rows are compared at once."""


def risk_of(numbers: Floats) -> Floats:
    """log Σ_k w_k exp η_k: the log of the hazard that a mixture has at the start, beside the federation's at large.

    Examples:
        >>> risk_of(np.array([[np.log(0.5), 0.0, np.log(0.5), np.log(3.0)]])).round(4).tolist()  # log 2
        [0.6931]
    """
    found: Floats = np.logaddexp.reduce(numbers[:, 0::2] + numbers[:, 1::2], axis=1)
    return found


def survival_of(numbers: Floats, expected: Floats) -> Floats:
    """Σ_k w_k exp(−H exp η_k).

    Args:
        numbers: [n, 2·K]
        expected: H, events expected of a row of the federation at large. [T]

    Returns:
        [n, T], from 0 to 1
    """
    weight, rate = np.exp(numbers[:, 0::2]), np.exp(numbers[:, 1::2])
    found: Floats = (weight[:, :, None] * np.exp(-rate[:, :, None] * expected)).sum(1)
    return found


def c_index(numbers: Floats, y: Any) -> float | None:
    """Harrell's C (1982): of the pairs of rows whose order is known, the share in which the first has the greater risk.

    The order is known where one row's event came before the other's time, or at the same time, when nobody looked at
    the other any more. Equal risks count half. None where there is no such pair.

    Args:
        numbers: [n, 2·K]
        y: Times and events. [n, 2]
    """
    risk, time, event = risk_of(numbers), y[:, 0], y[:, 1] > 0
    first, right, known = np.flatnonzero(event), 0.0, 0
    step = max(1, PAIRS // max(1, len(time)))
    for begin in range(0, len(first), step):
        some = first[begin : begin + step, None]
        later = (time[some] < time) | ((time[some] == time) & ~event)
        known += int(later.sum())
        right += float((later & (risk[some] > risk)).sum() + 0.5 * (later & (risk[some] == risk)).sum())
    return right / known if known else None
