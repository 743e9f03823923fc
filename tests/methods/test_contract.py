"""What every method of the tables keeps to, on a federation of six clients with twenty rows each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest
import torch

from federations import (
    gaussian_scenario,
    make_task,
    payload,
    rows_of,
    run,
    transport_for,
    with_program,
    without_labels,
)
from fedgmi import tree
from fedgmi.data.rows import Client, Rows, pack
from fedgmi.data.scenarios.truth import Scenario
from fedgmi.errors import ConfigError
from fedgmi.methods import BOUNDS, METHODS, Method, Task
from fedgmi.methods.candidates import TRIED
from fedgmi.methods.contract import wrong_entry
from fedgmi.methods.disclosing import disclosing
from fedgmi.methods.own_models import NOBODY
from fedgmi.methods.standardising import standardised
from fedgmi.protocol import in_process
from fedgmi.protocol.message import Message, flatten, mean_by_mass
from fedgmi.protocol.rounds import Progress
from fedgmi.protocol.step import Program, ProgramError, Step, check_program, covers, select
from fedgmi.protocol.step import changed as changed_leaves
from fedgmi.runs.config import Config
from fedgmi.runs.setup import losses_of
from fedgmi.settings.communication import CommunicationSettings
from fedgmi.tree import Tree

SMALL = gaussian_scenario()
Groups = list[tuple[int, ...]]
oracle = BOUNDS["oracle"]


def assert_same(left: Tree, right: Tree, tolerance: float) -> None:
    assert left.keys() == right.keys()
    for name, leaf in left.items():
        torch.testing.assert_close(leaf, right[name], atol=tolerance, rtol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


def assert_finite(*trees: Tree) -> None:
    for state in trees:
        for name, leaf in state.items():
            assert isinstance(leaf, torch.Tensor)
            assert bool(leaf.isfinite().all()), name


def assert_sound(method: Method, server: Tree, states: Tree, scenario: Scenario) -> None:
    """Finite states, normalised predictions, proportions on the simplex."""
    assert_finite(server, states)
    rows = pack(scenario.federation.held_out)
    n_classes = scenario.federation.schema.n_classes
    if n_classes:
        log_probs = method.predictor.predict(server, states, replace(rows, y=None))
        assert log_probs.shape == (len(rows), n_classes)
        assert float(log_probs.logsumexp(1).abs().max()) < 1e-5
    if method.predictor.proportions is not None:
        proportions = method.predictor.proportions(states)
        assert bool((proportions >= 0).all())
        torch.testing.assert_close(proportions.sum(1), torch.ones(rows.n_clients, dtype=torch.float64))
    if method.predictor.responsibilities is not None:
        resp = method.predictor.responsibilities(server, states, pack(scenario.federation.clients))
        torch.testing.assert_close(resp.sum(1), torch.ones(len(resp), dtype=torch.float64))


def lay_out(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Make the transport pack clients one by one, or all of them the wrong way round."""

    def chunks(clients: Sequence[Client], ids: Iterable[int]) -> Groups:
        return [(i,) for i in ids] if how == "one by one" else [tuple(reversed(list(ids)))]

    monkeypatch.setattr(in_process, "chunks", chunks)


def changed(scenario: Scenario, clients: dict[int, slice | torch.Tensor]) -> Scenario:
    """The scenario with only these rows left of some clients."""
    federation, truth = scenario.federation, scenario.truth
    assert truth is not None
    kept, components = list(federation.clients), list(truth.components)
    for i, rows in clients.items():
        old = kept[i]
        kept[i] = replace(old, x=old.x[rows], y=None if old.y is None else old.y[rows])
        components[i] = components[i][rows]
    return Scenario(replace(federation, clients=tuple(kept)), replace(truth, components=tuple(components)))


def test_states_are_finite_and_predictions_normalised(trained):
    assert_sound(*trained, SMALL)


ROOMY = gaussian_scenario(5, 40, separation=4.0)


@pytest.fixture(scope="module")
def usual() -> dict[str, tuple[Tree, Tree, Progress]]:
    """Runs by case, as clients are packed usually, each made once."""
    return {}


