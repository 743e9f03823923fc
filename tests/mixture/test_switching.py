"""Whether a gate is worth more than proportions, told by labels of unseen rows."""

from __future__ import annotations

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


def test_by_hand():
    """Two rows of one client; T of the gate and of the proportions, and rows that change places."""
    rows, pi = held(2, 1), torch.tensor([[0.25, 0.75]])
    evidence, labels = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[-0.1, -2.0], [-1.0, -0.2]])
    odds = pi * evidence.exp()
    gate = odds / odds.sum(1, keepdim=True)
    stay, swap, plain = (float((one * labels.exp()).sum(1).log().sum()) for one in (gate, gate.flip(0), pi))
    found = likelihoods(evidence, labels, pi, rows, 30, 0)
    assert found[:2].tolist() == pytest.approx([stay, plain], abs=1e-6)
    assert {round(value, 4) for value in found[2:].tolist()} == {round(stay, 4), round(swap, 4)}


def test_sums_of_clients_add_up_whatever_the_chunks():
    evidence, labels = case(0, 1.0)
    rows = held()
    whole = likelihoods(evidence, labels, PI, rows, 9, 0)
    parts = torch.zeros_like(whole)
    for i in range(CLIENTS):
        mine = rows.client_index == i
        one = pack([Client(str(j), torch.zeros(N, 1)) for j in range(CLIENTS)], [i])
        parts += likelihoods(evidence[mine], labels[mine], PI[:1], one, 9, 0)
    torch.testing.assert_close(whole, parts)


def test_a_gate_that_tells_is_found_and_one_that_guesses_is_not():
    told = [better(likelihoods(*case(seed, 2.0), PI, held(), 99, 0), 0.05) for seed in range(5)]
    guessed = [better(likelihoods(*case(seed, 0.0), PI, held(), 99, 0), 0.05) for seed in range(20)]
    assert all(told)
    assert sum(guessed) <= 1


def test_a_gate_as_good_as_its_permutations_is_off_though_it_beats_the_proportions():
    assert not better(torch.tensor([-1.0, -2.0, *[-1.0] * 19]), 0.05)
