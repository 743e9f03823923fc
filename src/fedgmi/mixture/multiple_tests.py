"""Many tests at once: p-values that allow for there being many. No PyTorch and no SciPy is needed."""

from __future__ import annotations

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (1979).

    Reject every test whose adjusted p-value is at most α. Then the chance of one false rejection or more among all
    tests is at most α, however they depend on each other. With p_(1) ≤ … ≤ p_(m), the adjusted value of p_(j) is
    max_{i ≤ j} min(1, (m − i + 1)·p_(i)).

    Args:
        p_values: One of each test. [M]

    Returns:
        The adjusted values, in the same order. [M]

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, test in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[test]))
        adjusted[test] = largest
    return adjusted