@pytest.mark.parametrize("how", ["one by one", "in reverse"])
def test_how_clients_are_packed_changes_nothing(name, case, how, usual, monkeypatch):
    """A client's id goes with it, and its draws with its id: only the order of summation may show.

    With enough rows to calibrate on: on twenty a client, Fisher steps make much of the last bit.
    """
    if name not in usual:
        usual[name] = run(case.method(ROOMY), ROOMY)
    server, states, end = usual[name]
    lay_out(monkeypatch, how)
    other_server, other_states, other_end = run(case.method(ROOMY), ROOMY)
    assert_same(server, other_server, 2e-3)
    # passes at the end, over few rows: Adam makes more of a last bit
    nets, other_nets = (found.get("personal", torch.zeros(0)) for found in (states, other_states))
    torch.testing.assert_close(nets, other_nets, atol=1e-2, rtol=1e-2)
    rest, other_rest = ({k: v for k, v in found.items() if k != "personal"} for found in (states, other_states))
    assert_same(rest, other_rest, 2e-3)
    # weights that have converged to the last bit are not sent again
    exact = 1e-2 if "personal/weights" in server else 0
    assert (other_end.bytes_down, other_end.bytes_up) == pytest.approx((end.bytes_down, end.bytes_up), rel=exact)


def test_messages_are_additive(case):
    """Each step's message over all clients is the sum of the single clients' messages."""
    method = case.method(SMALL)
    transport, server = transport_for(method, SMALL), method.program.init()
    everyone = tuple(range(6))
    components = SMALL.truth.components if case.name == "oracle" else None
    with torch.no_grad():
        for step in method.program.all_steps:
            single = Message()
            for i in everyone:
                rows = pack(SMALL.federation.clients, [i], components, validation=SMALL.federation.validation)
                states = tree.take(transport.states, torch.tensor([i]))
                own = step.client(select(server, step.reads), states, rows, 1)[1]
                for models in own.models.values():
                    assert torch.equal(models.holders, (models.mass != 0).cpu()[None])
                single = single + own
            message = transport.exchange(step, server, everyone, 1)
            assert_same(flatten(message), flatten(single), 1e-4)
            for name, models in message.models.items():
                assert torch.equal(models.holders, single.models[name].holders)
            server = step.server(server, message, 1)


@pytest.mark.parametrize("around", [None, standardised, disclosing])
def test_steps_keep_to_what_they_declare(case, around):
    """What the server part changes is in `writes`, replies are declared, and so are the models in messages.

    An undeclared read is an error by itself: a transport hands out what is in `reads`, and no more.
    """
    method = case.method(SMALL)
    if around is not None:
        method = around(method, SMALL.federation.schema) if around is standardised else around(method)
    transport, server = transport_for(method, SMALL), method.program.init()
    first = set(server)
    check_program(method.name, method.program, server)
    with torch.no_grad():
        for step in method.program.all_steps:
            message = transport.exchange(step, server, range(6), 1)
            updated = step.server(server, message, 1)
            for name in changed_leaves(server, updated):
                assert any(covers(entry, name) for entry in step.writes), f"{step.name} writes {name}"
                whole = name in first or name in step.writes
                assert whole, f"{step.name} makes {name}, which sites of a deployment take by its whole name alone"
            assert server.keys() <= updated.keys()
            assert bool(message.replies) == step.single
            assert bool(step.tells) == bool(flatten(message)), f"{step.name} tells {step.tells!r}"
            named = {} if step.models is None else step.models(server)
            for name, models in message.models.items():
                assert named[name].shape[1:] == models.total.shape[1:]
                assert torch.equal(models.holders.any(0), models.mass.cpu() != 0)
            server = updated


class Watched(dict[str, torch.Tensor]):
    """A server's state that remembers which of its leaves were read."""

    def __init__(self, leaves: Tree) -> None:
        super().__init__(leaves)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> torch.Tensor:
        self.read.add(name)
        return super().__getitem__(name)


