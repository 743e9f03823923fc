"""The in-process transport: who is asked, how replies are joined, and where states are kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from federations import gaussian_scenario
from fedgmi.data.rows import Client, Rows, chunks
from fedgmi.protocol import in_process
from fedgmi.protocol.in_process import InProcess
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import Program, Step
from fedgmi.tree import Tree

CLIENTS = [Client(f"c{i}", torch.full((i + 1, 2), float(i)), torch.full((i + 1,), i % 2)) for i in range(5)]


def program_with(**states: Any) -> Program:
    """A program that does nothing, with states counted from the client's id."""

    def client_init(ids: tuple[int, ...]) -> Tree:
        return {name: value(ids) for name, value in states.items()}

    return Program(dict, client_init, ())


def tell_rows(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
    sums = {"x": rows.x.sum(0), "n": rows.counts.sum(), "round": torch.tensor(round * rows.n_clients)}
    return states, Message(sums=sums)


def tell_ids(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
    return states, Message(replies={"id": torch.tensor(rows.ids), "n": rows.counts})


@pytest.fixture(params=["all at once", "one by one"])
def any_chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "one by one":
        monkeypatch.setattr(in_process, "chunks", lambda clients, ids: chunks(clients, ids, max_bytes=1))


@pytest.mark.usefixtures("any_chunks")
def test_sums_are_over_those_who_are_asked():
    transport = InProcess(CLIENTS, program_with())
    message = transport.exchange(Step("sum", tell_rows), {}, [4, 1, 2], 7)
    assert message.sums["x"].tolist() == [5 * 4.0 + 2 * 1.0 + 3 * 2.0] * 2
    assert int(message.sums["n"]) == 10
    assert int(message.sums["round"]) == 21
    assert (transport.ledger.by_client() > 0).all(1).tolist() == [False, True, True, False, True]


@pytest.mark.usefixtures("any_chunks")
def test_stacked_replies_come_in_the_order_of_the_clients():
    message = InProcess(CLIENTS, program_with()).exchange(Step("each", tell_ids, single=True), {}, [3, 0, 4], 1)
    assert message.replies["id"].tolist() == [0, 3, 4]
    assert message.replies["n"].tolist() == [1, 4, 5]


@pytest.mark.usefixtures("any_chunks")
def test_states_go_to_their_own_clients_and_absent_ones_stay():
    def add_own_size(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        assert torch.equal(states["id"], torch.tensor(rows.ids))
        return states | {"total": states["total"] + rows.counts}, Message()

    program = program_with(id=torch.tensor, total=lambda ids: 10 * torch.tensor(ids))
    transport = InProcess(CLIENTS, program)
    step = Step("add", add_own_size)
    transport.exchange(step, {}, [3, 1], 1)
    transport.exchange(step, {}, [3], 2)
    assert transport.states["total"].tolist() == [0, 12, 20, 38, 40]


@pytest.mark.usefixtures("any_chunks")
def test_a_new_leaf_starts_as_zeros_for_those_who_were_not_asked():
    def remember(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        width = int(server["width"])
        return states | {"new": rows.x[:, :1].new_ones(rows.n_clients, width) * rows.counts[:, None]}, Message()

    transport = InProcess(CLIENTS, program_with(id=torch.tensor))
    transport.exchange(Step("remember", remember, reads=("width",)), {"width": torch.tensor(2)}, [1, 4], 1)
    assert transport.states["new"].tolist() == [[0, 0], [2, 2], [0, 0], [0, 0], [5, 5]]
    transport.exchange(Step("remember", remember, reads=("width",)), {"width": torch.tensor(3)}, [0, 1, 2, 3, 4], 2)
    assert transport.states["new"].tolist() == [[n] * 3 for n in (1, 2, 3, 4, 5)]


def test_what_a_client_keeps_between_exchanges_is_its_own():
    """The cache lasts while the same clients are asked, and is theirs alone."""
    seen: list[tuple[tuple[int, ...], list[str]]] = []

    def look(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        seen.append((rows.ids, sorted(rows.cache)))
        rows.cache[f"of {rows.ids}"] = rows.x
        return states, Message()

    transport, step = InProcess(CLIENTS, program_with()), Step("look", look)
    for ids in ([0, 1], [0, 1], [2, 3], [2, 3, 4], [0, 1]):
        transport.exchange(step, {}, ids, 1)
    assert seen[0] == ((0, 1), [])
    assert seen[1] == ((0, 1), ["of (0, 1)"])
    assert seen[2] == ((2, 3), [])
    assert seen[3] == ((2, 3, 4), [])
    assert seen[4] == ((0, 1), [])  # no more rows are kept than there are


def test_a_client_gets_what_a_step_reads_and_no_more():
    seen: list[list[str]] = []

    def look(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        seen.append(sorted(server))
        return states, Message()

    server = {"a": torch.ones(1), "gate/b": torch.ones(1), "gate/c": torch.ones(1), "gates": torch.ones(1)}
    transport = InProcess(CLIENTS, program_with())
    for reads in ((), ("a",), ("gate",), ("gate/c", "a")):
        transport.exchange(Step("look", look, reads=reads), server, [0], 1)
    assert seen == [[], ["a"], ["gate/b", "gate/c"], ["a", "gate/c"]]


def test_truth_reaches_only_a_transport_that_was_given_it():
    scenario = gaussian_scenario()
    assert scenario.truth is not None
    components, seen = scenario.truth.components, []

    def look(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        seen.append(rows.component)
        return states, Message()

    step = Step("look", look)
    InProcess(scenario.federation.clients, program_with()).exchange(step, {}, [2, 5], 1)
    InProcess(scenario.federation.clients, program_with(), components=components).exchange(step, {}, [2, 5], 1)
    assert seen[0] is None
    assert torch.equal(seen[1], torch.cat([components[2], components[5]]))
