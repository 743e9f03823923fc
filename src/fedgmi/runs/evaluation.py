"""Method + states + held-out rows → numbers. The only room besides the oracle's where the truth is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fedgmi import tree
from fedgmi.data.federation import Federation
from fedgmi.data.rows import Client, Rows, Schema, chunks, pack
from fedgmi.data.scenarios.truth import Scenario
from fedgmi.methods import Method, Predictor, Task
from fedgmi.mixture.information import MIN_CONTRAST, decided, errors_by
from fedgmi.mixture.matching import match_components, reorder, total_variation
from fedgmi.mixture.scatter import dispersion
from fedgmi.randomness import generator
from fedgmi.runs.metrics import USUAL, majority, mean, measure, of_clients, per_class
from fedgmi.settings.run import MetricName
from fedgmi.tree import Tree

ACCURACY = ("client_accuracy", "client_accuracy_per_client")
DENSITY_SAMPLES = 16  # of the importance-weighted bound on held-out rows


def evaluate(
    method: Method, task: Task, server: Tree, states: Tree, scenario: Scenario, metric: MetricName | None = None
) -> dict[str, Any]:
    """Everything that `summary.json` says of one method after its last round, but for what the run cost.

    Args:
        method: Whose predictor is evaluated, as it would be deployed.
        task: From which the method was built.
        server: The server's state.
        states: The clients' states. [C, …]
        scenario: Rows, and the truth where it is known.
        metric: By which the shared part is told; None: the task's usual one.

    Returns:
        Numbers by name; `records.Outcome` says what each means. Those that cannot be are left out, or None.
    """
    predictor, federation = method.predictor, scenario.federation
    predicted = predictions(predictor, server, states, federation.held_out)
    result: dict[str, Any] = {"n_components": task.n_components if predictor.proportions else 1}
    result |= quality(predicted, federation.clients, federation.schema)
    metric = metric or USUAL[federation.schema.task]
    result |= shared_quality(predictor, server, states, federation, metric)
    metrics = method.metrics(server)
    if "components_shown" in metrics:
        result["components_shown"] = int(metrics["components_shown"])
        result["rows_in_lost_words"] = metrics["rows_in_lost_words"]
        result["reliability"] = metrics["reliability"]
        result["contrast"] = metrics["contrast"]
        result["rows_decide"] = bool(metrics["rows_decide"])
        result["identified"] = identified(method, server, states, federation.clients)
    order = None
    if predictor.proportions is not None:
        numbers, order = proportion_errors(predictor.proportions(states).cpu(), scenario)
        result |= numbers
    if scenario.truth is not None:
        if predictor.responsibilities is not None and order is not None:
            result["assignment_accuracy"] = assignment_accuracy(predictor, server, states, scenario, order)
        result |= component_matrices(predictor, task, server, scenario.truth.pure, order)
    return result


def identified(method: Method, server: Tree, states: Tree, clients: Sequence[Client]) -> list[bool]:
    """By client whether its proportions are known: clients show the components, rows tell them apart, and are enough.

    Args:
        method: One with `contrast`, `scatter` and `components_shown` in its `metrics`, and with proportions,
            responsibilities and pooled proportions.
        server: The server's state after the last round.
        states: The clients' states. [C, …]
        clients: Their rows.

    Returns:
        False for all where fewer components are shown, or the contrast is below MIN_CONTRAST; of single clients by
        `decided`.
    """
    predictor = method.predictor
    assert predictor.responsibilities is not None
    assert predictor.proportions is not None
    assert predictor.pooled is not None
    metrics, proportions = method.metrics(server), predictor.proportions(states)
    if metrics["contrast"] < MIN_CONTRAST or metrics["components_shown"] < proportions.shape[1]:
        return [False] * len(clients)
    found: list[bool] = []
    for rows, chunk_states in _chunked(clients, states):
        resp = predictor.responsibilities(server, chunk_states, rows)
        phi = dispersion(rows.counts.double(), metrics["scatter"])
        errors = errors_by(resp, predictor.proportions(chunk_states), predictor.pooled(server), rows, phi)
        found += decided(errors).tolist()
    return found


def client_accuracy(predictor: Predictor, server: Tree, states: Tree, held_out: Sequence[Client]) -> Tensor | None:
    """Share of rows that each client's own predictor labels rightly.

    Args:
        predictor: The method's.
        server: The server's state.
        states: The clients' states. [C, …]
        held_out: Each client's rows, with labels. The predictor does not see these.

    Returns:
        Shares, NaN where a client has no such rows [C]; None where there are no labels.
    """
    predicted = predictions(predictor, server, states, held_out)
    if predicted is None:
        return None
    found = [measure(logs, y, ["accuracy"])["accuracy"] for logs, y in predicted]
    return torch.tensor([torch.nan if value is None else value for value in found], dtype=torch.float64)


def predictions(
    predictor: Predictor, server: Tree, states: Tree, clients: Sequence[Client]
) -> list[tuple[Tensor, Tensor]] | None:
    """What each client's own predictor says of its rows, whose labels it does not see.

    Args:
        predictor: The method's.
        server: The server's state.
        states: The clients' states. [C, …]
        clients: Rows with labels.

    Returns:
        For every client log p(y | x) [n, L], or what predictors give for another task, and the labels [n], on the CPU;
        None where there are no labels.
    """
    if not clients or clients[0].y is None:
        return None
    found: list[tuple[Tensor, Tensor]] = []
    for rows, chunk_states in _chunked(clients, states):
        assert rows.y is not None
        sizes = rows.counts.tolist()
        asked = replace(rows, y=None, cache={}, by_content=True)  # as the estimator asks about these rows
        logs = predictor.predict(server, chunk_states, asked).cpu()
        found += zip(torch.split(logs, sizes), torch.split(rows.y.cpu(), sizes), strict=True)
    return found


def quality(
    predicted: Sequence[tuple[Tensor, Tensor]] | None, clients: Sequence[Client], schema: Schema
) -> dict[str, Any]:
    """How good predictions are: by metric, by client and by class, beside each client's majority class.

    Args:
        predicted: Of every client, as `predictions` gives them.
        clients: The same clients with their training rows.
        schema: What rows look like.

    Returns:
        Numbers by name; `records.Outcome` says what each means.
    """
    if predicted is None:
        return {"client_accuracy": None, "client_accuracy_per_client": None}
    task = schema.task
    each = [measure(logs, y, task=task) for logs, y in predicted]
    logs, y = (torch.cat(parts) for parts in zip(*predicted, strict=True))
    together = measure(logs, y, task=task)
    metrics = {name: of_clients(name, [one[name] for one in each]) | {"all_rows": together[name]} for name in together}
    if task != "classification":
        return {"client_accuracy": None, "client_accuracy_per_client": None, "metrics": metrics}
    common = [majority(() if c.y is None else c.y, y) for c, (_, y) in zip(clients, predicted, strict=True)]
    return {
        "client_accuracy": metrics["accuracy"]["mean"],
        "client_accuracy_per_client": metrics["accuracy"]["per_client"],
        "metrics": metrics,
        "majority_accuracy": mean(common),
        "majority_accuracy_per_client": common,
        "per_class": per_class(logs, y, schema.classes),
    }


def shared_quality(
    predictor: Predictor, server: Tree, states: Tree, federation: Federation, metric: MetricName
) -> dict[str, Any]:
    """How good predictions are without what clients have of their own, as means over clients.

    Args:
        predictor: The method's.
        server: The server's state.
        states: The clients' states. [C, …]
        federation: Its held-out rows count.
        metric: The one of `shared_score`.

    Returns:
        `own_part`, whether clients have such a part. If so, and rows have labels: `shared_score`, and of classes
        `client_accuracy_shared`.
    """
    if predictor.shared is None or not predictor.has_own(server):
        return {"own_part": False}
    predicted = predictions(replace(predictor, predict=predictor.shared), server, states, federation.held_out)
    if predicted is None:
        return {"own_part": True}
    task = federation.schema.task
    names = dict.fromkeys([metric, *(["accuracy"] if task == "classification" else [])])
    each = [measure(logs, y, list(names), task=task) for logs, y in predicted]
    found = {name: mean(one[name] for one in each) for name in names}
    shared = {"client_accuracy_shared": found["accuracy"]} if "accuracy" in found else {}
    return {"own_part": True, "shared_score": found[metric], **shared}


def newcomers(predictor: Predictor, server: Tree, states: Tree, seen: Scenario, unseen: Scenario) -> dict[str, Any]:
    """How clients fare that took no part in training.

    Their states are inferred from their training rows, with labels and without. On held-out rows two predictors of
    those inferred with labels are evaluated: one for which nothing is trained, and one with a part of their own, where
    the method has such. Components are in the order that fits the *seen* clients.

    Args:
        predictor: The method's.
        server: The server's state.
        states: The states of the clients that took part. [C, …]
        seen: Those clients.
        unseen: The others.

    Returns:
        Numbers by name; `records.Unseen` says what each means.
    """
    clients, truth = unseen.federation.clients, unseen.truth
    device = next(iter((server or states).values())).device
    rows, infer = pack(clients, device=device), predictor.infer_client
    kinds = {} if infer is None else {"": infer(server, rows)}
    if rows.y is not None and infer is not None:
        kinds["_unlabelled"] = infer(server, replace(rows, y=None, cache={}))
    result: dict[str, Any] = {"clients": list(unseen.federation.names)}
    if predictor.proportions is not None and kinds:
        _, order = proportion_errors(predictor.proportions(states).cpu(), seen)
        for suffix, inferred in kinds.items():
            estimated = predictor.proportions(inferred).cpu()
            estimated = estimated if order is None else reorder(estimated, order)
            error = None if truth is None else float(total_variation(estimated, truth.proportions()).mean())
            result |= {f"proportion_tv{suffix}": error, f"proportions{suffix}": estimated.tolist()}
            if predictor.identified is not None:
                result[f"identified{suffix}"] = bool(predictor.identified(inferred).all())
    known, welcome = kinds.get("", {}), predictor.welcome if rows.y is not None else None
    own = {"": known} if welcome is None else {"": welcome(server, known, rows), "_shared": known}
    for suffix, at in own.items():
        there = (suffix == "" and welcome is not None) or infer is not None
        predicted = predictions(predictor, server, at, unseen.federation.held_out) if there else None
        found = quality(predicted, clients, unseen.federation.schema)
        result |= {f"{key}{suffix}": found[key] for key in (*ACCURACY, "metrics") if key in found}
    return result


def proportion_error(predictor: Predictor, states: Tree, scenario: Scenario) -> float | None:
    """The mean total variation between estimated and realised proportions; None where either is unknown."""
    if predictor.proportions is None or scenario.truth is None:
        return None
    numbers, _ = proportion_errors(predictor.proportions(states).cpu(), scenario)
    error: float = numbers["proportion_tv"]
    return error


def proportion_errors(estimated: Tensor, scenario: Scenario) -> tuple[dict[str, Any], Tensor | None]:
    """Proportions in matched order, and their errors.

    Args:
        estimated: In any order of components. [C, K]
        scenario: Whose clients they are.

    Returns:
        Numbers by name, and the matching: the place of each true component among the estimated ones. The matching is
        None where no truth is known.
    """
    counts = torch.tensor([len(client) for client in scenario.federation.clients], dtype=torch.float64)
    order, truth = None, scenario.truth
    numbers: dict[str, Any] = {"proportion_tv": None, "proportion_tv_drawn": None, "true_proportions": None}
    if truth is not None:
        realised = truth.proportions()
        order = match_components(estimated, realised)
        estimated = reorder(estimated, order)
        per_client = total_variation(estimated, realised)
        numbers = {
            "proportion_tv": float(per_client.mean()),
            "proportion_tv_per_client": per_client.tolist(),
            "proportion_tv_drawn": float(total_variation(estimated, truth.drawn).mean()),
            "true_proportions": realised.tolist(),
            "best_possible_gate": float(realised.max(1).values.mean()),
        }
    mass = (estimated * counts[:, None]).sum(0) / counts.sum()
    return numbers | {"proportions": estimated.tolist(), "component_mass": mass.tolist()}, order


def assignment_accuracy(predictor: Predictor, server: Tree, states: Tree, scenario: Scenario, order: Tensor) -> float:
    """Share of training rows whose likeliest component, labels seen, is the true one."""
    assert predictor.responsibilities is not None
    assert scenario.truth is not None
    right = total = 0
    components = scenario.truth.components
    for rows, chunk_states in _chunked(scenario.federation.clients, states):
        guess = reorder(predictor.responsibilities(server, chunk_states, rows), order).argmax(1)
        true = torch.cat([components[i] for i in rows.ids]).to(guess.device)
        right += int((guess == true).sum())
        total += len(true)
    return right / max(total, 1)


def component_matrices(
    predictor: Predictor, task: Task, server: Tree, pure: Sequence[Client], order: Tensor | None
) -> dict[str, Any]:
    """Every expert and every density on pure held-out rows of every true component.

    Args:
        predictor: The method's.
        task: From which the method was built.
        server: The server's state.
        pure: Held-out rows, one client for each true component.
        order: The matching of `proportion_errors`.

    Returns:
        `expert_accuracy` [true component, expert] and `density` [true component, density] in nats, as far as the
        predictor has them. Columns are in matched order.
    """
    out: dict[str, Any] = {}
    device = next(iter(server.values())).device if server else torch.device("cpu")
    if predictor.expert is not None and pure and pure[0].y is not None and task.schema.n_classes:
        rows = []
        for component in pure:
            assert component.y is not None
            guess = predictor.expert(server, component.x.to(device)).argmax(2)
            rows.append((guess == component.y.to(device)[:, None]).double().mean(0).cpu())
        out["expert_accuracy"] = _matched(torch.stack(rows), order).tolist()
    if predictor.density is not None and pure:
        means = []
        for component in pure:
            draws = generator(task.seed, "density evaluation")
            noise = torch.randn(len(component), DENSITY_SAMPLES, task.density.noise_size, generator=draws)
            logs = predictor.density(server, component.x.to(device), noise.to(device))
            means.append(logs.double().mean(0).cpu())
        out["density"] = _matched(torch.stack(means), order).tolist()
    return out


def _matched(matrix: Tensor, order: Tensor | None) -> Tensor:
    """Columns in the order of the proportions; NaN where no estimated component stands for the true one."""
    return matrix if order is None else reorder(matrix, order).masked_fill(order < 0, torch.nan)


def _chunked(clients: Sequence[Client], states: Tree) -> list[tuple[Rows, Tree]]:
    device = next(iter(states.values())).device if states else torch.device("cpu")
    out = []
    for chunk in chunks(clients, range(len(clients))):
        index = torch.tensor(chunk, device=device)
        out.append((pack(clients, chunk, device=device), tree.take(states, index)))
    return out