def test_nothing_is_declared_in_vain(case):
    """What a step reads and writes it needs: all that it reads is sent to every client.

    Half of the clients are away in every round. Nobody keeps what it made of its rows.
    """
    method = case.method(SMALL)
    transport, server = transport_for(method, SMALL), method.program.init()
    read: dict[str, set[str]] = {step.name: set() for step in method.program.all_steps}

    def watch(step: Step) -> Step:
        def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
            watched = Watched(server)
            held = rows.validation and replace(rows.validation, cache={})
            answer = step.client(watched, states, replace(rows, cache={}, validation=held), round)
            read[step.name] |= watched.read
            return answer

        return replace(step, client=client)

    program = method.program
    phases = [(program.prepare, range(6)), *[(program.round, [0, 2, 4])] * 3, (program.finish, range(6))]
    ran: list[Step] = []
    with torch.no_grad():
        for number, (steps, ids) in enumerate(phases):
            for step in steps:
                if step.when is None or step.when(server):
                    server = step.server(server, transport.exchange(watch(step), server, ids, number), number)
                    ran.append(step)
    for step in ran:
        unread = [entry for entry in step.reads if not any(covers(entry, leaf) for leaf in read[step.name])]
        assert not unread, f"{step.name} reads {unread} in vain"
        unwritten = [entry for entry in step.writes if not any(covers(entry, leaf) for leaf in server)]
        assert not unwritten, f"{step.name} never writes {unwritten}"


def test_a_predictor_keeps_no_leaf_in_vain(trained):
    method, server, states = trained
    predictor, watched = method.predictor, Watched(server)
    held_out, clients = pack(SMALL.federation.held_out), pack(SMALL.federation.clients)
    bare = replace(held_out, y=None)
    predictor.predict(watched, states, bare)
    if predictor.responsibilities is not None:
        predictor.responsibilities(watched, states, clients)
    for function in (predictor.evidence, predictor.infer_client):
        for rows in (clients, bare):
            if function is not None:
                function(watched, replace(rows, cache={}))
    if predictor.welcome is not None:
        known = {} if predictor.infer_client is None else predictor.infer_client(server, clients)
        predictor.welcome(watched, known, replace(clients, cache={}))
    if predictor.expert is not None:
        predictor.expert(watched, bare.x)
    if predictor.density is not None:
        predictor.density(watched, bare.x, torch.zeros(len(bare), 1, 2))
    if predictor.pooled is not None:
        torch.testing.assert_close(predictor.pooled(watched).sum(), torch.ones((), dtype=torch.float64))
    for entry in predictor.reads:
        assert any(covers(entry, leaf) for leaf in watched.read), f"{entry} is kept in vain"
    for leaf in watched.read:
        assert any(covers(entry, leaf) for entry in predictor.reads), f"{leaf} is not kept"


def test_a_predictor_needs_what_it_reads_and_no_more(trained):
    method, server, states = trained
    rows, part = replace(pack(SMALL.federation.held_out), y=None), select(server, method.predictor.reads)
    assert torch.equal(method.predictor.predict(part, states, rows), method.predictor.predict(server, states, rows))
    if method.predictor.infer_client is not None:
        assert_same(method.predictor.infer_client(part, rows), method.predictor.infer_client(server, rows), 0.0)
    if method.predictor.expert is not None:
        assert torch.equal(method.predictor.expert(part, rows.x), method.predictor.expert(server, rows.x))


def test_same_seed_same_bits_and_another_seed_others(case, trained):
    _, server, states = trained
    again = run(case.method(SMALL), SMALL)
    other = run(case.method(SMALL, seed=1), SMALL)
    assert_same(server, again[0], 0.0)
    assert_same(states, again[1], 0.0)
    mine, others = (server, other[0]) if "expert" in server else (states, other[1])
    assert float((mine["expert"] - others["expert"]).abs().max()) > 0.01


def test_what_clients_keep_of_their_rows_between_exchanges_changes_nothing(case, trained):
    """A site that starts anew has kept nothing."""

    def forgetful(step: Step) -> Step:
        def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
            return step.client(server, states, replace(rows, cache={}), round)

        return replace(step, client=client)

    method = case.method(SMALL)
    phases = {name: tuple(map(forgetful, method.program.steps(name))) for name in ("prepare", "round", "finish")}
    server, states, _ = run(with_program(method, **phases), SMALL)
    assert_same(server, trained.server, 0.0)
    assert_same(states, trained.states, 0.0)


def test_an_exchange_changes_no_state_in_place(case):
    method = case.method(SMALL)
    transport, server = transport_for(method, SMALL), method.program.init()
    with torch.no_grad():
        for step in method.program.all_steps:
            before = {name: leaf.clone() for name, leaf in server.items()}
            message = transport.exchange(step, server, range(6), 1)
            updated = step.server(server, message, 1)
            assert_same(server, before, 0.0)
            server = updated


