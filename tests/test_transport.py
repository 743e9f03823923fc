"""The in-process transport: who is asked, how replies are joined, and where states are kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from federations import gaussian_scenario
from fedgmi.data import Client
from fedgmi.data.rows import Rows, chunks
from fedgmi.methods import Message, Method, Step
from fedgmi.protocol import in_process
from fedgmi.protocol.in_process import InProcess
from fedgmi.tree import Tree

CLIENTS = [Client(f"c{i}", torch.full((i + 1, 2), float(i)), torch.full((i + 1,), i % 2)) for i in range(5)]


def keep(server: Tree, sums: Tree, round: int) -> Tree:
    return server


def method_with(**states: Any) -> Method:
    """A method that does nothing, with states counted from the client's id."""

    def client_init(ids: tuple[int, ...]) -> Tree:
        return {name: value(ids) for name, value in states.items()}

    return Method("none", dict, client_init, (), lambda server, states, rows: rows.x)


def tell_rows(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
    sums = {"x": rows.x.sum(0), "n": rows.counts.sum(), "round": torch.tensor(round * rows.n_clients)}
    return states, Message(sums, 3 * rows.n_clients, rows.n_clients)


def tell_ids(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
    return states, Message({"id": torch.tensor(rows.ids), "n": rows.counts}, rows.n_clients, 2 * rows.n_clients)


@pytest.fixture(params=["all at once", "one by one"])
def any_chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "one by one":
        monkeypatch.setattr(in_process, "chunks", lambda clients, ids: chunks(clients, ids, max_bytes=1))


@pytest.mark.usefixtures("any_chunks")
def test_sums_are_over_those_who_are_asked():
    message = InProcess(CLIENTS, method_with()).exchange(Step("sum", tell_rows, keep), {}, [4, 1, 2], 7)
    assert message.values["x"].tolist() == [5 * 4.0 + 2 * 1.0 + 3 * 2.0] * 2
    assert int(message.values["n"]) == 10
    assert int(message.values["round"]) == 21
    assert (message.down, message.up) == (9, 3)


@pytest.mark.usefixtures("any_chunks")
def test_stacked_replies_come_in_the_order_of_the_clients():
    message = InProcess(CLIENTS, method_with()).exchange(Step("each", tell_ids, keep, "stack"), {}, [3, 0, 4], 1)
    assert message.values["id"].tolist() == [0, 3, 4]
    assert message.values["n"].tolist() == [1, 4, 5]
    assert (message.down, message.up) == (3, 6)


@pytest.mark.usefixtures("any_chunks")
def test_states_go_to_their_own_clients_and_absent_ones_stay():
    def add_own_size(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        assert torch.equal(states["id"], torch.tensor(rows.ids))
        return states | {"total": states["total"] + rows.counts}, Message()

    method = method_with(id=torch.tensor, total=lambda ids: 10 * torch.tensor(ids))
    transport = InProcess(CLIENTS, method)
    step = Step("add", add_own_size, keep)
    transport.exchange(step, {}, [3, 1], 1)
    transport.exchange(step, {}, [3], 2)
    assert transport.states["total"].tolist() == [0, 12, 20, 38, 40]


@pytest.mark.usefixtures("any_chunks")
def test_a_new_leaf_starts_as_zeros_for_those_who_were_not_asked():
    def remember(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        width = int(server["width"])
        return states | {"new": rows.x[:, :1].new_ones(rows.n_clients, width) * rows.counts[:, None]}, Message()

    transport = InProcess(CLIENTS, method_with(id=torch.tensor))
    transport.exchange(Step("remember", remember, keep), {"width": torch.tensor(2)}, [1, 4], 1)
    assert transport.states["new"].tolist() == [[0, 0], [2, 2], [0, 0], [0, 0], [5, 5]]
    transport.exchange(Step("remember", remember, keep), {"width": torch.tensor(3)}, [0, 1, 2, 3, 4], 2)
    assert transport.states["new"].tolist() == [[n] * 3 for n in (1, 2, 3, 4, 5)]


def test_what_a_client_keeps_between_exchanges_is_its_own():
    """The cache lasts while the same clients are asked, and is theirs alone."""
    seen: list[tuple[tuple[int, ...], list[str]]] = []

    def look(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        seen.append((rows.ids, sorted(rows.cache)))
        rows.cache[f"of {rows.ids}"] = rows.x
        return states, Message()

    transport, step = InProcess(CLIENTS, method_with()), Step("look", look, keep)
    for ids in ([0, 1], [0, 1], [2, 3], [2, 3, 4], [0, 1]):
        transport.exchange(step, {}, ids, 1)
    assert seen[0] == ((0, 1), [])
    assert seen[1] == ((0, 1), ["of (0, 1)"])
    assert seen[2] == ((2, 3), [])
    assert seen[3] == ((2, 3, 4), [])
    assert seen[4] == ((0, 1), [])  # no more rows are kept than there are


def test_an_empty_message_is_the_identity():
    message = Message({"a": torch.ones(2)}, 3, 4)
    for total in (message + Message(), Message() + message):
        assert total.values["a"].tolist() == [1.0, 1.0]
        assert (total.down, total.up) == (3, 4)
    both = message + Message({"a": torch.ones(2), "b": torch.ones(1)}, 1, 1)
    assert {name: leaf.tolist() for name, leaf in both.values.items()} == {"a": [2.0, 2.0], "b": [1.0]}


def test_truth_reaches_only_a_transport_that_was_given_it():
    scenario = gaussian_scenario()
    assert scenario.truth is not None
    components, seen = scenario.truth.components, []

    def look(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        seen.append(rows.component)
        return states, Message()

    step = Step("look", look, keep)
    InProcess(scenario.federation.clients, method_with()).exchange(step, {}, [2, 5], 1)
    InProcess(scenario.federation.clients, method_with(), components=components).exchange(step, {}, [2, 5], 1)
    assert seen[0] is None
    assert torch.equal(seen[1], torch.cat([components[2], components[5]]))
