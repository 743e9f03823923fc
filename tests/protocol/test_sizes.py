"""What a simulation enters in its ledger is what parcels, really made, take."""

from __future__ import annotations

import pytest
import torch

from federations import gaussian_scenario, make_task, transport_for
from fedgmi import tree
from fedgmi.data.rows import pack as pack_rows
from fedgmi.methods import METHODS
from fedgmi.protocol import sizes, wire
from fedgmi.protocol.blocks import cut, still_held
from fedgmi.protocol.ledger import Ledger
from fedgmi.protocol.phases import phase_of
from fedgmi.protocol.rounds import participants
from fedgmi.protocol.step import select

SMALL = gaussian_scenario()
N, ROUNDS = len(SMALL.federation.clients), 3


class Serialising:
    """Every request and reply made one by one, for each client, as a deployment makes them."""

    def __init__(self, method) -> None:
        self.program = method.program
        self.states = self.program.client_init(tuple(range(N)))
        self.held: list[dict[str, int]] = [{} for _ in range(N)]
        self.base: list[tuple[int, int] | None] = [None] * N
        self.ledger = Ledger(N)

    def exchange(self, step, server, ids, at, index) -> None:
        part = select(server, step.reads)
        blocks = cut(part)
        for i in ids:
            header = sizes.request_header(round=at[0], number=at[1], step=index) | {"id": i, "base": self.base[i]}
            request = blocks.parcel(header, self.held[i])
            self.ledger.add(at[0], "statistics", i, down=request.n_bytes)
            self.held[i], self.base[i] = still_held(self.held[i], blocks.blocks, at[0]), at
            rows = pack_rows(SMALL.federation.clients, [i])
            own = torch.tensor([i])
            states, message = step.client(part, tree.take(self.states, own), rows, at[0])
            for name, leaf in states.items():
                if name not in self.states or self.states[name].shape[1:] != leaf.shape[1:]:
                    self.states[name] = leaf.new_zeros((N, *leaf.shape[1:]))
            self.states = tree.put(self.states, own, states)
            self.ledger.add(at[0], "statistics", i, up=wire.pack(message, {"rows": len(rows)}).n_bytes)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("participation", [1.0, 0.5])
def test_bytes_are_those_of_parcels(name, participation):
    method = METHODS[name](make_task(SMALL.federation.schema, method=name))
    transport, literal, server = transport_for(method, SMALL), Serialising(method), method.program.init()
    with torch.no_grad():
        for round in range(ROUNDS + 2):
            phase, number = phase_of(round, ROUNDS), 0
            ids = participants(N, participation, 0, round) if phase == "round" else list(range(N))
            steps = method.program.steps(phase)
            for step in steps:
                if step.when is not None and not step.when(server):
                    continue
                index = next(n for n, other in enumerate(steps) if other is step)
                literal.exchange(step, server, ids, (round, number), index)
                server = step.server(server, transport.exchange(step, server, ids, round), round)
                number += 1
    assert torch.equal(transport.ledger.by_client(), literal.ledger.by_client())
    assert transport.ledger.totals() == literal.ledger.totals()


def test_what_has_not_changed_travels_once():
    method = METHODS["fedavg"](make_task(SMALL.federation.schema, method="fedavg"))
    transport, server = transport_for(method, SMALL), method.program.init()
    [step] = method.program.round
    with torch.no_grad():
        transport.exchange(step, server, range(N), 1)
        model = transport.ledger.by_kind(1)["expert"][0]
        transport.exchange(step, server, range(N), 2)
        assert transport.ledger.by_kind(2).get("expert", (0, 0))[0] == 0
        changed = {"expert": server["expert"] + 1}
        transport.exchange(step, changed, range(N), 3)
    assert model == transport.ledger.by_kind(3)["expert"][0] == N * server["expert"].nbytes