def test_training_moves_the_experts(trained):
    """So that no test here is about a method that does nothing."""
    method, server, states = trained
    before = method.program.init() if "expert" in server else method.program.client_init(tuple(range(6)))
    after = server if "expert" in server else states
    assert float((after["expert"] - before["expert"]).abs().max()) > 0.01


def test_absent_clients_neither_enter_nor_change(case):
    method = case.method(SMALL)
    present = [0, 2, 5]
    transport, server = transport_for(method, SMALL), method.program.init()
    only = changed(SMALL, {i: slice(0, 1) for i in (1, 3, 4)})
    shrunk = transport_for(method, only)
    with torch.no_grad():
        for step in method.program.prepare:
            server = step.server(server, transport.exchange(step, server, range(6), 0), 0)
        shrunk.states = {name: leaf.clone() for name, leaf in transport.states.items()}
        before, other = {name: leaf.clone() for name, leaf in transport.states.items()}, server
        for step in method.program.round:
            server = step.server(server, transport.exchange(step, server, present, 1), 1)
            other = step.server(other, shrunk.exchange(step, other, present, 1), 1)
    away = torch.tensor([1, 3, 4])
    for name, leaf in before.items():
        assert torch.equal(transport.states[name][away], leaf[away])
    assert_same(server, other, 0.0)


@pytest.mark.parametrize("participation", [0.15, 0.5])
def test_some_clients_at_a_time_are_enough_to_run(case, participation):
    method = case.method(SMALL)
    assert_sound(method, *run(method, SMALL, rounds=3, participation=participation)[:2], SMALL)


@pytest.mark.parametrize("lost", [0.4, 0.9])
def test_lost_replies_stop_no_run(case, lost):
    """In each round most clients may be away, in the preparation too: who missed it begins as a newcomer does."""
    method = case.method(SMALL)
    config = Config(rounds=3, communication=CommunicationSettings(lost=lost))
    transport = transport_for(method, SMALL, losses_of(config, method))
    server, _, _ = run(method, SMALL, rounds=3, transport=transport)
    transport.admit(server)
    assert any(transport.absent.values())
    assert_sound(method, server, transport.states, SMALL)


def test_stragglers_stop_no_run_and_change_no_mass(case):
    """Their models are other models, and count as much."""
    method = case.method(SMALL)
    slow = case.make(slowed(case.task(SMALL), 0.9))
    assert_sound(slow, *run(slow, SMALL, rounds=3)[:2], SMALL)
    transport, server = transport_for(method, SMALL), method.program.init()
    with torch.no_grad():
        for step in method.program.prepare:
            server = step.server(server, transport.exchange(step, server, range(6), 0), 0)
        for whole, part in zip(method.program.round, slow.program.round, strict=True):
            other = transport_for(slow, SMALL)
            other.states = transport.states
            messages = [t.exchange(step, server, range(6), 1) for t, step in ((transport, whole), (other, part))]
            for name, models in messages[0].models.items():
                assert torch.equal(models.mass, messages[1].models[name].mass)
            server = whole.server(server, messages[0], 1)


def slowed(task: Task, share: float) -> Task:
    return task.replace(training=task.training.model_copy(update={"stragglers": share, "batch_size": 2}))


def test_one_row_one_class_and_nothing_strange_happens(case):
    labels = SMALL.federation.clients[1].y
    assert labels is not None
    odd = changed(SMALL, {0: slice(0, 1), 1: labels == 0, 2: slice(0, 3)})
    method = case.method(odd)
    assert_sound(method, *run(method, odd)[:2], odd)


def test_sizes_a_hundred_times_apart(case):
    uneven = gaussian_scenario(rows=30, size_ratio=100.0)
    sizes = [len(client) for client in uneven.federation.clients]
    assert max(sizes) == 100 * min(sizes)
    method = case.method(uneven)
    assert_sound(method, *run(method, uneven)[:2], uneven)


def test_a_row_for_every_client_is_enough(case):
    single = gaussian_scenario(rows=1)
    method = case.method(single)
    assert_sound(method, *run(method, single)[:2], single)


