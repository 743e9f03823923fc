"""The evaluation of hand-made methods whose numbers are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from federations import (
    bare_method,
    draw,
    gaussian_scenario,
    make_task,
    run,
    with_predictor,
    with_program,
    without_labels,
)
from fedgmi.data.rows import Rows, chunks, pack
from fedgmi.data.scenarios.truth import Scenario
from fedgmi.data.scenarios.unseen import set_aside
from fedgmi.methods import METHODS, Method
from fedgmi.runs import evaluation
from fedgmi.runs.evaluation import evaluate, newcomers
from fedgmi.runs.records.run import Unseen
from fedgmi.tree import Tree

SCENARIO = gaussian_scenario(5, 30)
assert SCENARIO.truth is not None
TRUTH = SCENARIO.truth
TASK = make_task(SCENARIO.federation.schema, density="gaussian")
ORDER = [2, 0, 1]  # how the hand-made method numbers the components: its component 0 is the true 2


def density(server: Tree, x: Tensor, noise: Tensor) -> Tensor:
    return TASK.density.log_prob(server["density"], x, noise)


def expert(server: Tree, x: Tensor) -> Tensor:
    return TASK.expert.log_prob(server["expert"], x)


def one_hot(values: Tensor, size: int) -> Tensor:
    return torch.nn.functional.one_hot(values, size).double()


def always(label: int) -> Method:
    """Predicts one label for everything, and knows of no components."""

    def predict(server: Tree, states: Tree, rows: Rows) -> Tensor:
        return one_hot(torch.full((len(rows),), label), 2).log()

    return bare_method("always", predict)


def knowing(proportions: Tensor) -> Method:
    """A method with these proportions, whose responsibilities are the truth, numbered its own way."""

    def responsibilities(server: Tree, states: Tree, rows: Rows) -> Tensor:
        return one_hot(torch.cat([TRUTH.components[i] for i in rows.ids]), 3)[:, ORDER]

    method = with_program(always(0), client_init=lambda ids: {"proportions": proportions[list(ids)]})
    return with_predictor(method, proportions=lambda states: states["proportions"], responsibilities=responsibilities)


def numbers_of(method: Method, scenario: Scenario = SCENARIO, server: Tree | None = None) -> dict:
    states = method.program.client_init(tuple(range(len(scenario.federation.clients))))
    return evaluate(method, TASK, server or {}, states, scenario)


def test_client_accuracy_is_the_mean_over_clients_on_their_own_rows():
    shares = [float((client.y == 1).double().mean()) for client in SCENARIO.federation.held_out]
    found = numbers_of(always(1))
    assert found["client_accuracy_per_client"] == pytest.approx(shares)
    assert found["client_accuracy"] == pytest.approx(sum(shares) / 5)
    assert numbers_of(always(0))["client_accuracy"] == pytest.approx(1 - sum(shares) / 5)
    assert found["n_components"] == 1
    assert "assignment_accuracy" not in found


def test_the_shared_part_is_told_by_the_chosen_metric_where_there_is_an_own_part():
    """Clients' own predictor says 1 of all rows, the shared one 0."""
    both = with_predictor(always(1), shared=always(0).predictor.predict, has_own=lambda server: True)
    found = evaluate(both, TASK, {}, {}, SCENARIO, "balanced_accuracy")
    assert found["own_part"] is True
    assert found["client_accuracy_shared"] == pytest.approx(1 - found["client_accuracy"])
    assert found["shared_score"] == pytest.approx(0.5)  # of two classes, the one that is said is always found
    unused = numbers_of(with_predictor(both, has_own=lambda server: False))
    assert unused["own_part"] is False
    assert not {"client_accuracy_shared", "shared_score"} & unused.keys()


def test_states_stay_with_their_clients_however_they_are_chunked(monkeypatch):
    def by_client(server: Tree, states: Tree, rows: Rows) -> Tensor:
        assert torch.equal(states["id"], torch.tensor(rows.ids))
        return one_hot(states["id"][rows.client_index] % 2, 2).log()

    method = with_predictor(always(0), predict=by_client)
    method = with_program(method, client_init=lambda ids: {"id": torch.tensor(ids)})
    whole = numbers_of(method)
    monkeypatch.setattr(evaluation, "chunks", lambda clients, ids: chunks(clients, ids, max_bytes=1))
    assert numbers_of(method)["client_accuracy_per_client"] == whole["client_accuracy_per_client"]
    labels = [client.y for client in SCENARIO.federation.held_out]
    right = [float((y == i % 2).double().mean()) for i, y in enumerate(labels)]
    assert whole["client_accuracy_per_client"] == pytest.approx(right)


