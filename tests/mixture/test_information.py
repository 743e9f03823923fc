"""What rows say about proportions."""

from __future__ import annotations

import pytest
import torch

from federations import draw, rows_of
from fedgmi.mixture.information import standard_errors


def test_scatter_of_a_client_widens_its_standard_errors_by_the_root_of_its_dispersion():
    rows, prior = rows_of([400, 400]), torch.full((2,), 1e-6).double()
    log_evidence = torch.randn(800, 2, generator=draw(), dtype=torch.float64) * 2
    proportions = torch.full((2, 2), 0.5).double()
    plain = standard_errors(log_evidence, proportions, prior, rows)
    wide = standard_errors(log_evidence, proportions, prior, rows, torch.tensor([1.0, 4.0]).double())
    assert wide[0].tolist() == pytest.approx(plain[0].tolist())
    assert wide[1].tolist() == pytest.approx((2 * plain[1]).tolist(), rel=1e-3)
