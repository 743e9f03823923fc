"""What every method of the tables keeps to, on a federation of six clients with twenty rows each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest
import torch

from federations import gaussian_scenario, make_task, rows_of, run, transport_for, without_labels
from fedgmi import tree
from fedgmi.data import Client, Scenario, pack
from fedgmi.data.rows import Rows
from fedgmi.errors import ConfigError
from fedgmi.methods import BOUNDS, METHODS, WITHOUT_COMPONENTS, Method
from fedgmi.methods.contract import Message, mean_by_mass
from fedgmi.protocol import in_process
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
        log_probs = method.predict(server, states, replace(rows, y=None))
        assert log_probs.shape == (len(rows), n_classes)
        assert float(log_probs.logsumexp(1).abs().max()) < 1e-5
    if method.proportions is not None:
        proportions = method.proportions(states)
        assert bool((proportions >= 0).all())
        torch.testing.assert_close(proportions.sum(1), torch.ones(rows.n_clients, dtype=torch.float64))
    if method.responsibilities is not None:
        resp = method.responsibilities(server, states, pack(scenario.federation.clients))
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


def test_states_are_finite_and_predictions_normalised(case):
    method = case.method(SMALL)
    server, states, _ = run(method, SMALL)
    assert_sound(method, server, states, SMALL)


@pytest.mark.parametrize("how", ["one by one", "in reverse"])
def test_how_clients_are_packed_changes_nothing(case, how, monkeypatch):
    """A client's id goes with it, and its draws with its id: only the order of summation may show.

    With enough rows to calibrate on: on twenty a client, Fisher steps make much of the last bit.
    """
    roomy = gaussian_scenario(10, 40, separation=4.0)
    method = case.method(roomy)
    server, states, end = run(method, roomy)
    lay_out(monkeypatch, how)
    other_server, other_states, other_end = run(method, roomy)
    assert_same(server, other_server, 2e-3)
    assert_same(states, other_states, 2e-3)
    assert (end.bytes_down, end.bytes_up) == (other_end.bytes_down, other_end.bytes_up)


def test_messages_are_additive(case):
    """Each step's message over all clients is the sum of the single clients' messages, bytes included."""
    method = case.method(SMALL)
    transport, server = transport_for(method, SMALL), method.init()
    everyone = tuple(range(6))
    components = SMALL.truth.components if case.name == "oracle" else None
    with torch.no_grad():
        for step in (*method.prepare, *method.round, *method.finish):
            single = Message()
            parts = []
            for i in everyone:
                rows = pack(SMALL.federation.clients, [i], components)
                _, reply = step.client(server, tree.take(transport.states, torch.tensor([i])), rows, 1)
                parts.append(reply.values)
                single = single + reply
            message = transport.exchange(step, server, everyone, 1)
            values = tree.concatenate(parts) if step.reduce == "stack" else single.values
            assert_same(message.values, values, 1e-4)
            assert (message.down, message.up) == (single.down, single.up)
            server = step.server(server, message.values, 1)


def test_same_seed_same_bits_and_another_seed_others(case):
    server, states, _ = run(case.method(SMALL), SMALL)
    again = run(case.method(SMALL), SMALL)
    other = run(case.method(SMALL, seed=1), SMALL)
    assert_same(server, again[0], 0.0)
    assert_same(states, again[1], 0.0)
    mine, others = (server, other[0]) if "expert" in server else (states, other[1])
    assert float((mine["expert"] - others["expert"]).abs().max()) > 0.01


def test_an_exchange_changes_no_state_in_place(case):
    method = case.method(SMALL)
    transport, server = transport_for(method, SMALL), method.init()
    with torch.no_grad():
        for step in (*method.prepare, *method.round, *method.finish):
            before = {name: leaf.clone() for name, leaf in server.items()}
            message = transport.exchange(step, server, range(6), 1)
            updated = step.server(server, message.values, 1)
            assert_same(server, before, 0.0)
            server = updated


def test_training_moves_the_experts(case):
    """So that no test here is about a method that does nothing."""
    method = case.method(SMALL)
    server, states, _ = run(method, SMALL)
    before = method.init() if "expert" in server else method.client_init(tuple(range(6)))
    after = server if "expert" in server else states
    assert float((after["expert"] - before["expert"]).abs().max()) > 0.01


def test_absent_clients_neither_enter_nor_change(case):
    method = case.method(SMALL)
    present = [0, 2, 5]
    transport, server = transport_for(method, SMALL), method.init()
    only = changed(SMALL, {i: slice(0, 1) for i in (1, 3, 4)})
    shrunk = transport_for(method, only)
    with torch.no_grad():
        for step in method.prepare:
            server = step.server(server, transport.exchange(step, server, range(6), 0).values, 0)
        shrunk.states = {name: leaf.clone() for name, leaf in transport.states.items()}
        before, other = {name: leaf.clone() for name, leaf in transport.states.items()}, server
        for step in method.round:
            server = step.server(server, transport.exchange(step, server, present, 1).values, 1)
            other = step.server(other, shrunk.exchange(step, other, present, 1).values, 1)
    away = torch.tensor([1, 3, 4])
    for name, leaf in before.items():
        assert torch.equal(transport.states[name][away], leaf[away])
    assert_same(server, other, 0.0)


@pytest.mark.parametrize("participation", [0.15, 0.5])
def test_some_clients_at_a_time_are_enough_to_run(case, participation):
    method = case.method(SMALL)
    assert_sound(method, *run(method, SMALL, rounds=3, participation=participation)[:2], SMALL)


def test_one_row_one_class_and_nothing_strange_happens(case):
    labels = SMALL.federation.clients[1].y
    assert labels is not None
    odd = changed(SMALL, {0: slice(0, 1), 1: labels == 0, 2: slice(0, 3)})
    method = case.method(odd)
    assert_sound(method, *run(method, odd)[:2], odd)


def test_sizes_a_hundred_times_apart(case):
    uneven = gaussian_scenario(rows=40, size_ratio=100.0)
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


def test_prediction_sees_no_label_and_no_other_client(case):
    method = case.method(SMALL)
    server, states, _ = run(method, SMALL)
    held_out = SMALL.federation.held_out
    rows = pack(held_out)
    together = method.predict(server, states, replace(rows, y=None))
    torch.testing.assert_close(method.predict(server, states, rows), together, atol=0, rtol=0)
    alone = method.predict(server, tree.take(states, torch.tensor([3])), pack(held_out, [3]))
    torch.testing.assert_close(alone, together[rows.owner == 3], atol=1e-5, rtol=1e-5)


def test_one_component_is_one_model(case):
    method = case.method(SMALL, n_components=1)
    if case.name == "oracle":
        pytest.skip("the oracle has as many components as the truth")
    server, states, _ = run(method, SMALL)
    assert_sound(method, server, states, SMALL)
    if method.proportions is not None:
        assert method.proportions(states).unique().tolist() == [1.0]


def test_without_labels_there_are_densities_and_proportions(case):
    bare = without_labels(SMALL)
    if case.method(SMALL).densities is None:
        with pytest.raises(ConfigError, match=f"{case.name} trains a classifier, and these rows have no labels"):
            case.method(bare)
        return
    method = case.method(bare)
    server, states, _ = run(method, bare)
    assert_sound(method, server, states, bare)
    assert method.experts is None
    start = method.init()
    assert torch.equal(server["expert"], start["expert"])
    assert float((server["density"] - start["density"]).abs().max()) > 0.01


@pytest.mark.parametrize("shared", ["trunk", "none"])
def test_a_component_that_nobody_holds_stays_as_it_was(shared):
    """The oracle's fourth component has no row. Experts may be one model in the warm-up, which is one round here, and
    have one trunk, which moves with those that are held."""
    task = make_task(SMALL.federation.schema, 4, shared=shared)
    method, trunk = oracle(task), task.expert.trunk
    warm, _, _ = run(method, SMALL, rounds=1)
    server, _, _ = run(method, SMALL, rounds=3)
    for name, own in (("density", 0), ("expert", trunk)):
        assert torch.equal(server[name][3, own:], warm[name][3, own:])
        assert float((server[name][:3, own:] - warm[name][:3, own:]).abs().amax(1).min()) > 0.005
    assert bool((server["expert"][:, :trunk] == server["expert"][0, :trunk]).all())
    assert torch.equal(server["density"][3], method.init()["density"][3])


def test_methods_without_components_answer_to_no_number_of_them(case):
    """What is refused there (`WITHOUT_COMPONENTS`) has no effect; everywhere else it has one."""
    if case.name == "oracle":
        pytest.skip("the oracle has as many components as the truth")
    servers = [run(case.method(SMALL, n_components=k), SMALL, rounds=3)[:2] for k in (2, 3)]
    same = all(
        left.keys() == right.keys() and all(torch.equal(leaf, right[name]) for name, leaf in left.items())
        for left, right in zip(*servers, strict=True)
    )
    assert same == (case.name in WITHOUT_COMPONENTS)


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
    average, _, _ = run(METHODS["fedavg"](make_task(schema, 1)), SMALL)
    assert torch.equal(mixture["expert"], average["expert"])


def test_bytes_are_those_that_a_hand_counts():
    schema = SMALL.federation.schema
    size = 4 * (8 * 8 + 8 + 8 * 2 + 2)  # the expert: 8 features, 8 hidden units, 2 classes, float32
    _, _, average = run(METHODS["fedavg"](make_task(schema)), SMALL, rounds=3)
    assert average.bytes_down == average.bytes_up == 3 * 6 * size
    _, _, half = run(METHODS["fedavg"](make_task(schema)), SMALL, rounds=3, participation=0.5)
    assert half.bytes_down == half.bytes_up == 3 * 3 * size
    _, _, alone = run(METHODS["local"](make_task(schema)), SMALL)
    assert alone.bytes_down == alone.bytes_up == 0
    density, bound = 4 * (8 + 8 * 9 // 2), 8 + 8
    _, _, one = run(METHODS["fedgmi"](make_task(schema, 1, density="gaussian", preset="plain")), SMALL, rounds=3)
    assert one.bytes_down == 3 * 6 * (size + density)
    contrast = 2 * 8  # K × K float64 with labels seen and without, once
    assert one.bytes_up == 3 * 6 * (size + density + bound) + 6 * contrast


def test_only_pairs_with_mass_travel():
    """An expert goes to the clients that hold rows of it alone; a density in closed form to all."""
    pure = gaussian_scenario(alpha=0.1)
    assert pure.truth is not None
    held = [int(component.bincount(minlength=3).gt(0).sum()) for component in pure.truth.components]
    assert 6 < sum(held) < 18
    for shared in ("trunk", "none"):
        task = make_task(pure.federation.schema, density="gaussian", shared=shared)
        _, _, one = run(oracle(task), pure, rounds=1)
        _, _, two = run(oracle(task), pure, rounds=2)
        trunk, head, density = 4 * task.expert.trunk, 4 * (task.expert.size - task.expert.trunk), 4 * task.density.size
        assert two.bytes_down - one.bytes_down == 6 * trunk + sum(held) * head + 6 * 3 * density


def test_rows_carry_no_truth_unless_asked():
    assert rows_of([2, 3]).component is None
    rows: Rows = pack(SMALL.federation.clients)
    assert rows.component is None


def test_a_new_client_is_welcomed_without_training(case):
    """By its rows alone, with labels and without; the server's state and its own place among others change nothing."""
    method = case.method(SMALL, density="gaussian")  # no noise, which would be drawn by the client's place
    if method.welcome is None:
        assert "expert" in method.client_init((0,))  # only who trains a client's own model may have nothing to offer
        return
    server, _, _ = run(method, SMALL)
    rows = pack(gaussian_scenario(3, 30, seed=5).federation.clients)
    for seen in (rows, replace(rows, y=None, cache={})):
        states = method.welcome(server, seen)
        assert_finite(server, states)
        log_probs = method.predict(server, states, replace(seen, y=None, cache={}))
        assert log_probs.shape == (90, 2)
        assert float(log_probs.logsumexp(1).abs().max()) < 1e-5
        if method.proportions is None:
            continue
        proportions = method.proportions(states)
        torch.testing.assert_close(proportions.sum(1), torch.ones(3, dtype=torch.float64))
        assert states["identified"].shape == (3,)
        assert "standard_errors" not in states or states["standard_errors"].shape == proportions.shape
        x, y = rows.x[rows.owner == 1], rows.y[rows.owner == 1]
        alone = method.welcome(server, pack([Client("new", x, y if seen.y is not None else None)]))
        torch.testing.assert_close(method.proportions(alone)[0], proportions[1], atol=1e-4, rtol=0)
