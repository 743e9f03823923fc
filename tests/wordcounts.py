"""Word counts of synthetic federations: mixtures of known topics, and some that are none."""

from __future__ import annotations

import torch
from torch import Tensor

from federations import dirichlet, draw
from fedgmi.mixture.resampling import resample
from fedgmi.randomness import numpy_generator


def topics_of(n_topics: int, n_words: int = 24, seed: int = 0, *, anchored: bool = False) -> Tensor:
    """p(w | k) [W, K]: each topic prefers other words; anchored: half of the words belong to one topic alone."""
    table = torch.rand(n_words, n_topics, generator=draw(seed), dtype=torch.float64) + 0.1
    table[: n_words // 2] *= 0.0 if anchored else 1.0
    table[torch.arange(n_words), torch.arange(n_words) % n_topics] += 3.0
    return table / table.sum(0)


def counts_from(probs: Tensor, n_rows: int, seed: int) -> Tensor:
    """Histograms [C, W] float64: n_rows words from each client's distribution [C, W]."""
    words = torch.multinomial(probs, n_rows, replacement=True, generator=draw(seed))
    return torch.stack([row.bincount(minlength=probs.shape[1]) for row in words]).double()


def mixture(
    n_topics: int,
    *,
    n_clients: int = 30,
    n_rows: int = 300,
    alpha: float = 1.0,
    seed: int = 0,
    anchored: bool = False,
) -> tuple[Tensor, Tensor]:
    """Histograms [C, W] and the proportions [C, K] that they were drawn with."""
    drawn = dirichlet(n_clients, n_topics, alpha, seed)
    return counts_from(drawn @ topics_of(n_topics, anchored=anchored).T, n_rows, seed + 1000), drawn


def ring(n_clients: int = 30, n_rows: int = 600, seed: int = 0) -> Tensor:
    """Clients on a circle in a plane, p_w·(1 + 0.9·cos(θ_i + φ_w)): three singular corners would need negative
    probabilities, so that two singular values stand out and three components do not fit."""
    angles = 2 * torch.pi * torch.arange(24, dtype=torch.float64) / 24
    turned = 2 * torch.pi * torch.arange(n_clients, dtype=torch.float64) / n_clients
    probs = 1 + 0.9 * torch.cos(angles[None] + turned[:, None])
    return counts_from(probs, n_rows, seed)


def scattered(
    n_topics: int, phi: float, *, n_clients: int = 30, n_rows: int = 300, alpha: float = 1.0, seed: int = 0
) -> Tensor:
    """Histograms [C, W] of clients that scatter around a mixture: their variance is φ times that of a multinomial."""
    drawn, rng = dirichlet(n_clients, n_topics, alpha, seed), numpy_generator(seed, "scattered")
    rho, totals = (phi - 1) / (n_rows - 1), torch.full((n_clients,), n_rows)
    return resample(drawn @ topics_of(n_topics).T, totals, 1, rng, rho=rho)[0]


ODD = {
    "one client": torch.tensor([[4.0, 3.0, 2.0]]),
    "two clients": torch.tensor([[40.0, 3.0, 2.0], [2.0, 30.0, 4.0]]),
    "alike": torch.tensor([[5.0, 3.0, 2.0]]).expand(6, 3),
    "one word": torch.full((6, 1), 7.0),
    "one row each": torch.eye(6),
    "no rows and one": torch.tensor([[0.0, 0, 0], [1, 0, 0], [9, 30, 2], [30, 5, 9], [4, 8, 30]]),
    "empty word": torch.tensor([[9.0, 0, 3], [2, 0, 9], [5, 0, 5], [9, 0, 1]]),
    "a client of one row": torch.tensor([[0.0, 1, 0], [20, 31, 9], [25, 28, 7], [18, 30, 12]]),
    "a word that one client alone has": torch.tensor(
        [[20.0, 30, 0], [22, 28, 0], [0, 0, 50], [27, 23, 0], [24, 26, 0]]
    ),
}
