"""What rows keep between two exchanges changes no answer, whatever the server sent before."""

from __future__ import annotations

import pytest
import torch

from fedgmi.data.rows import Client, pack
from fedgmi.mixture.codebook import cells, projector


def test_what_is_kept_goes_by_the_numbers_it_is_made_of():
    rows = pack([Client("a", torch.ones(3, 2), None)])
    for factor, again in ((1.0, False), (1.0, True), (2.0, False), (1.0, False)):
        made: list[float] = []

        def make(factor: float = factor, made: list[float] = made) -> torch.Tensor:
            made.append(factor)
            return factor * rows.x

        assert torch.equal(rows.once("product", [torch.tensor(factor)], make), factor * rows.x)
        assert (made == []) == again
    assert len(rows.cache) == 1


@pytest.mark.parametrize("n", [2, 25, 26, 100, 257])
@pytest.mark.parametrize(("width", "dim"), [(4, 16), (64, 16), (784, 20)])
def test_a_row_s_cell_is_its_own_where_counts_have_noise(n, width, dim):
    """Far centres next to each other are equally far but for rounding. A row less moves no other one."""
    draws = torch.Generator().manual_seed(n)
    x = torch.rand(n, width, generator=draws)
    project = projector(torch.full((width,), 0.5), torch.full((width,), 0.3), dim, 0)
    points = project.row_by_row(x)
    for gap in (1e-3, 1e-6):
        near = gap * torch.randn(6, points.shape[1], generator=draws)
        centres = 30 * points.mean(0) + near
        whole = cells(points, centres, row_by_row=True)
        for left_out in range(0, n, max(1, n // 8)):
            others = torch.arange(n) != left_out
            fewer = project.row_by_row(x[others])
            assert torch.equal(fewer, points[others])
            assert torch.equal(cells(fewer, centres, row_by_row=True), whole[others])


def test_row_by_row_it_is_the_same_product_and_the_same_cells():
    draws = torch.Generator().manual_seed(0)
    x, centres = torch.rand(50, 30, generator=draws), torch.rand(8, 5, generator=draws)
    project = projector(torch.rand(30, generator=draws), torch.rand(30, generator=draws) + 0.5, 5, 1)
    torch.testing.assert_close(project.row_by_row(x), project(x))
    assert torch.equal(cells(project(x), centres, row_by_row=True), cells(project(x), centres))
