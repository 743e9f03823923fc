"""Whether a gate is worth more than proportions, told by labels of unseen rows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from federations import draw
from fedgmi.data.rows import Client, Rows, pack
from fedgmi.mixture.switching import better, likelihoods

N, CLIENTS = 40, 6
PI = torch.tensor([[0.3, 0.7]]).repeat(CLIENTS, 1)


def held(n: int = N, clients: int = CLIENTS) -> Rows:
    return pack([Client(str(i), torch.zeros(n, 1)) for i in range(clients)])


def case(seed: int, strength: float) -> tuple[Tensor, Tensor]:
    """What x says of two components, and how likely labels are by their experts; both of the row's true component."""
    n = N * CLIENTS
    true = torch.bernoulli(torch.full((n,), 0.7), generator=draw(seed)).long()
    hot = torch.nn.functional.one_hot(true, 2).double()
    noise = torch.randn(n, 2, generator=draw(seed + 1000), dtype=torch.float64)
    label = hot * 2.0 + 0.3 * torch.randn(n, 2, generator=draw(seed + 2000), dtype=torch.float64)
    return strength * hot + noise, label.log_softmax(1)


def told(log_labels: Tensor) -> Callable[[Tensor], Tensor]:
    """Likelihoods at one temperature, 1, from log p_k(y | x) of each row's label."""
    return lambda gate: (gate + log_labels.double()).logsumexp(1).sum()[None]


def passes(seed: int, strength: float) -> bool:
    evidence, labels = case(seed, strength)
    return better(likelihoods(evidence, told(labels), PI, held(), 99, 0), 0.05)


def test_by_hand():
    """Two rows of one client; T of the gate and of the proportions, and rows that change places."""
    rows, pi = held(2, 1), torch.tensor([[0.25, 0.75]])
    evidence, labels = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[-0.1, -2.0], [-1.0, -0.2]])
    odds = pi * evidence.exp()
    gate = odds / odds.sum(1, keepdim=True)
    stay, swap, plain = (float((one * labels.exp()).sum(1).log().sum()) for one in (gate, gate.flip(0), pi))
    found = likelihoods(evidence, told(labels), pi, rows, 30, 0)[:, 0]
    assert found[:2].tolist() == pytest.approx([stay, plain], abs=1e-6)
    assert {round(value, 4) for value in found[2:].tolist()} == {round(stay, 4), round(swap, 4)}


def test_sums_of_clients_add_up_whatever_the_chunks():
    evidence, labels = case(0, 1.0)
    rows = held()
    whole = likelihoods(evidence, told(labels), PI, rows, 9, 0)
    parts = torch.zeros_like(whole)
    for i in range(CLIENTS):
        mine = rows.client_index == i
        one = pack([Client(str(j), torch.zeros(N, 1)) for j in range(CLIENTS)], [i])
        parts += likelihoods(evidence[mine], told(labels[mine]), PI[:1], one, 9, 0)
    torch.testing.assert_close(whole, parts)


def test_a_gate_that_tells_is_found_and_one_that_guesses_is_not():
    assert all(passes(seed, 2.0) for seed in range(5))
    guessed = [passes(seed, 0.0) for seed in range(20)]
    assert sum(guessed) <= 1


def test_a_gate_as_good_as_its_permutations_is_off_though_it_beats_the_proportions():
    assert not better(torch.tensor([-1.0, -2.0, *[-1.0] * 19])[:, None], 0.05)


def test_each_is_taken_at_its_best_temperature():
    sums = torch.tensor([[-9.0, -1.0], [-2.0, -3.0], *[[-4.0, -5.0]] * 19])
    assert better(sums, 0.05)
    assert not better(sums[:, :1], 0.05)
