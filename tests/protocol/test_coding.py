"""Every codec around every method: what arrives, what is kept, what it costs, and what everybody holds then."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from federations import gaussian_scenario, make_task
from fedgmi import tree
from fedgmi.data.rows import pack as pack_rows
from fedgmi.errors import ConfigError
from fedgmi.methods import METHODS, Method
from fedgmi.protocol import sizes, wire
from fedgmi.protocol.blocks import cut, first_blocks, still_held
from fedgmi.protocol.codecs.broadcast import LEFT
from fedgmi.protocol.codecs.coding import Coding
from fedgmi.protocol.compress import lossless
from fedgmi.protocol.in_process import InProcess
from fedgmi.protocol.ledger import Ledger
from fedgmi.protocol.message import Message, Models, flatten
from fedgmi.protocol.noise import gaussian_noise
from fedgmi.protocol.opening import join, received
from fedgmi.protocol.phases import phase_of
from fedgmi.protocol.robust import robust
from fedgmi.protocol.rounds import Progress, participants, run_rounds
from fedgmi.protocol.secure_sum import masked_sum
from fedgmi.protocol.step import ProgramError, Step, select
from fedgmi.protocol.wrapper import MEMORY, Place, apart, send
from fedgmi.settings.communication import CommunicationSettings
from fedgmi.settings.robust import RobustSettings
from fedgmi.tree import Tree

ROOMY = gaussian_scenario(6, 40, separation=4.0)
N, ROUNDS = len(ROOMY.federation.clients), 3
CODECS = {
    "bfloat16": CommunicationSettings(precision="bfloat16"),
    "8": CommunicationSettings(precision="8"),
    "4": CommunicationSettings(precision="4"),
    "2": CommunicationSettings(precision="2"),
    "top": CommunicationSettings(top=0.3),
    "top at 4": CommunicationSettings(top=0.3, precision="4"),
    "mask": CommunicationSettings(mask=0.3),
    "layers at 8": CommunicationSettings(layers=0.5, precision="8"),
}
NO_MODELS = ("local",)


def method_of(name: str) -> Method:
    return METHODS[name](make_task(ROOMY.federation.schema, method=name))


def run(method: Method, codec: str = "", *wrappers: Any, rounds: int = ROUNDS, participation: float = 1.0) -> Any:
    coding = Coding(CODECS[codec], 0) if codec else None
    transport = InProcess(ROOMY.federation.clients, method.program, wrappers=wrappers, coding=coding)
    start = Progress(method.program.init())
    common = {"n_clients": N, "rounds": rounds, "participation": participation, "seed": 0}
    return run_rounds(method.name, method.program, transport, start, **common).server, transport


@pytest.fixture(scope="module")
def asked() -> dict[str, list[tuple[Step, Tree, Message]]]:
    """Of each method the exchanges in which models go up: what client 2 was sent, and its message. Made once."""
    return {}


def exchanges_of(name: str, asked: dict[str, Any]) -> list[tuple[Step, Tree, Message]]:
    if name not in asked:
        method, found = method_of(name), dict[str, tuple[Step, Tree, Message]]()

        class Watched(InProcess):
            def _each(self, step: Step, part: Tree, asked: Sequence[int]) -> Iterator[tuple[int, Message]]:
                for i, message in super()._each(step, part, asked):
                    if i == 2 and (message.models or step.updates):
                        found[step.name] = step, part, message
                    yield i, message

        transport = Watched(ROOMY.federation.clients, method.program, wrappers=(gaussian_noise(0.0),))
        run_rounds(name, method.program, transport, Progress(method.program.init()), n_clients=N, rounds=2, seed=0)
        asked[name] = list(found.values())
    return asked[name]


def numbers_of(message: Message) -> Tree:
    """Models by their mass, and updates."""
    found = {name: part.total.double() / part.mass.clamp(min=1e-6)[:, None] for name, part in message.models.items()}
    return found | {name: leaf.double() for name, leaf in message.replies.items() if name == "update"}


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("name", METHODS)
def test_what_arrives_is_what_was_sent_but_for_noise_of_mean_zero(name, codec, asked):
    """And of the largest entries: what arrives and what is kept are together what was sent."""
    found = exchanges_of(name, asked)
    assert bool(found) == (name not in NO_MODELS)
    program = method_of(name).program
    [wrapper] = Coding(CODECS[codec], 0).wrappers(program)
    for step, part, message in found:
        sent, repeats = numbers_of(message), 30
        read: dict[str, list[torch.Tensor]] = {}
        for seed in range(repeats):
            place = Place.of(step, part, 2, range(N), (1, 0), seed, {})
            travelling, kept = send([wrapper], message, place)
            arrived = wrapper.receive(travelling, place)
            assert {k: v.dtype for k, v in flatten(arrived).items()} == {
                k: v.dtype for k, v in flatten(message).items()
            }
            for part_name, models in message.models.items():
                assert torch.equal(models.mass, arrived.models[part_name].mass)
                assert torch.equal(models.holders, arrived.models[part_name].holders)
            for leaf, value in numbers_of(arrived).items():
                read.setdefault(leaf, []).append(value + kept[leaf][0].double() if leaf in kept else value)
        for leaf, values in read.items():
            every = torch.stack(values)
            error, expected = (every.mean(0) - sent[leaf]).square().sum(), every.var(0).sum() / repeats
            slack = 8 if "layers" in codec else 2.5
            assert float(error) <= slack * float(expected) + 1e-10 * float(sent[leaf].square().sum()), (step.name, leaf)


@pytest.mark.parametrize("name", METHODS)
def test_at_eight_bits_a_run_ends_near_the_plain_one(name):
    plain, _ = run(method_of(name), rounds=1)
    coded, transport = run(method_of(name), "8", rounds=1)
    assert {leaf for leaf in coded if not leaf.startswith(LEFT)} == plain.keys()
    for leaf, value in plain.items():
        if value.dtype == torch.float32 and value.ndim == 2 and leaf not in ("momentum", "second"):
            assert float((coded[leaf] - value).norm()) <= 0.15 * float(value.norm()) + 1e-3, leaf
    if name not in NO_MODELS:
        assert len(transport.wrappers) == 1


@pytest.mark.usefixtures("one_by_one")
@pytest.mark.parametrize(("participation", "codec"), [(1.0, "4"), (0.5, "4"), (0.5, "top at 4"), (1.0, "layers at 8")])
@pytest.mark.parametrize("name", METHODS)
def test_bytes_are_those_of_parcels_and_clients_hold_what_the_server_holds(name, participation, codec):
    """Every parcel really made and read, by clients that keep blocks as sites do."""
    method, coding = method_of(name), Coding(CODECS[codec], 0)
    transport = InProcess(ROOMY.federation.clients, method.program, coding=coding)
    literal = Literal(method, coding)
    server = transport.settle({}, method.program.init(), 0, "start")
    literal.begin(method.program.init())
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
                before, message = server, transport.exchange(step, server, ids, round)
                after = step.server(server, message, round)
                server = transport.settle(before, after, round, step.name)
                again = literal.chain.settle(before, after, round, step.name)
                assert all(torch.equal(again[leaf], value) for leaf, value in server.items())
                number += 1
    assert torch.equal(transport.ledger.by_client(), literal.ledger.by_client())
    for leaf, value in transport.states.items():
        torch.testing.assert_close(literal.states[leaf], value, rtol=0, atol=0)


class Literal:
    """Every request and reply made, and read, one by one: what a deployment does."""

    def __init__(self, method: Method, coding: Coding) -> None:
        self.program = method.program
        self.states = self.program.client_init(tuple(range(N)))
        self.kept: list[dict[str, bytes]] = [{} for _ in range(N)]
        self.held: list[dict[str, int]] = [{} for _ in range(N)]
        self.base: list[tuple[int, int] | None] = [None] * N
        self.ledger = Ledger(N)
        self.chain, self.wrappers = coding.broadcast(self.program), coding.wrappers(self.program)
        assert self.chain is not None

    def begin(self, server: Tree) -> None:
        """Both sides draw the first state."""
        first = first_blocks(self.chain.settle({}, server, 0, "start"))
        self.kept = [dict(first) for _ in range(N)]
        self.held = [dict.fromkeys(first, 0) for _ in range(N)]

    def exchange(self, step, server, ids, at, index) -> None:
        blocks = replace(cut(select(server, step.reads)), links=self.chain.links)
        for i in ids:
            header = sizes.request_header(round=at[0], number=at[1], step=index) | {"id": i, "base": self.base[i]}
            request = blocks.parcel(header, self.held[i])
            self.ledger.add(at[0], "statistics", i, down=request.n_bytes)
            came = received(request, self.kept[i], self.chain.decode)
            part = join(request, self.kept[i], self.chain.decode)
            for leaf, value in select(server, step.reads).items():
                assert torch.equal(part[leaf], value)
            self.held[i] = still_held(self.held[i], blocks.blocks, at[0], self.chain.rounds_held)
            self.kept[i] = {name: (self.kept[i] | came)[name] for name in self.held[i]}
            self.base[i] = at
            self.answer(step, part, i, at)

    def answer(self, step, part, i, at) -> None:
        rows, own = pack_rows(ROOMY.federation.clients, [i]), torch.tensor([i])
        states, memory = apart(tree.take(self.states, own))
        states, message = step.client(part, states, rows, at[0])
        place = Place.of(step, part, i, (), at, 0, memory)
        plain = {name: (wire.dtype_name(leaf), list(leaf.shape)) for name, leaf in flatten(message).items()}
        message, left = send(self.wrappers, message, place)
        for name, (_, shape) in self.wrappers[0].layout(plain, place).items():
            assert list(flatten(message)[name].shape) == shape
        for name, leaf in (states | {MEMORY + name: leaf for name, leaf in left.items()}).items():
            if name not in self.states or self.states[name].shape[1:] != leaf.shape[1:]:
                self.states[name] = leaf.new_zeros((N, *leaf.shape[1:]))
            self.states = self.states | tree.put({name: self.states[name]}, own, {name: leaf})
        parcel = wire.pack(message, {"rows": len(rows)})
        assert all(torch.equal(leaf, flatten(message)[name]) for name, leaf in flatten(wire.unpack(parcel)).items())
        self.ledger.add(at[0], "statistics", i, up=parcel.n_bytes)


def test_nothing_is_coded_where_nothing_is_set():
    """Bit for bit, and byte for byte."""
    method = method_of("fedgmi")
    server, plain = run(method)
    transport = InProcess(ROOMY.federation.clients, method.program, coding=Coding())
    start = Progress(method.program.init())
    end = run_rounds("fedgmi", method.program, transport, start, n_clients=N, rounds=ROUNDS, seed=0)
    assert all(torch.equal(end.server[leaf], value) for leaf, value in server.items())
    assert transport.ledger == plain.ledger
    assert not transport.wrappers


def test_what_the_largest_entries_leave_out_travels_later():
    """Of the same difference again and again, the sum of what arrived and of what is left is what was meant."""
    method = method_of("fedavg")
    [step], server, n = method.program.round, method.program.init(), 90
    [wrapper] = Coding(CODECS["top"], 0).wrappers(method.program)
    moved = torch.randn(1, n, generator=torch.Generator().manual_seed(0)) ** 3
    mass = torch.tensor([4.0], dtype=torch.float64)
    message = Message({"expert": Models(4 * (server["expert"] + moved), mass, torch.ones(1, 1, dtype=torch.bool))})
    arrived, memory, touched = torch.zeros(1, n), dict[str, torch.Tensor](), torch.zeros(1, n)
    for round in range(1, 9):
        place = Place.of(step, server, 0, range(N), (round, 0), 0, memory)
        sent, memory = send([wrapper], message, place)
        read = wrapper.receive(sent, place).models["expert"].total / 4 - server["expert"]
        arrived, touched = arrived + read, touched + (read.abs() > 1e-6)
        torch.testing.assert_close(arrived + memory["expert"][0], round * moved, atol=1e-4, rtol=1e-4)
        assert int((read.abs() > 1e-6).sum()) <= 27
    assert int((touched > 0).sum()) > 35


def test_error_feedback_brings_a_run_nearer_to_the_plain_one():
    """Upward: the server's own models travel whole here."""
    method, ends = method_of("fedavg"), []
    plain, _ = run(method, rounds=12)
    [step] = method.program.round
    for forgets in (False, True):
        transport = InProcess(ROOMY.federation.clients, method.program, coding=Coding(CODECS["top"], 0))
        server = method.program.init()
        with torch.no_grad():
            for round in range(1, 13):
                server = step.server(server, transport.exchange(step, server, range(N), round), round)
                assert transport.states[f"{MEMORY}expert"].shape == (N, 1, server["expert"].shape[1])
                transport.states = {} if forgets else transport.states
        ends.append(float((server["expert"] - plain["expert"]).norm()))
    assert ends[0] < 0.7 * ends[1]