def test_the_truth_scores_zero_error_in_any_numbering():
    found = numbers_of(knowing(TRUTH.proportions()[:, ORDER]))
    assert found["proportion_tv"] == 0.0
    assert found["assignment_accuracy"] == 1.0
    assert found["n_components"] == 3
    torch.testing.assert_close(torch.tensor(found["proportions"]).double(), TRUTH.proportions())
    counts = torch.cat(TRUTH.components).bincount(minlength=3)
    assert found["component_mass"] == pytest.approx((counts / counts.sum()).tolist())
    assert found["best_possible_gate"] == pytest.approx(float(TRUTH.proportions().max(1).values.mean()))


def test_the_error_to_the_drawn_proportions_is_told_beside():
    found = numbers_of(knowing(TRUTH.drawn[:, ORDER]))
    assert found["proportion_tv_drawn"] == 0.0
    gap = (TRUTH.drawn - TRUTH.proportions()).abs().sum(1) / 2
    assert found["proportion_tv"] == pytest.approx(float(gap.mean()))
    assert found["proportion_tv_per_client"] == pytest.approx(gap.tolist())


def test_a_component_too_many_counts_as_error():
    with_ghost = torch.cat([0.8 * TRUTH.proportions(), torch.full((5, 1), 0.2, dtype=torch.float64)], 1)
    method = with_predictor(knowing(with_ghost), responsibilities=None)
    assert numbers_of(method)["proportion_tv"] == pytest.approx(0.2)
    assert numbers_of(method)["n_components"] == 3  # of the task; its proportions have four columns
    assert len(numbers_of(method)["proportions"][0]) == 4


def test_rows_that_are_assigned_wrongly_are_counted():
    def never_the_first(server: Tree, states: Tree, rows: Rows) -> Tensor:
        truth = torch.cat([TRUTH.components[i] for i in rows.ids])
        return one_hot(truth.clamp(min=1), 3)

    method = with_predictor(knowing(TRUTH.proportions()), responsibilities=never_the_first)
    wrong = float((torch.cat(TRUTH.components) == 0).double().mean())
    assert wrong > 0.1
    assert numbers_of(method)["assignment_accuracy"] == pytest.approx(1 - wrong)


def test_matrices_are_in_the_matched_order():
    """Densities fitted on the pure rows, handed over in the method's own numbering."""
    x = torch.cat([pure.x for pure in TRUTH.pure])
    which = torch.repeat_interleave(torch.arange(3), torch.tensor([len(pure) for pure in TRUTH.pure]))
    assert TASK.density.fit is not None
    fitted = TASK.density.fit(x, one_hot(which, 3), torch.zeros(len(x)).long(), 1)[0]
    experts = torch.stack([TASK.expert.init(draw(k)) for k in range(3)])
    method = with_predictor(knowing(TRUTH.proportions()[:, ORDER]), density=density, expert=expert)
    found = numbers_of(method, server={"density": fitted[ORDER], "expert": experts[ORDER]})
    matrix = torch.tensor(found["density"])
    assert matrix.argmax(1).tolist() == [0, 1, 2]
    assert matrix.argmax(0).tolist() == [0, 1, 2]
    by_hand = TASK.density.log_prob(fitted, TRUTH.pure[1].x, torch.zeros(0)).double().mean(0)
    torch.testing.assert_close(matrix[1].double(), by_hand)
    guess = TASK.expert.log_prob(experts, TRUTH.pure[2].x).argmax(2)
    assert found["expert_accuracy"][2] == pytest.approx((guess == TRUTH.pure[2].y[:, None]).double().mean(0).tolist())