def test_clients_that_are_all_the_same(case):
    first = SMALL.federation.clients[0]
    clones = tuple(replace(first, name=client.name) for client in SMALL.federation.clients)
    assert SMALL.truth is not None
    truth = replace(SMALL.truth, components=(SMALL.truth.components[0],) * 6)
    scenario = Scenario(replace(SMALL.federation, clients=clones), truth)
    method = case.method(scenario)
    assert_sound(method, *run(method, scenario)[:2], scenario)


def test_prediction_sees_no_label_and_no_other_client(trained):
    method, server, states = trained
    held_out = SMALL.federation.held_out
    rows = pack(held_out)
    together = method.predictor.predict(server, states, replace(rows, y=None))
    torch.testing.assert_close(method.predictor.predict(server, states, rows), together, atol=0, rtol=0)
    alone = method.predictor.predict(server, tree.take(states, torch.tensor([3])), pack(held_out, [3]))
    torch.testing.assert_close(alone, together[rows.client_index == 3], atol=1e-5, rtol=1e-5)


def test_one_component_is_one_model(case):
    method = case.method(SMALL, n_components=1)
    if case.name == "oracle":
        pytest.skip("the oracle has as many components as the truth")
    server, states, _ = run(method, SMALL)
    assert_sound(method, server, states, SMALL)
    if method.predictor.proportions is not None:
        assert method.predictor.proportions(states).unique().tolist() == [1.0]


def test_without_labels_there_are_densities_and_proportions(case):
    bare = without_labels(SMALL)
    if case.method(SMALL).predictor.density is None:
        with pytest.raises(ConfigError, match=f"{case.name} trains a model of labels, and these rows have none"):
            case.method(bare)
        return
    method = case.method(bare)
    server, states, _ = run(method, bare)
    assert_sound(method, server, states, bare)
    assert method.predictor.expert is None
    start = method.program.init()
    assert torch.equal(server["expert"], start["expert"])
    assert float((server["density"] - start["density"]).abs().max()) > 0.01


@pytest.mark.parametrize("shared", ["trunk", "none"])
def test_a_component_that_nobody_holds_stays_as_it_was(shared):
    """The oracle's fourth component has no row. Experts may be one model in the warm-up, which is one round here, and
    have one trunk, which moves with those that are held."""
    task = make_task(SMALL.federation.schema, 4, method="oracle", shared=shared)
    method, trunk = oracle(task), task.expert.trunk
    warm, _, _ = run(method, SMALL, rounds=1)
    server, _, _ = run(method, SMALL, rounds=3)
    common = task.density.trunk
    for name, own in (("density", common), ("expert", trunk)):
        assert torch.equal(server[name][3, own:], warm[name][3, own:])
        assert float((server[name][:3, own:] - warm[name][:3, own:]).abs().amax(1).min()) > 0.005
    assert bool((server["expert"][:, :trunk] == server["expert"][0, :trunk]).all())
    assert torch.equal(server["density"][3, common:], method.program.init()["density"][3, common:])


def test_methods_without_components_answer_to_no_number_of_them(case):
    """Where a number of components is refused, it has no effect; everywhere else it has one."""
    if case.name == "oracle":
        pytest.skip("the oracle has as many components as the truth")
    servers = [run(case.method(SMALL, n_components=k), SMALL, rounds=3)[:2] for k in (2, 3)]
    same = all(
        left.keys() == right.keys() and all(torch.equal(leaf, right[name]) for name, leaf in left.items())
        for left, right in zip(*servers, strict=True)
    )
    assert same == (not METHODS[case.name].has_components)