def test_a_client_that_missed_rounds_gets_links_or_the_model_whole_whichever_is_less():
    """And then holds what the server holds."""
    program = method_of("fedavg").program
    chain = Coding(CODECS["4"], 0).broadcast(program)
    assert chain is not None
    draws, server = torch.Generator().manual_seed(0), {"expert": torch.zeros(1, 8192)}
    server = chain.settle({}, {"expert": torch.randn(1, 8192, generator=draws)}, 0, "start")
    first, sizes_by_gap = cut(server), list[int]()
    kept = received(first.parcel({}), {})
    for round in range(1, 12):
        moved = {"expert": server["expert"] + 0.1 * torch.randn(1, 8192, generator=draws)}
        server = chain.settle(server, moved, round, "train")
        assert 0 < float((server["expert"] - moved["expert"]).norm()) < 0.2 * float((moved["expert"]).norm())
        blocks = replace(cut(server), links=chain.links)
        parcel = blocks.parcel({}, kept)
        assert torch.equal(join(parcel, kept, chain.decode)["expert"], server["expert"])
        sizes_by_gap.append(len(parcel.payload))
        assert set(parcel.header.get("forms", "")) <= {"w", "l"}
    assert sizes_by_gap == sorted(sizes_by_gap)
    assert sizes_by_gap[0] < 4096 + 8 * 32 + 400  # 4 bits a number, a scale of 2 bytes to 256 of them
    about = len(cut(server).blocks[cut(server).leaves["expert"][0]])
    assert sizes_by_gap[0] == Coding(CODECS["4"], 0).down_bytes(8192) + about
    assert sizes_by_gap[2] < 3 * sizes_by_gap[0]
    assert sizes_by_gap[-1] == sizes_by_gap[-2] < 4 * 8192 + 400  # whole


