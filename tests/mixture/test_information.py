"""How sure proportions are, and when rows are enough to decide them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from federations import draw, rows_of
from fedgmi.data.rows import Client, pack
from fedgmi.mixture.information import decided, standard_errors
from fedgmi.mixture.posterior import e_step


def known(components: list[int], nats: float, k: int) -> bool:
    """Whether rows of these components decide proportions, each row being so many nats likelier under its own."""
    rows = pack([Client("a", torch.zeros(len(components), 1))])
    evidence = nats * torch.nn.functional.one_hot(torch.tensor(components), k).double()
    share = torch.full((k,), 1 / k, dtype=torch.float64)
    found = e_step(evidence, rows, share[None], share)
    return bool(decided(standard_errors(evidence, found.proportions, share, rows))[0])


@pytest.mark.parametrize("k", [2, 3, 5])
def test_a_single_row_decides_nothing_and_many_do(k):
    assert not known([0], 50.0, k)
    assert not known([0, 1], 50.0, k)
    assert known([i % k for i in range(40)], 50.0, k)


def test_rows_that_tell_components_apart_by_little_have_to_be_many():
    assert not known([0, 1] * 10, 0.5, 2)
    assert known([0, 1] * 200, 0.5, 2)


@given(n=st.integers(5, 60), share=st.floats(0, 1))
def test_five_rows_beyond_doubt_are_enough_for_two_components(n, share):
    assert known([int(i < share * n) for i in range(n)], 50.0, 2)


def test_of_a_single_component_nothing_is_open():
    assert known([0], 0.0, 1)


def test_scatter_of_a_client_widens_its_standard_errors_by_the_root_of_its_dispersion():
    rows, prior = rows_of([400, 400]), torch.full((2,), 1e-6).double()
    log_evidence = torch.randn(800, 2, generator=draw(), dtype=torch.float64) * 2
    proportions = torch.full((2, 2), 0.5).double()
    plain = standard_errors(log_evidence, proportions, prior, rows)
    wide = standard_errors(log_evidence, proportions, prior, rows, torch.tensor([1.0, 4.0]).double())
    assert wide[0].tolist() == pytest.approx(plain[0].tolist())
    assert wide[1].tolist() == pytest.approx((2 * plain[1]).tolist(), rel=1e-3)
