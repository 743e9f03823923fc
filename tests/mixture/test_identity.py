"""Rows decide what components are where they show them, and only there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from fedgmi.data.rows import pack
from fedgmi.mixture import codebook
from fedgmi.mixture.identity import Cells, stands, topics_of_rows
from fedgmi.mixture.matching import match_components, reorder, total_variation
from fedgmi.mixture.pseudo_rows import FLOOR, draw_points
from fedgmi.mixture.scatter import effective, scatter_beside
from fedgmi.mixture.spectrum import estimate_components
from fedgmi.mixture.topics import Topics, fit_topics

N_CELLS = 20


def shares_of(low: float, high: float, n_clients: int = 12) -> np.ndarray:
    first = np.linspace(low, high, n_clients)
    return np.stack([first, 1 - first], 1)


def blobs(shares: np.ndarray, separation: float, seed: int, *, n_rows: int = 200, dim: int = 4):
    """Rows [C·n, dim] of K blobs, whose they are, and the realised shares [C, K]."""
    rng = np.random.default_rng(seed)
    n_clients, k = shares.shape
    which = np.stack([rng.choice(k, n_rows, p=share) for share in shares])
    centres = separation / np.sqrt(2) * np.eye(k, dim)
    x = centres[which] + rng.normal(size=(n_clients, n_rows, dim))
    realised = np.stack([np.bincount(w, minlength=k) / n_rows for w in which])
    return x.reshape(-1, dim), which.reshape(-1), torch.from_numpy(realised)


def cells_of(x: np.ndarray, n_clients: int, seed: int = 0) -> Cells:
    """What a server knows of rows after the sketch's exchanges."""
    x = (x - x.mean(0)) / np.where(x.std(0) > 0, x.std(0), 1.0)
    z = torch.from_numpy(x).float()
    owner = torch.arange(n_clients).repeat_interleave(len(z) // n_clients)
    sums = codebook.spread_sums(z)
    centres = codebook.first_centres(sums, N_CELLS, seed)
    rows = pack_points(z, owner, n_clients)
    for _ in range(10):
        centres = codebook.move_centres(centres, codebook.cell_sums(z, centres, rows), seed)
    counts = codebook.histogram(codebook.cells(z, centres), rows, N_CELLS)
    return Cells(centres, codebook.pooled_covariance(sums), counts, torch.arange(N_CELLS))


def pack_points(z: Tensor, owner: Tensor, n_clients: int):
    from fedgmi.data.rows import Client

    return pack([Client(f"{i}", z[owner == i], None) for i in range(n_clients)], tuple(range(n_clients)))


def asked(cells: Cells, k: int, *, shown: int | None = None) -> tuple[Topics, Topics | None]:
    """The free topics, and those of rows."""
    counts = cells.counts.double()
    rho = scatter_beside(counts, k)
    free = fit_topics(effective(counts, rho), k, seed=0)
    shown = estimate_components(counts, seed=0).n_components if shown is None else shown
    return free, topics_of_rows(cells, free, shown, rho, seed=0)


def error(found: Tensor, true: Tensor) -> float:
    return float(total_variation(reorder(found, match_components(found, true)), true).mean())


@pytest.mark.parametrize(("low", "high"), [(0.4, 0.95), (0.3, 0.75), (0.05, 0.95)])
def test_where_nobody_is_pure_rows_know_the_shares(low, high):
    x, _, true = blobs(shares_of(low, high), 8.0, seed=1)
    free, found = asked(cells_of(x, 12), 2)
    assert found is not None
    assert error(found.proportions, true) < 0.02
    if low > 0.05:
        assert error(free.proportions, true) > 0.05  # what words alone say
    torch.testing.assert_close(found.proportions.sum(1), torch.ones(12, dtype=torch.float64))


def test_three_blobs_and_nobody_pure():
    shares = np.random.default_rng(0).dirichlet([3.0, 3.0, 3.0], 12)
    x, _, true = blobs(shares, 8.0, seed=0)
    _, found = asked(cells_of(x, 12), 3)
    assert found is not None
    assert error(found.proportions, true) < 0.02


def test_blobs_that_touch():
    x, _, true = blobs(shares_of(0.41, 0.96), 3.0, seed=0)
    free, found = asked(cells_of(x, 12), 2)
    assert found is not None
    assert error(found.proportions, true) < 0.6 * error(free.proportions, true)


def column(kind: str, n: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    flag = np.zeros(n)
    flag[7] = 1.0
    made = {
        "coin": rng.random(n) < 0.5,
        "flag": flag,
        "constant": np.ones(n),
        "heavy": rng.standard_t(1.5, n),
        "rare": rng.random(n) < 0.03,
    }
    return made[kind].astype(float)


@pytest.mark.parametrize("kind", ["coin", "flag", "constant", "heavy", "rare"])
def test_a_column_beside_blobs_changes_nothing(kind):
    x, _, true = blobs(shares_of(0.41, 0.96), 8.0, seed=0)
    free, found = asked(cells_of(np.c_[x, column(kind, len(x))], 12), 2)
    assert found is not None
    assert error(found.proportions, true) < 0.03 < error(free.proportions, true)


@pytest.mark.parametrize("seed", range(4))
def test_clusters_that_are_no_components_decide_nothing(seed):
    """Every component has rows in all clusters, more or fewer, as pictures have strokes."""
    rng = np.random.default_rng(seed)
    within = np.array([[0.6, 0.25, 0.15], [0.1, 0.2, 0.7]])  # of each component, its rows by cluster
    shares = rng.dirichlet([0.5, 0.5], 16)
    x, _, _ = blobs(shares @ within, 6.0, seed=seed)
    _, found = asked(cells_of(x, 16), 2, shown=2)
    assert found is None


def test_more_components_than_clusters_and_fewer():
    x, _, _ = blobs(shares_of(0.05, 0.95), 8.0, seed=0)
    assert asked(cells_of(x, 12), 3)[1] is None  # a cluster that is cut in two is no third component
    shares = np.random.default_rng(0).dirichlet([1.0, 1.0, 1.0], 20)
    x, _, _ = blobs(shares, 8.0, seed=0)
    assert asked(cells_of(x, 20), 2)[1] is None


def test_little_to_know_decides_nothing():
    x, _, _ = blobs(shares_of(0.49, 0.51), 8.0, seed=0)
    assert asked(cells_of(x, 12), 2)[1] is None  # clients are alike
    x, _, _ = blobs(shares_of(0.1, 0.9, 4), 8.0, seed=0)
    assert asked(cells_of(x, 4), 2)[1] is None  # four clients
    x, _, _ = blobs(shares_of(0.1, 0.9), 8.0, seed=0, n_rows=3)
    assert asked(cells_of(x, 12), 2)[1] is None  # three rows each
    x, _, _ = blobs(shares_of(0.1, 0.9), 8.0, seed=0)
    assert asked(cells_of(x, 12), 1)[1] is None  # one component


def test_words_that_nobody_holds_may_be_left_out():
    x, _, _ = blobs(shares_of(0.4, 0.95), 8.0, seed=1)
    cells = cells_of(x, 12)
    wider = replace(
        cells,
        centres=torch.cat([cells.centres, torch.full((2, 4), 50.0)]),
        counts=torch.nn.functional.pad(cells.counts, (0, 2)),
        word_map=torch.arange(N_CELLS + 2),
    )
    assert int(wider.held().word_map.max()) == N_CELLS - 1
    _, found = asked(cells, 2)
    free, _ = asked(cells, 2)
    again = topics_of_rows(wider.held(), free, 2, scatter_beside(cells.counts.double(), 2), seed=0)
    assert found is not None
    assert again is not None
    torch.testing.assert_close(again.proportions, found.proportions)


def test_rounding_of_centres_changes_next_to_nothing():
    x, _, _ = blobs(shares_of(0.41, 0.96), 3.0, seed=0)
    cells = cells_of(x, 12)
    _, found = asked(cells, 2)
    noise = 1e-6 * torch.randn(cells.centres.shape, generator=torch.Generator().manual_seed(0))
    _, again = asked(replace(cells, centres=cells.centres + noise, covariance=cells.covariance * (1 + 1e-7)), 2)
    assert found is not None
    assert again is not None
    torch.testing.assert_close(again.proportions, found.proportions, atol=1e-4, rtol=0)


def test_points_have_the_mean_and_the_covariance_of_a_cell():
    centres, counts = torch.tensor([[1.0, 0.0, 3.0], [-1.0, 0.0, 3.0]]).double(), torch.tensor([1.0, 1.0]).double()
    points = draw_points(centres, counts, torch.diag(torch.tensor([4.0, 2.0, 0.0]).double()), seed=0)
    assert points.shape[2] == 2  # the direction without variance is left out
    inside = points - points.mean(1, keepdim=True)
    covariance = inside.mT @ inside / points.shape[1]
    torch.testing.assert_close(covariance[0], covariance[1])
    assert float(torch.linalg.eigvalsh(covariance[0]).min()) >= 0.7 > FLOOR
    total = points.flatten(0, 1)
    torch.testing.assert_close(total.T @ total / len(total), torch.eye(2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("missed", "explains", "stand"),
    [(0.0, 100.0, True), (15.0, 100.0, False), (45.0, 1000.0, True), (0.0, 20.0, False)],
)
def test_when_counts_leave_rows_to_decide(missed, explains, stand):
    assert stands(missed, chance=3.0, explains=explains) is stand


@pytest.mark.parametrize("separation", [0.5, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_clusters_that_lie_within_each_other_decide_nothing(separation, seed):
    """A mixture of two is fitted to what looks like one cloud, and says anything."""
    x, _, _ = blobs(shares_of(0.0, 1.0), separation, seed)
    _, found = asked(cells_of(x, 12, seed), 2)
    assert found is None


def test_a_client_that_lies_apart_alone_is_no_component():
    x, _, _ = blobs(shares_of(0.5, 0.5), 0.0, 1, n_rows=60)
    x[:60] += 100.0
    _, found = asked(cells_of(x, 12), 2, shown=2)
    assert found is None
