"""p-values of many tests at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgmi.mixture.multiple_tests import holm

p_values = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def rejected(values: list[float], size: float) -> set[int]:
    return {i for i, p in enumerate(holm(values)) if p <= size}


def test_holm_by_hand():
    assert holm([]) == []
    assert holm([0.04]) == [0.04]
    assert holm([0.2, 0.001, 0.004, 0.9]) == pytest.approx([0.4, 0.004, 0.012, 0.9])
    assert holm([0.6, 0.6]) == [1.0, 1.0]
    assert rejected([0.2, 0.001, 0.004, 0.9], 0.01) == {1}


@given(p_values, st.floats(0.001, 0.2))
def test_holm_rejects_what_bonferroni_rejects_and_nothing_above_the_size(values, size):
    found = rejected(values, size)
    assert {i for i, p in enumerate(values) if p < 0.999 * size / len(values)} <= found
    assert found <= {i for i, p in enumerate(values) if p <= size}
    if found:
        worst = max(values[i] for i in found)
        assert found >= {i for i, p in enumerate(values) if p < worst}


@given(p_values)
def test_holm_keeps_the_order_of_p_values(values):
    adjusted = holm(values)
    assert all(0 <= p <= a <= 1 for p, a in zip(values, adjusted, strict=True))
    by_p = [a for _, a in sorted(zip(values, adjusted, strict=True))]
    assert by_p == sorted(by_p)