def test_a_new_model_travels_in_two_bytes_a_number():
    chain = Coding(CODECS["4"], 0).broadcast(method_of("fedavg").program)
    assert chain is not None
    server = chain.settle({}, {"expert": torch.randn(2, 5000)}, 0, "start")
    parcel = replace(cut(server), links=chain.links).parcel({})
    assert 20_000 < len(parcel.payload) < 20_600
    assert torch.equal(join(parcel, {}, chain.decode)["expert"], server["expert"])


def test_models_that_are_the_same_travel_once():
    """What judges rows is what was sent for training: a copy of it costs its name alone."""
    chain = Coding(CODECS["2"], 0).broadcast(method_of("fedgmi").program)
    assert chain is not None
    first = chain.settle({}, {"expert": torch.randn(2, 5000), "reference/expert": torch.zeros(2, 5000)}, 0, "start")
    moved = first["expert"] + 0.1 * torch.randn(2, 5000)
    both = chain.settle(first, {"expert": moved, "reference/expert": moved}, 1, "em")
    assert both["reference/expert"] is both["expert"]
    later = chain.settle(both, both | {"reference/expert": both["expert"].clone()}, 2, "em")
    assert torch.equal(later["reference/expert"], later["expert"])
    blocks = replace(cut(both), links=chain.links)
    assert len(blocks.parcel({}, cut(first).blocks).payload) < 5000


def test_masks_over_coded_messages_are_refused_and_so_is_coding_of_masked_ones():
    for wrapper in (masked_sum(), lossless()):
        with pytest.raises(ConfigError, match=r"codec works on numbers, and what .* sends are none"):
            run(method_of("fedavg"), "4", wrapper)


def test_robust_rules_see_what_was_decoded():
    """A median over coded messages is near that over plain ones, and one that lies does not move it."""
    median = robust(RobustSettings(aggregation="median"))
    expected, _ = run(method_of("fedavg"), "", median, rounds=1)
    found, _ = run(method_of("fedavg"), "8", median, rounds=1)
    assert float((found["expert"] - expected["expert"]).norm()) < 0.05 * float(expected["expert"].norm())


def test_a_model_of_which_nobody_says_where_it_stands_is_refused():
    method = method_of("fedavg")
    [step] = method.program.round
    silent = replace(method.program, round=(replace(step, models=None),))
    transport = InProcess(ROOMY.federation.clients, silent, coding=Coding(CODECS["4"], 0))
    with pytest.raises(ProgramError, match="does not say where that stands"):
        transport.exchange(silent.round[0], method.program.init(), range(N), 1)
