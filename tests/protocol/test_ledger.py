"""The ledger: entries add up, and survive a checkpoint."""

from __future__ import annotations

import pytest
import torch

from fedgmi.protocol.ledger import Ledger


@pytest.fixture
def ledger() -> Ledger:
    ledger = Ledger(3)
    ledger.add(0, "sketch", 0, down=10, up=1)
    ledger.add(0, "sketch", 0, down=10)
    ledger.add(0, "statistics", 2, up=5)
    ledger.add(1, "expert", 1, down=100, up=90)
    return ledger


def test_totals_of_all_and_of_a_round(ledger):
    assert ledger.totals() == (120, 96)
    assert ledger.totals(0) == (20, 6)
    assert ledger.totals(7) == (0, 0)


def test_by_kind_and_by_client(ledger):
    assert ledger.by_kind() == {"sketch": (20, 1), "expert": (100, 90), "statistics": (0, 5)}
    assert ledger.by_kind(1) == {"expert": (100, 90)}
    assert ledger.by_client().tolist() == [[20, 1], [100, 90], [0, 5]]
    assert ledger.by_client(0).tolist() == [[20, 1], [0, 0], [0, 5]]


def test_a_checkpoint_keeps_it(ledger):
    again = Ledger.from_tree(3, ledger.to_tree())
    assert again == ledger
    again.add(1, "expert", 1, up=1)
    assert again != ledger
    assert ledger.totals() == (120, 96)


def test_an_empty_one_says_nothing():
    assert Ledger(2).totals() == (0, 0)
    assert Ledger(2).by_kind() == {}
    assert torch.equal(Ledger(2).by_client(), torch.zeros(2, 2, dtype=torch.long))