def test_a_component_that_nothing_stands_for_has_no_column():
    params = torch.stack([TASK.density.init(draw(k)) for k in range(2)])
    two = TRUTH.proportions()[:, 1:]  # nobody stands for component 0
    method = with_predictor(knowing(two), responsibilities=None, density=density)
    matrix = torch.tensor(numbers_of(method, server={"density": params})["density"])
    assert bool(matrix[:, 0].isnan().all())
    assert bool(matrix[:, 1:].isfinite().all())


def test_without_labels_accuracy_is_null_and_proportions_are_still_judged():
    found = numbers_of(with_predictor(knowing(TRUTH.proportions()), expert=expert), without_labels(SCENARIO))
    assert found["client_accuracy"] is None
    assert found["client_accuracy_per_client"] is None
    assert "expert_accuracy" not in found
    assert found["proportion_tv"] == 0.0


def test_without_truth_there_is_no_error_and_no_matrix():
    found = numbers_of(knowing(TRUTH.proportions()), Scenario(SCENARIO.federation))
    assert found["proportion_tv"] is None
    assert found["true_proportions"] is None
    assert found["client_accuracy"] is not None
    assert not {"assignment_accuracy", "density", "expert_accuracy"} & found.keys()
    assert (
        evaluation.proportion_error(knowing(TRUTH.proportions()).predictor, {}, Scenario(SCENARIO.federation)) is None
    )


def test_newcomers_are_judged_with_a_part_of_their_own_and_without():
    seen, unseen = set_aside(SCENARIO, 0.2, seed=0)
    found = {}
    for name in ("ditto", "fedavg", "fedper"):
        method = METHODS[name](make_task(SCENARIO.federation.schema, method=name))
        server, states, _ = run(method, seen)
        found[name] = newcomers(method.predictor, server, states, seen, unseen)
        Unseen.model_validate(found[name])
    average, ditto, head = found["fedavg"]["metrics"], found["ditto"], found["fedper"]
    assert ditto["metrics_shared"] == average  # FedAvg's model, on which nothing was trained
    assert ditto["metrics"] != average
    assert "metrics_shared" not in found["fedavg"]
    assert head["client_accuracy"] is not None
    assert head["client_accuracy_shared"] is None  # nothing that is not trained can stand for a head


def test_a_method_without_a_predictor_for_newcomers_has_no_numbers_of_them():
    seen, unseen = set_aside(SCENARIO, 0.2, seed=0)
    found = newcomers(always(0).predictor, {"some": torch.zeros(1)}, {}, seen, unseen)
    assert found == {"clients": ["client-01"], "client_accuracy": None, "client_accuracy_per_client": None}


@pytest.mark.parametrize("name", METHODS)
def test_no_method_is_shown_the_truth_or_the_labels_it_is_to_predict(name):
    task = make_task(SCENARIO.federation.schema, method=name)
    method, predicted, assigned = METHODS[name](task), [], []

    def predict(server: Tree, states: Tree, rows: Rows) -> Tensor:
        predicted.append(rows)
        return method.predictor.predict(server, states, rows)

    def responsibilities(server: Tree, states: Tree, rows: Rows) -> Tensor:
        assigned.append(rows)
        assert method.predictor.responsibilities is not None
        return method.predictor.responsibilities(server, states, rows)

    known = method.predictor.responsibilities is not None
    watched = with_predictor(method, predict=predict, responsibilities=responsibilities if known else None)
    server, states, _ = run(method, SCENARIO)
    evaluate(watched, task, server, states, SCENARIO)
    assert predicted
    assert all(rows.component is None for rows in predicted + assigned)
    assert all(rows.y is None for rows in predicted)
    assert bool(assigned) is known


def test_evaluation_repeats_to_the_bit_and_leaves_states_alone():
    method = METHODS["fedgmi"](TASK)
    server, states, _ = run(method, SCENARIO)
    before = {name: leaf.clone() for name, leaf in states.items()}
    assert evaluate(method, TASK, server, states, SCENARIO) == evaluate(method, TASK, server, states, SCENARIO)
    assert all(torch.equal(states[name], leaf) for name, leaf in before.items())
    rows = pack(SCENARIO.federation.held_out)
    assert float(method.predictor.predict(server, states, rows).exp().sum(1).sub(1).abs().max()) < 1e-5