def test_the_mean_by_mass_is_that_of_all_rows():
    old = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    total = torch.tensor([[4.0, 8.0], [0.0, 0.0], [1e-9, 1e-9]])
    mass = torch.tensor([4.0, 0.0, 1e-9], dtype=torch.float64)
    assert mean_by_mass(old, total, mass).tolist() == [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    assert mean_by_mass(old, 2 * total, mass)[0].tolist() == [2.0, 4.0]


@pytest.mark.parametrize("preset", ["default", "plain", "sketch"])
def test_fedgmi_with_one_component_is_fedavg(preset):
    schema = SMALL.federation.schema
    mixture, _, _ = run(METHODS["fedgmi"](make_task(schema, 1, preset=preset)), SMALL)
    average, _, _ = run(METHODS["fedavg"](make_task(schema, 1, method="fedavg")), SMALL)
    assert torch.equal(mixture["expert"], average["expert"])


def test_models_cost_what_a_hand_counts():
    """Headers are on top, under statistics; so is a mass with each model."""
    schema = SMALL.federation.schema
    size = 4 * (8 * 8 + 8 + 8 * 2 + 2)  # the expert: 8 features, 8 hidden units, 2 classes, float32
    mass = 8
    average = METHODS["fedavg"](make_task(schema, method="fedavg"))
    assert payload(average, SMALL) == {"expert": (3 * 6 * size, 3 * 6 * (size + mass))}
    assert payload(METHODS["local"](make_task(schema, method="local")), SMALL) == {}
    density = 4 * (8 + 8 * 9 // 2)
    alone = make_task(schema, 1, density="gaussian", preset="plain", personal=False)
    one = payload(METHODS["fedgmi"](alone), SMALL)
    # of one component there is no gate to switch, and the last experts need not go down once more
    assert one["expert"] == (3 * 6 * size, 3 * 6 * (size + mass))
    # one Gaussian of all rows is the same from the first round on, and travels no more
    assert one["density"] == (2 * 6 * density, 3 * 6 * (density + mass))


def test_a_client_that_was_away_is_sent_what_it_lacks():
    schema = SMALL.federation.schema
    size = 4 * (8 * 8 + 8 + 8 * 2 + 2)
    half = payload(METHODS["fedavg"](make_task(schema, method="fedavg")), SMALL, participation=0.5)
    assert half == {"expert": (3 * 3 * size, 3 * 3 * (size + 8))}


def test_headers_are_counted_too():
    method = METHODS["local"](make_task(SMALL.federation.schema, method="local"))
    transport = transport_for(method, SMALL)
    run(method, SMALL, transport=transport)
    [(down, up)] = transport.ledger.by_kind().values()
    assert down > up > 0


def test_only_models_with_mass_travel():
    """An expert comes from the clients that hold rows of it alone."""
    pure = gaussian_scenario(alpha=0.1)
    assert pure.truth is not None
    held = sum(int(component.bincount(minlength=3).gt(0).sum()) for component in pure.truth.components)
    assert 6 < held < 18
    for shared in ("trunk", "none"):
        task = make_task(pure.federation.schema, method="oracle", density="gaussian", shared=shared)
        one, two = (payload(oracle(task), pure, rounds=n) for n in (1, 2))
        trunk, head, density = 4 * task.expert.trunk, 4 * (task.expert.size - task.expert.trunk), 4 * task.density.size
        masses = 6 * 3 * 8
        parts = 6 * (trunk + 8) + held * head if shared == "trunk" else held * (trunk + head)
        trunks = {"trunk": 6 * (trunk + 8), "none": held * trunk}[shared]
        assert parts == trunks + held * head
        assert two["expert"][1] - one["expert"][1] == parts + masses
        assert two["density"][1] - one["density"][1] == held * density + masses


def broken(**changes: object) -> Method:
    """FedAvg with something wrong in its one step."""
    method = METHODS["fedavg"](make_task(SMALL.federation.schema, method="fedavg"))
    [step] = method.program.round
    return replace(method, program=replace(method.program, round=(replace(step, **changes),)))


def test_a_step_that_reads_a_leaf_that_is_not_there_is_refused_at_the_start():
    asked: list[str] = []

    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        asked.append("asked")
        return states, Message()

    with pytest.raises(ProgramError, match="fedavg, step 'train': it reads 'experts', which no earlier step writes"):
        run(broken(reads=("experts",), client=client), SMALL)
    assert not asked


def test_what_an_earlier_step_writes_may_be_read_and_what_a_later_one_writes_may_not():
    """A name stands for all below it."""

    def nothing(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        return states, Message()

    def program(*steps: Step) -> Program:
        return Program(dict, lambda ids: {}, steps)

    first, second = Step("first", nothing, writes=("gate",)), Step("second", nothing, reads=("gate/weights",))
    check_program("ours", program(first, second), {})
    check_program("ours", program(replace(second, reads=("gate",))), {"gate/weights": torch.zeros(1)})
    with pytest.raises(ProgramError, match=r"ours, step 'second': it reads 'gate/weights'.*state has nothing"):
        check_program("ours", program(second, first), {})


def test_a_read_that_is_not_declared_fails():
    with pytest.raises(KeyError, match="expert"):
        run(broken(reads=()), SMALL)


def test_the_table_knows_every_method_by_the_name_of_its_settings(case):
    assert callable(case.make.build)
    assert wrong_entry(case.name, case.make) == ("" if case.name in METHODS else "its settings call it 'fedgmi'")


def test_steps_have_names_that_tell_them_apart(case):
    """Steps of one name are one exchange, on other conditions or with fewer leaves: their client part is the same."""
    for phase in ("prepare", "round", "finish"):
        steps = case.method(SMALL).program.steps(phase)
        assert len({step.name for step in steps}) == len({step.client for step in steps})
        assert all(isinstance(step, Step) for step in steps)


def test_rows_carry_no_truth_unless_asked():
    assert rows_of([2, 3]).component is None
    rows: Rows = pack(SMALL.federation.clients)
    assert rows.component is None


def test_a_new_clients_states_are_inferred_without_training(case):
    """By its rows alone, with labels and without; the server's state and its own place among others change nothing."""
    method = case.method(SMALL, density="gaussian")  # no noise, which would be drawn by the client's place
    if method.predictor.infer_client is None:
        # only who trains a client's own model may have nothing to offer to those without labels
        assert "expert" in method.program.client_init((0,))
        assert method.predictor.welcome is not None
        return
    server, _, _ = run(method, SMALL)
    rows = pack(gaussian_scenario(3, 30, seed=5).federation.clients)
    for seen in (rows, replace(rows, y=None, cache={})):
        states = method.predictor.infer_client(server, seen)
        assert_finite(server, states)
        log_probs = method.predictor.predict(server, states, replace(seen, y=None, cache={}))
        assert log_probs.shape == (90, 2)
        assert float(log_probs.logsumexp(1).abs().max()) < 1e-5
        if method.predictor.proportions is None:
            continue
        proportions = method.predictor.proportions(states)
        torch.testing.assert_close(proportions.sum(1), torch.ones(3, dtype=torch.float64))
        assert states["identified"].shape == (3,)
        assert torch.equal(method.predictor.identified(states), states["identified"])
        errors = method.predictor.standard_errors
        assert (errors is not None) == ("standard_errors" in states)
        assert errors is None or torch.equal(errors(states), states["standard_errors"])
        assert "standard_errors" not in states or states["standard_errors"].shape == proportions.shape
        x, y = rows.x[rows.client_index == 1], rows.y[rows.client_index == 1]
        alone = method.predictor.infer_client(server, pack([Client("new", x, y if seen.y is not None else None)]))
        torch.testing.assert_close(method.predictor.proportions(alone)[0], proportions[1], atol=1e-4, rtol=0)


def test_newcomers_with_labels_get_what_clients_have_of_their_own(trained):
    """Who predicts with a client's own model gives newcomers one as well: a comparison would be unfair otherwise."""
    method, server, states = trained
    predictor, rows = method.predictor, pack(gaussian_scenario(2, 30, seed=5).federation.clients)
    if predictor.welcome is None:
        assert not {"personal", "memory"} & states.keys()
        return
    known = {} if predictor.infer_client is None else predictor.infer_client(server, rows)
    bare = replace(rows, y=None, cache={})
    assert predictor.welcome(server, known, bare) is known
    own = predictor.welcome(server, known, rows)
    logs = predictor.predict(server, own, bare)
    assert float(logs.logsumexp(1).abs().max()) < 1e-5
    assert torch.equal(logs, predictor.predict(server, predictor.welcome(server, known, rows), bare))
    if own is known:
        assert int(server[TRIED]) == NOBODY
    elif predictor.infer_client is not None:
        assert not torch.equal(logs, predictor.predict(server, known, bare))


@pytest.mark.parametrize("name", METHODS)
def test_a_client_may_have_no_rows_for_validation(name):
    federation = gaussian_scenario(3, 12).federation
    first, *others = federation.validation
    none = replace(first, x=first.x[:0], y=first.y[:0])
    method = METHODS[name](make_task(federation.schema, 2, method=name))
    server, states, _ = run(method, Scenario(replace(federation, validation=(none, *others))), rounds=1)
    assert_finite(server, states)
    rows = replace(pack(federation.held_out), y=None)
    assert bool(method.predictor.predict(server, states, rows).isfinite().all())
