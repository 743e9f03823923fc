"""Regression behind the contract: every method, the estimator, a run, a comparison, a saved model."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import numpy as np
import pyarrow
import pytest
import torch
from rich.console import Console

from federations import BY_CLASS, make_task, run, run_on_one_scale
from fedgmi import Federation, FedGMI
from fedgmi.data.rows import Client, pack
from fedgmi.data.scenarios.truth import Scenario
from fedgmi.data.validate import check_learnable
from fedgmi.errors import ConfigError, DataError, FedgmiWarning, UserError
from fedgmi.methods import METHODS
from fedgmi.methods.standardising import prepared
from fedgmi.methods.target_scale import target_leaves, target_sums
from fedgmi.protocol.step import covers, select
from fedgmi.report.comparison import to_csv, to_markdown
from fedgmi.report.picture import words
from fedgmi.report.tables import print_report
from fedgmi.runs.cells import KEPT
from fedgmi.runs.config import from_table
from fedgmi.runs.experiment import run as run_experiment
from fedgmi.runs.metrics import measure
from fedgmi.runs.statistics import compared

SHIFT, UNIT = 1000.0, 100.0
"""Of the target: its units are none that a model could guess."""


def rows_of(i: int, n: int = 40, share: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """A client of two components, in which the target rises and falls with the first feature."""
    rng = np.random.default_rng(i)
    x = rng.normal(size=(n, 2))
    slope = np.where(rng.random(n) < share, 1.0, -1.0)
    return x, SHIFT + UNIT * (slope * x[:, 0] + 0.3 * rng.normal(size=n))


def federation(n_clients: int = 6, n: int = 40) -> Federation:
    shares = np.linspace(0, 1, n_clients)
    clients = [rows_of(i, n, share) for i, share in enumerate(shares)]
    held_out = [rows_of(100 + i, 10, share) for i, share in enumerate(shares)]
    return Federation.from_arrays(clients, held_out=held_out, task="regression")


SMALL = federation()


@pytest.mark.parametrize("name", [name for name in METHODS if name not in BY_CLASS])
def test_every_method_predicts_in_the_targets_units(name):
    """And keeps to what it declares, on the scale that is put around it."""
    method, server, states = run_on_one_scale(name, SMALL)
    rows = pack(SMALL.held_out)
    part = select(server, method.predictor.reads)
    numbers = method.predictor.predict(part, states, replace(rows, y=None))
    assert numbers.shape[0] == len(rows)
    assert numbers.shape[1] % 3 == 0
    torch.testing.assert_close(
        numbers.reshape(len(rows), -1, 3)[:, :, 0].exp().sum(1).double(), torch.ones(len(rows)).double()
    )
    found = measure(numbers, rows.y, task="regression")
    assert found["rmse"] < 3 * UNIT
    assert 0.5 < found["coverage"] <= 1
    for entry in method.predictor.reads:
        assert any(covers(entry, leaf) for leaf in server)


@pytest.mark.parametrize("name", ["fedavg", "fedem", "fedgmi"])
def test_the_unit_of_the_target_changes_predictions_alone(name):
    """A target in other units gives the same models, and predictions in these units."""
    other = [replace(client, y=(client.y - 500) * 8) for client in SMALL.clients]
    method = prepared(METHODS[name](make_task(SMALL.schema, 2, method=name)), SMALL.schema, standardise=True)
    server, states, _ = run(method, Scenario(SMALL))
    again, others, _ = run(method, Scenario(replace(SMALL, clients=tuple(other))))
    torch.testing.assert_close(server["expert"], again["expert"], atol=1e-3, rtol=1e-3)
    rows = replace(pack(SMALL.held_out), y=None)
    here, there = (
        method.predictor.predict(s, c, rows).reshape(len(rows), -1, 3) for s, c in ((server, states), (again, others))
    )
    torch.testing.assert_close(there[..., 1], (here[..., 1] - 500) * 8, atol=8.0, rtol=1e-3)


def test_words_tell_components_that_differ_in_the_target_alone():
    """The features are the same in both components: without the bins nothing would be known of anybody."""
    shares = [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0, 0.2, 0.8, 0.4]
    clients = [rows_of(i, 150, share) for i, share in enumerate(shares)]
    model = FedGMI(2, preset="sketch", rounds=1, task="regression", verbose=0, settings={"density.name": "gaussian"})
    model.fit(clients)
    error = min(np.abs(model.weights_[:, k] - shares).mean() for k in range(2))
    assert error < 0.15


@pytest.fixture(scope="module")
def fitted() -> FedGMI:
    settings = {"density.name": "gaussian", "expert.hidden": 16}
    return FedGMI(1, rounds=6, learning_rate=0.01, verbose=0, settings=settings).fit(lines())


def lines(n: int = 60) -> Federation:
    """The target rises with the first feature, for everybody."""
    clients = [rows_of(i, n, 1.0) for i in range(4)]
    return Federation.from_arrays(clients, held_out=[rows_of(50 + i, 30, 1.0) for i in range(4)], task="regression")


def test_the_estimator_is_a_regressor(fitted):
    from sklearn.base import is_classifier, is_regressor

    assert is_regressor(FedGMI(task="regression"))
    assert not is_classifier(FedGMI(task="regression"))
    x, y = rows_of(70, 200, 1.0)
    guess = fitted.predict(x, client="client-00")
    literal = 1 - ((y - guess) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    assert fitted.score(x, y, client="client-00") == pytest.approx(literal, abs=1e-5)
    assert literal > 0.8
    ends = fitted.predict_interval(x, level=0.9, client="client-00")
    assert 0.8 < ((ends[:, 0] <= y) & (y <= ends[:, 1])).mean() < 0.98
    assert (fitted.predict_interval(x, level=0.5, client="client-00")[:, 0] > ends[:, 0]).all()
    assert fitted.classes_.size == 0


def test_what_the_estimator_evaluates(fitted):
    found = fitted.evaluate(lines())
    assert set(found["mean"]) == {"log_density", "rmse", "mae", "r2", "nll", "coverage"}
    assert found["per_class"] == []
    assert found["mean"]["rmse"] == pytest.approx(np.mean([client["rmse"] for client in found["clients"]]))
    assert fitted.score(lines()) == found["mean"]["r2"]
    labelled = fitted.predict_components(*rows_of(70, 5, 1.0), client="client-00")
    assert labelled.shape == (5, 1)


def test_a_saved_model_predicts_the_same(fitted, tmp_path):
    again = FedGMI.load(fitted.save(tmp_path / "model"))
    x, _ = rows_of(70, 20, 1.0)
    assert np.array_equal(again.predict(x, client="client-01"), fitted.predict(x, client="client-01"))
    assert again._model().schema.task == "regression"


def test_what_means_nothing_for_a_number_is_refused(fitted):
    x, _ = rows_of(70, 3, 1.0)
    with pytest.raises(DataError, match=r"the target is a number, and has no classes. Likely fix: ask predict or pred"):
        fitted.predict_proba(x, client="client-00")
    with pytest.raises(ConfigError, match=r"level is 90. Likely fix: give a share such as 0.9"):
        fitted.predict_interval(x, level=90, client="client-00")
    with pytest.raises(ConfigError, match=r"level is 'a'. Likely fix: give a share such as 0.9"):
        fitted.predict_interval(x, level="a", client="client-00")
    with pytest.raises(DataError, match="the targets are texts, not numbers"):
        fitted.score(x, ["a", "b", "c"], client="client-00")
    classes = FedGMI(1, rounds=6, verbose=0).fit([(x, [0, 1, 1])] * 2)
    with pytest.raises(DataError, match=r"classes have no interval.* ask predict_proba"):
        classes.predict_interval(x, client="client-00")


@pytest.mark.parametrize("ask", ["score", "evaluate"])
def test_a_federation_of_another_task_is_refused(fitted, ask):
    times = Federation.from_arrays([([[0.0, 1.0]] * 2, [[1, 1], [2, 1]])], task="survival")
    with pytest.raises(
        DataError, match=r"federation's task is survival, and the model's is regression. .*=.regression"
    ):
        getattr(fitted, ask)(times)


def test_a_federation_and_settings_that_differ_in_the_task_are_refused():
    with pytest.raises(ConfigError, match=r"data.task: it is regression, and the federation's rows are for classific"):
        FedGMI(1, rounds=6, task="regression").fit(Federation.from_arrays([([[0.0], [1.0]], [0, 1])] * 2))
    with pytest.raises(ConfigError, match=r"there is no task .regresion.. Likely fix: did you mean .regression"):
        Federation.from_arrays([([[0.0]], [0.5])], task="regresion")


X = [[0.0], [1.0], [2.0]]


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (["low", "high", "low"], "client 'client-00', labels: the targets are texts, not numbers; the first is 'low'"),
        ([1.0, float("nan"), 2.0], "1 of 3 targets are missing .NaN., the first at row 1. Likely fix: leave rows with"),
        ([1.0, float("inf"), 2.0], "target inf at row 1 is infinite, or too large for 32 bits"),
        ([True, False, True], "the targets are truth values, not numbers.*data.task = .classification"),
    ],
)
def test_targets_that_cannot_be_are_refused(y, words):
    with pytest.raises(DataError, match=words):
        Federation.from_arrays([(X, y), (X, [4, 4, 4])], task="regression")


def test_a_target_that_never_varies_is_refused_where_it_is_to_be_learnt(fitted):
    same = Federation.from_arrays([(X, [4, 4, 4])] * 2, task="regression")
    with pytest.raises(
        DataError, match=r"federation, labels: the target is 4 in all 6 training rows. Likely fix: choo"
    ):
        FedGMI(1, rounds=6, verbose=0).fit(same)
    with pytest.warns(FedgmiWarning, match=r"one target in all the training rows of 1 of 2 clients \('client-01'\)"):
        check_learnable(same.schema, [Client("client-00", same.clients[0].x, torch.arange(3.0)), same.clients[1]])
    tenth = torch.full((7, 1), 0.1)  # whose sums are rounded
    with pytest.raises(DataError, match=r"the target is 0\.1 in all 7 training rows"):
        target_leaves(same.schema, target_sums(same.schema, tenth))
    one = fitted.evaluate({"client-00": ([[0.0, 1.0]], [SHIFT])})  # and may be what a fitted model is asked about
    assert one["mean"]["r2"] is None
    assert one["mean"]["rmse"] < 3 * UNIT
    assert math.isnan(fitted.score(Federation.from_arrays([([[0.0, 1.0]] * 2, [4, 4])], task="regression")))
    tiny = Federation.from_arrays([(X, [1e-42, 2e-42, 3e-42])] * 2, task="regression")
    with pytest.raises(DataError, match=r"in all 6 training rows, as far as 32 bits tell.* another unit"):
        FedGMI(1, rounds=6, verbose=0).fit(tiny)


def test_a_federation_without_targets_has_no_task():
    with pytest.raises(DataError, match="there are no targets, and the task is regression"):
        Federation.from_arrays([X, X], task="regression")


def test_numbers_under_classification_are_refused_with_the_task_that_they_need():
    with pytest.raises(DataError, match=r'label 0.5 at row 0 is not a whole number.*data.task = "regression"'):
        Federation.from_arrays([(X, [0.5, 1.5, 2.0])] * 2)
    many = np.arange(2000)
    with pytest.raises(DataError, match=r'2000 different labels.*data.task = "regression"'):
        Federation.from_arrays([(many[:, None], many)] * 2)


def table(path, n: int = 60) -> None:
    """Clients a, b, c as one table of a CSV file; whole targets, which nobody takes for classes."""
    lines = ["ward,age,dose,days"]
    for ward, seed in (("a", 0), ("b", 1), ("c", 2)):
        x, y = rows_of(seed, n, 1.0)
        lines += [f"{ward},{a:.4f},{b:.4f},{round(t)}" for (a, b), t in zip(x, y, strict=True)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def settings(path, **more):
    data = {"path": str(path), "task": "regression", "label_column": "days"}
    found = {
        "rounds": 6,
        "data": data,
        "scenario": {"name": "by-column", "client_column": "ward", "n_components": 2},
        "density": {"name": "gaussian"},
        "expert": {"hidden": 8},
        "training": {"epochs": 1},
    }
    return from_table(found | more, "settings")


@pytest.fixture(scope="module")
def summary(tmp_path_factory):
    where = tmp_path_factory.mktemp("run")
    table(where / "rows.csv", 40)
    return run_experiment(settings(where / "rows.csv", evaluation={"local": False}), where / "run")


def test_a_run_is_judged_by_its_rmse(summary, tmp_path):
    assert summary["metric"] == "rmse"
    assert set(summary["metrics"]) == {"rmse", "mae", "r2", "nll", "coverage"}
    assert summary["client_accuracy"] is None
    assert summary["fedavg"]["metrics"]["rmse"]["mean"] > 0
    assert summary["validation_score"] is not None
    console = Console(width=100, record=True, file=io.StringIO())
    print_report(summary, tmp_path / "run", console)
    text = console.export_text()
    assert "coverage of 90% intervals" in text
    assert "There are no labels" not in text
    assert "RMSE, mean over clients" in words(summary)["How good are predictions?"][0]


def test_a_comparison_ranks_by_the_rmse(summary):
    runs = {"fedgmi": summary, "fedavg": summary["fedavg"]}
    cells = [{"method": name, "seed": 0} | {key: found.get(key) for key in KEPT} for name, found in runs.items()]
    found = compared("by-column", list(runs), [0], cells, "rmse")
    best = min(runs, key=lambda name: runs[name]["metrics"]["rmse"]["mean"])
    assert found["paired"]["best"] == best
    text = to_markdown(found)
    assert "| method | RMSE | worst tenth |" in text
    assert "accuracy" not in text
    assert "coverage" in to_csv(found).splitlines()[0]


def test_a_metric_of_another_task_is_refused(tmp_path):
    table(tmp_path / "rows.csv", 30)
    with pytest.raises(
        ConfigError, match=r"the task is regression, and AUC is a metric of classification.*rmse, mae, r2"
    ):
        run_experiment(settings(tmp_path / "rows.csv", evaluation={"metric": "auc"}), tmp_path / "run")
    with pytest.raises(ConfigError, match="the task is classification, and RMSE is a metric of regression"):
        FedGMI(1, settings={"evaluation.metric": "rmse"}).fit([(X, [0, 1, 1])] * 2)


def test_scenarios_of_classes_refuse_other_tasks(tmp_path):
    table(tmp_path / "rows.csv", 30)
    wants = {"label-swap": "regression has none: choose rotation, domain or by-column", "gaussian": "data"}
    for name, message in wants.items():
        found = settings(tmp_path / "rows.csv", scenario={"name": name, "n_clients": 3, "n_components": 2})
        with pytest.raises(UserError, match=message):
            run_experiment(found, tmp_path / name)
    with pytest.raises(ConfigError, match=r"data.task: it is .regression. and has no effect, for the digits"):
        run_experiment(from_table({"data": {"task": "regression"}}, "settings"), tmp_path / "digits")


def test_validation_rows_choose_by_the_rmse():
    clients = [rows_of(i, 60, 1.0) for i in range(3)]
    data = Federation.from_arrays(clients, validation=[rows_of(80 + i, 20, 1.0) for i in range(3)], task="regression")
    own = {"density.name": "gaussian", "expert.hidden": 8, "method.warm_up_rounds": 1}
    model = FedGMI(1, rounds=2, learning_rate=[1e-5, 1e-2], verbose=0, settings=own).fit(data)
    assert model.learning_rate_ == 1e-2


def test_a_table_says_the_same_as_arrays():
    x, y = rows_of(0, 30, 1.0)
    columns = {"ward": ["a"] * 15 + ["b"] * 15, "age": x[:, 0], "dose": x[:, 1], "days": y}
    data = Federation.from_frame(pyarrow.table(columns), "ward", "days", task="regression")
    assert data.schema.features == ("age", "dose")
    assert torch.equal(data["b"].y, torch.tensor(y[15:], dtype=torch.float32))
    np.testing.assert_allclose(data.labels("a"), y[:15], rtol=1e-6)
    with pytest.raises(DataError, match="the targets are texts"):
        Federation.from_frame(pyarrow.table(columns), "dose", "ward", task="regression")


def test_a_client_with_one_target_of_its_own_is_fine():
    same = Client("one", torch.zeros(5, 2), torch.full((5,), SHIFT))
    data = replace(SMALL, clients=(same, *SMALL.clients[1:]), held_out=())
    method = prepared(METHODS["ditto"](make_task(data.schema, 2, method="ditto")), data.schema, standardise=True)
    _, states, _ = run(method, Scenario(data))
    assert bool(states["personal"].isfinite().all())


def test_a_module_of_ones_own_ends_with_two_numbers():
    own = {"density.name": "gaussian"}
    net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    model = FedGMI(1, rounds=6, learning_rate=0.03, verbose=0, expert=net, settings=own).fit(lines(40))
    assert model.score(lines()) > 0.5
    with pytest.raises(
        ConfigError, match=r"not \(3, 2\).* end it with 2 numbers, the mean of the target and the log of"
    ):
        FedGMI(1, rounds=6, expert=torch.nn.Linear(2, 1), settings=own).fit(lines(40))


def test_targets_that_float32_cannot_tell_apart_are_told():
    seconds = np.array([1_700_000_000, 1_700_000_001, 1_700_000_500])
    with pytest.warns(FedgmiWarning, match="numbers such as 1700000000 and 1700000001 become one"):
        Federation.from_arrays([(X, seconds)] * 2, task="regression")


@pytest.mark.parametrize("name", BY_CLASS)
def test_methods_that_count_by_class_say_so(name):
    with pytest.raises(ConfigError, match=f"{name} is for classification, and the task is regression"):
        METHODS[name](make_task(SMALL.schema, method=name))
