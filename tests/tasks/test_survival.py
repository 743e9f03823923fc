"""Survival: likelihoods and the C-index against literal loops, every method, the estimator, a run, bad input."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow
import pytest
import torch

from federations import BY_CLASS, make_task, run, run_on_one_scale
from fedgmi import Federation, FedGMI
from fedgmi.data.rows import pack
from fedgmi.data.scenarios.scenarios import build_scenario
from fedgmi.data.scenarios.truth import Scenario
from fedgmi.data.validate import check_learnable
from fedgmi.errors import CheckpointError, ConfigError, DataError, FedgmiWarning
from fedgmi.estimator.inputs import federation_of
from fedgmi.methods import METHODS
from fedgmi.methods.baselines.fine_tuning import BETA as TUNING_BETA
from fedgmi.methods.candidates import BETA
from fedgmi.methods.local_training import expert_objective
from fedgmi.methods.own_models import proven
from fedgmi.methods.standardising import prepared
from fedgmi.methods.target_scale import EXPECTED, cumulative, target_leaves, target_sums, to_scale
from fedgmi.mixture import life_table, target_bins
from fedgmi.models import training
from fedgmi.models.heads import CLASSES, COX
from fedgmi.models.survival_head import cox_loss
from fedgmi.protocol.in_process import InProcess
from fedgmi.protocol.step import check_program, select
from fedgmi.runs import model_file
from fedgmi.runs.config import from_table
from fedgmi.runs.experiment import run as run_experiment
from fedgmi.runs.metrics import measure
from fedgmi.runs.survival_metrics import c_index, survival_of

TIES = torch.tensor([[3.0, 1.0], [1.0, 1.0], [1.0, 1.0], [1.0, 0.0], [2.0, 0.0], [2.0, 1.0]])
"""Two events and a censored row at time 1, one of each at time 2, an event at time 3."""


def drawn(n: int = 40, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Risks and (times, events), with many ties in both."""
    draws = torch.Generator().manual_seed(seed)
    risk = torch.randint(-3, 4, (n,), generator=draws).float()
    time = torch.randint(1, 6, (n,), generator=draws).float()
    return risk, torch.stack([time, (torch.rand(n, generator=draws) < 0.6).float()], 1)


def literal_partial(risk, y, weight) -> float:
    """−Σ_i w_i δ_i (η_i − log Σ_{j: t_j ≥ t_i} w_j exp η_j), row by row."""
    total = 0.0
    for i in range(len(y)):
        if y[i, 1]:
            at_risk = sum(float(weight[j]) * math.exp(float(risk[j])) for j in range(len(y)) if y[j, 0] >= y[i, 0])
            total -= float(weight[i]) * (float(risk[i]) - math.log(at_risk))
    return total


def literal_level(risk, y, weight) -> float:
    expected = sum(float(w * t) * math.exp(float(r)) for w, r, (t, _) in zip(weight, risk, y, strict=True))
    return expected - float((weight * y[:, 1]).sum()) * math.log(expected)


@pytest.mark.parametrize("case", ["by hand", "ties", "weights"])
def test_the_loss_is_breslows_partial_likelihood_and_the_level(case):
    risk, y = (torch.zeros(6), TIES) if case == "by hand" else drawn()
    weight = torch.ones(len(y)) if case != "weights" else torch.linspace(0.1, 1, len(y))
    found = cox_loss(risk[None, :, None], y[None], None if case != "weights" else weight[None])[0]
    partial = literal_partial(risk, y, weight)
    if case == "by hand":  # risk sets of 6 (twice), 3 and 1 rows
        assert partial == pytest.approx(2 * math.log(6) + math.log(3))
    assert float((weight * found).sum()) == pytest.approx(partial + literal_level(risk, y, weight), rel=1e-4)


def test_a_row_that_is_not_a_models_own_is_in_none_of_its_risk_sets():
    task, (_, y) = make_task(SMALL.schema, method="fedem"), drawn()
    x, place = torch.randn(40, 2, generator=torch.Generator().manual_seed(1)), torch.arange(40)
    own = torch.rand(40, generator=torch.Generator().manual_seed(2)) * (place % 2)
    params = task.expert.init(torch.Generator().manual_seed(0))[None]

    def lowered(rows: torch.Tensor) -> float:
        batch = training.Batch(rows[None], x[rows][None], y[rows][None], torch.zeros(1, len(rows), 0))
        return float(expert_objective(task, own).loss(params, batch).sum())

    assert lowered(place) == pytest.approx(lowered(place[own > 0]), rel=1e-5)
    risk = task.expert.logits(params, x[None])[0, :, 0]
    literal = literal_partial(risk, y, own.clamp(min=1e-12)) + literal_level(risk, y, own)
    assert lowered(place) == pytest.approx(literal, rel=1e-4)


def test_the_level_changes_no_slope_once_it_is_right():
    """With M = D the gradient is that of the partial likelihood alone, which does not know a constant."""
    _, y = drawn()
    risk = torch.full((40,), math.log(float(y[:, 1].sum() / y[:, 0].sum())))  # M = D
    risk.requires_grad_()
    [slope] = torch.autograd.grad(cox_loss(risk[None, :, None], y[None]).sum(), risk)
    level = torch.autograd.grad(literal_partial_torch(risk, y), risk)[0]
    torch.testing.assert_close(slope, level, atol=1e-4, rtol=1e-4)
    assert abs(float(slope.sum())) < 1e-3


def literal_partial_torch(risk, y):
    return -sum(y[i, 1] * (risk[i] - torch.logsumexp(risk[y[:, 0] >= y[i, 0]], 0)) for i in range(len(y)) if y[i, 1])


def test_a_mixture_of_risks_is_a_mixture_of_densities():
    numbers = COX.read(torch.tensor([[[0.5], [-1.0]]]))
    mixed = COX.mix(numbers, torch.tensor([[0.25, 0.75]]).log())
    for event, factor in ((1.0, [math.exp(0.5), math.exp(-1.0)]), (0.0, [1.0, 1.0])):
        y = torch.tensor([[2.0, event]])
        survived = [math.exp(-2 * math.exp(risk)) for risk in (0.5, -1.0)]
        literal = 0.25 * factor[0] * survived[0] + 0.75 * factor[1] * survived[1]
        assert float(COX.log_lik(mixed, y)) == pytest.approx(math.log(literal), rel=1e-5)
    curve = survival_of(mixed.numpy(), np.array([0.0, 2.0]))
    assert curve[0] == pytest.approx([1.0, 0.25 * survived[0] + 0.75 * survived[1]])


def literal_c_index(risk, y) -> float | None:
    right, known = 0.0, 0
    for i in range(len(y)):
        for j in range(len(y)):
            earlier = y[i, 0] < y[j, 0] or (y[i, 0] == y[j, 0] and not y[j, 1])
            if y[i, 1] and earlier and i != j:
                known += 1
                right += 1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0
    return right / known if known else None


@pytest.mark.parametrize("seed", range(3))
def test_the_c_index_is_that_of_a_literal_loop(seed, monkeypatch):
    risk, y = drawn(seed=seed)
    numbers = torch.stack([torch.zeros(40), risk], 1)
    literal = literal_c_index(risk, y)
    assert measure(numbers, y, task="survival") == {"c_index": pytest.approx(literal)}
    monkeypatch.setattr("fedgmi.runs.survival_metrics.PAIRS", 100)
    assert c_index(numbers.double().numpy(), y.numpy()) == pytest.approx(literal)


def test_where_no_order_is_known_there_is_no_c_index():
    numbers = torch.zeros(3, 2)
    assert measure(numbers, torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 1.0]]), task="survival")["c_index"] is None
    assert measure(numbers[:0], torch.zeros(0, 2), task="survival")["c_index"] is None


def patients(i: int, n: int = 40, slope: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Hazards exp(slope·x₀) a thousand days; a third or so are censored."""
    rng = np.random.default_rng(i)
    x = rng.normal(size=(n, 2))
    time, censored = rng.exponential(1000 * np.exp(-slope * x[:, 0])), rng.exponential(1500, n)
    return x, np.stack([np.minimum(time, censored), time <= censored], 1)


def federation(n: int = 40) -> Federation:
    held_out = [patients(100 + i, 20) for i in range(4)]
    return Federation.from_arrays([patients(i, n) for i in range(4)], held_out=held_out, task="survival")


SMALL = federation()


def test_times_on_the_scale_keep_their_order_and_events_come_at_rate_one():
    data = federation(200)
    method = prepared(METHODS["fedavg"](make_task(data.schema, method="fedavg")), data.schema, standardise=True)
    server, _, _ = run(method, Scenario(data), rounds=1)
    assert server[EXPECTED].shape == (3, life_table.CELLS + 1)
    y = torch.cat([client.y for client in data.clients])
    scaled = to_scale(data.schema, server, y)
    for part in (cumulative(server, y[:, 0]), scaled[:, 0].where(y[:, 1] > 0, torch.nan)):
        rising = part[y[:, 0].argsort()]
        assert bool((rising[~rising.isnan()].diff() >= 0).all())
    assert float(scaled[:, 0].sum() / y[:, 1].sum()) == pytest.approx(1.0, abs=0.03)
    assert float(cumulative(server, torch.zeros(1))[0]) == 0.0
    last = cumulative(server, torch.tensor([float(y[y[:, 1] > 0, 0].max()), 1e9, math.inf]))
    assert torch.equal(last[1:], last[1:].new_full((2,), float(last.max())))
    assert float(last[0]) > 1
    words = target_bins.values(data.schema, scaled, torch.tensor([0.3, 0.6]).double())
    assert int(words.max()) == 2 * target_bins.BINS - 1
    assert torch.equal(words >= target_bins.BINS, y[:, 1] > 0)


def kaplan_meier(y: torch.Tensor, time: float) -> float:
    times = y[y[:, 1] > 0, 0].unique()
    died = [((y[:, 0] == t) & (y[:, 1] > 0)).sum() / (y[:, 0] >= t).sum() for t in times if t <= time]
    return math.prod(1 - float(share) for share in died)


TIMES = {
    "far from 0": lambda draw: 1000 + draw.exponential(1, 750),
    "of one size": lambda draw: draw.normal(75, 8, 750),
    "orders of magnitude": lambda draw: draw.lognormal(0, 3, 750),
    "heavy tail": lambda draw: draw.weibull(0.4, 750),
    "months": lambda draw: np.ceil(draw.exponential(6, 750)),
    "tenths of years": lambda draw: np.ceil(draw.exponential(5, 750)) / 10,
    "outliers": lambda draw: np.where(np.arange(750) < 3, 1e9, draw.exponential(1, 750)),
    "half at once": lambda draw: np.where(draw.random(750) < 0.5, 0.0, draw.exponential(1, 750)),
    "few": lambda draw: draw.exponential(1, 40),
}


@pytest.mark.parametrize("case", TIMES)
def test_wherever_times_lie_the_curve_is_kaplan_and_meiers(case):
    draw = np.random.default_rng(0)
    time, seen = TIMES[case](draw), 2 * TIMES[case](draw)
    y = torch.tensor(np.stack([np.minimum(time, seen), time <= seen], 1)).float()
    edges = life_table.first_edges()
    for _ in range(life_table.EXCHANGES - 1):
        edges = life_table.refined(edges, sum(life_table.counts(edges, part) for part in y.split(150)))
    found = life_table.expected(life_table.counts(edges, y))
    asked = y[:, 0].quantile(torch.tensor([0.05, 0.1, 0.25, 0.5, 0.75, 0.9])).contiguous()
    curve = (-life_table.read(edges, found, asked)).exp()
    truth = [kaplan_meier(y, float(t)) for t in asked]
    assert np.abs(curve.numpy() - truth).max() < 0.03
    assert float(life_table.read(edges, found, *y.unbind(1)).sum()) == pytest.approx(float(y[:, 1].sum()), rel=0.03)


def test_life_tables_by_hand():
    """4 rows: an event at 1, one at 2 beside a censored row, and one who is seen no more at 3."""
    y = torch.tensor([[1.0, 1.0], [2.0, 1.0], [2.0, 0.0], [3.0, 0.0]])
    edges = life_table.first_edges()
    for _ in range(life_table.EXCHANGES - 1):
        edges = life_table.refined(edges, life_table.counts(edges, y))
    found = life_table.expected(life_table.counts(edges, y))
    curve = life_table.read(edges, found, torch.tensor([0.999, 1.0, 1.999, 2.0, 3.0, 9.0]))
    first, second = math.log(4.5 / 3.5), math.log(3.5 / 2.5)  # 1/4 and 1/3, but for .001
    expected = [0.0, first, first, first + second, first + second, first + second]
    assert curve.tolist() == pytest.approx(expected, abs=1e-6)
    own = life_table.read(edges, found, *y.unbind(1))
    assert own.tolist() == pytest.approx([1 - 3 * first, first + 1 - 2 * second, first + second, first + second])


@pytest.mark.parametrize("name", [name for name in METHODS if name not in BY_CLASS])
def test_every_method_predicts_risks(name):
    method, server, states = run_on_one_scale(name, SMALL)
    rows = pack(SMALL.held_out)
    numbers = method.predictor.predict(select(server, method.predictor.reads), states, replace(rows, y=None))
    assert numbers.shape[1] % 2 == 0
    assert bool(numbers.isfinite().all())
    torch.testing.assert_close(numbers[:, 0::2].exp().sum(1).double(), torch.ones(len(rows)).double())
    assert measure(numbers, rows.y, task="survival")["c_index"] is not None


def opposite(validation: int) -> Federation:
    """Six wards; what is a risk in three of them protects in the others."""

    def of(first: int, n: int) -> list[tuple[np.ndarray, np.ndarray]]:
        return [patients(first + i, n, slope=2.0 if i % 2 else -2.0) for i in range(6)]

    return Federation.from_arrays(of(0, 60), validation=of(50, validation), held_out=of(100, 30), task="survival")


def own_parts(validation: int) -> tuple[FedGMI, Federation]:
    settings = {"density.name": "gaussian", "expert.hidden": 16}
    data = opposite(validation)
    return FedGMI(1, rounds=2, learning_rate=0.01, verbose=0, settings=settings).fit(data), data


def test_wards_of_opposite_risks_have_parts_of_their_own(tmp_path):
    model, data = own_parts(validation=30)
    assert set(model.own_parts_) == {"personal", "weights"}
    assert model.evaluate(data)["mean"]["c_index"] > 0.75
    new = patients(300, 60, slope=2.0)
    later = patients(350, 100, slope=2.0)
    welcomed, shared = (model.predict(later[0], client=of(*new)) for of in (model.welcome, model.infer_weights))
    assert literal_c_index(welcomed, later[1]) > 0.6 > 0.4 > literal_c_index(shared, later[1])
    again = FedGMI.load(model.save(tmp_path / "model"))
    x = data.held_out[1].x.numpy()
    assert np.array_equal(again.predict(x, client="client-01"), model.predict(x, client="client-01"))
    times = [10.0, 300.0]
    curves = again.predict_survival(x, times, client="client-01")
    assert np.array_equal(curves, model.predict_survival(x, times, client="client-01"))
    assert (np.diff(curves, axis=1) <= 0).all()


def test_a_net_from_a_random_start_has_to_be_proven_better():
    """What rows for validation are ever so little likelier under is not taken; of classes it is."""
    others = torch.zeros(10, 1)
    for gain, of_times in ((0.5, False), (2.9, False), (3.1, True)):
        assert proven(torch.full((2, 1), gain), others, COX) == of_times
        assert proven(torch.full((2, 1), gain), others, CLASSES)


def test_a_few_events_choose_no_temperature():
    data = opposite(10)
    for name, leaf in (("fedavg", BETA), ("fedavg-ft", TUNING_BETA)):
        own = {"personal": True} if name == "fedavg" else {}
        method = prepared(METHODS[name](make_task(data.schema, method=name, **own)), data.schema, standardise=True)
        server, _, _ = run(method, Scenario(data), transport=in_process(method, data))
        assert (server[leaf] == 1.0).all()


def test_with_one_component_it_is_fedavg_with_the_same_part():
    """To the bit, as for classes."""
    data, found = opposite(30), []
    for name in ("fedgmi", "fedavg"):
        task = make_task(data.schema, 1, method=name, density="gaussian", personal=True)
        method = prepared(METHODS[name](task), data.schema, standardise=True)
        server, states, _ = run(method, Scenario(data), transport=in_process(method, data), rounds=3)
        assert method.predictor.has_own(server)
        asked = replace(pack(data.held_out), y=None)
        found.append(method.predictor.predict(server, states, asked))
    assert torch.equal(*found)


def in_process(method, data: Federation) -> InProcess:
    return InProcess(data.clients, method.program, validation=data.validation)


@pytest.fixture(scope="module")
def fitted() -> FedGMI:
    settings = {"density.name": "gaussian", "expert.hidden": 16}
    return FedGMI(1, rounds=8, learning_rate=0.01, verbose=0, settings=settings).fit(federation(150))


def test_the_risk_that_was_put_in_is_found(fitted, tmp_path):
    x, y = patients(200, 300)
    risk = fitted.predict(x, client="client-00")
    assert np.corrcoef(risk, x[:, 0])[0, 1] > 0.9
    assert 0.7 < np.polyfit(x[:, 0], risk, 1)[0] < 1.3
    assert fitted.score(x, y, client="client-00") == pytest.approx(literal_c_index(risk, y))
    assert fitted.score(federation()) == fitted.evaluate(federation())["mean"]["c_index"]
    curve = fitted.predict_survival(x, [0.0, 300.0, 3000.0], client="client-00")
    assert curve[:, 0] == pytest.approx(1)
    assert (np.diff(curve, axis=1) < 0).all()
    truth = np.exp(-0.3 * np.exp(x[:, 0]))  # at 300 of 1000 days
    assert np.abs(curve[:, 1] - truth).mean() < 0.1
    again = FedGMI.load(fitted.save(tmp_path / "model"))
    assert np.array_equal(again.predict_survival(x, [300.0], client="client-00"), curve[:, 1:2])


def test_an_earlier_survival_model_is_told_as_such(fitted, tmp_path):
    server = {name: leaf for name, leaf in fitted._fitted.server.items() if name != EXPECTED}
    model_file.save(tmp_path / "old", replace(fitted._fitted, server=server), {})
    with pytest.raises(CheckpointError, match="a model of survival of an earlier fedgmi"):
        FedGMI.load(tmp_path / "old")
    program = prepared(
        METHODS["local"](make_task(SMALL.schema, method="local")), SMALL.schema, standardise=True
    ).program
    with pytest.raises(
        CheckpointError, match="the checkpoint lacks 'target/expected', which step 'train' of this fedgmi"
    ):
        check_program("local", program, server, prepared=True)


def test_what_means_nothing_for_times_is_refused(fitted):
    x, y = patients(200, 5)
    with pytest.raises(DataError, match=r"a time, and has no classes. Likely fix: ask predict or predict_survival"):
        fitted.predict_proba(x, client="client-00")
    with pytest.raises(DataError, match=r"risks, which have no interval. Likely fix: ask predict_survival; predict_in"):
        fitted.predict_interval(x, client="client-00")
    with pytest.raises(DataError, match="a time is below 0"):
        fitted.predict_survival(x, [-1.0], client="client-00")
    with pytest.raises(DataError, match=r"predict_survival, times: they are no numbers"):
        fitted.predict_survival(x, "a", client="client-00")
    with pytest.raises(DataError, match=r"times: their shape is .1, 2.. Likely fix: give one list"):
        fitted.predict_survival(x, [[1, 2]], client="client-00")
    assert fitted.predict_survival(x, 5, client="client-00").shape == (5, 1)
    tied = Federation.from_arrays([(x, np.tile([7.0, 1.0], (5, 1)))], task="survival")
    assert math.isnan(fitted.score(tied))
    with pytest.raises(DataError, match="the C-index has no weights"):
        fitted.score(x, y, client="client-00", sample_weight=np.ones(5))


@pytest.mark.filterwarnings("ignore:X has no column names")
def test_rows_with_a_name_for_each_client():
    x, y = patients(0, 60)
    wards = np.repeat(["a", "b"], 30)
    own = {"density.name": "gaussian", "expert.hidden": 4}
    model = FedGMI(1, rounds=6, epochs=1, task="survival", verbose=0, settings=own).fit(x, y, groups=wards)
    assert model.client_names_ == ("a", "b")
    table = pyarrow.table({"age": x[:, 0], "dose": x[:, 1]})
    again = FedGMI(1, rounds=6, epochs=1, task="survival", verbose=0, settings=own).fit(table, y, groups=wards)
    np.testing.assert_allclose(again.predict(x, client="a"), model.predict(x, client="a"), atol=1e-4)


X = [[0.0], [1.0], [2.0]]
GOOD = [[1.0, 1.0], [2.0, 0.0], [3.0, 1.0]]


@pytest.mark.parametrize(
    ("y", "words"),
    [
        ([[1, 1], [-2, 0], [3, 1]], r"labels: 1 times are below 0, the first -2 at row 1"),
        ([[1, 1], [2, 2], [3, 1]], r"event 2 at row 1 is neither 0 nor 1. Likely fix: write 1 where the time ended"),
        ([[1, 1], [float("nan"), 0], [3, 1]], r"labels, time: 1 of 3 targets are missing .NaN., the first at row 1"),
        ([1.0, 2.0, 3.0], r"the shape is .3,., and survival needs a time and an event for each row"),
        ([["a", 1], ["b", 0], ["c", 1]], r"labels, time: the targets are texts, not numbers; the first is 'a'"),
    ],
)  # fmt: skip
def test_times_and_events_that_cannot_be_are_refused(y, words):
    with pytest.raises(DataError, match=words):
        Federation.from_arrays([(X, y), (X, GOOD)], task="survival")


def test_without_events_there_is_nothing_to_learn():
    none = [[1.0, 0.0]] * 3
    with pytest.raises(DataError, match=r"there is no event in any of 6 training rows"):
        FedGMI(1, rounds=6, verbose=0).fit(Federation.from_arrays([(X, none)] * 2, task="survival"))
    data = Federation.from_arrays([(X, GOOD), (X, none)], task="survival")
    with pytest.warns(FedgmiWarning, match=r"no event in the training rows of 1 of 2 clients \('client-01'\)"):
        check_learnable(data.schema, data.clients)
    with pytest.raises(DataError, match=r"there is no event in any of 6 training rows"):
        target_leaves(data.schema, target_sums(data.schema, torch.tensor(none * 2)))
    method = prepared(METHODS["local"](make_task(data.schema, method="local")), data.schema, standardise=True)
    _, states, _ = run(method, Scenario(data))
    assert bool(states["expert"].isfinite().all())


def test_a_table_names_times_and_events():
    columns = {"ward": ["a", "a", "b", "b"], "age": [1.0, 2.0, 3.0, 4.0], "days": [5, 6, 7, 8], "died": [1, 0, 0, 1]}
    data = Federation.from_frame(pyarrow.table(columns), "ward", "days", event="died", task="survival")
    assert data.schema.features == ("age",)
    assert data["b"].y.tolist() == [[7.0, 0.0], [8.0, 1.0]]
    with pytest.raises(DataError, match=r"the task is survival, and the column of events is None"):
        Federation.from_frame(pyarrow.table(columns), "ward", "days", task="survival")
    with pytest.raises(DataError, match=r"event 5 at row 0 is neither 0 nor 1"):
        Federation.from_frame(pyarrow.table(columns), "ward", "died", event="days", task="survival")


def told_twice(n):
    """Patients of two wards, and columns that say again whether their time ended in an event."""
    x, y = patients(0, n)
    own = {"ward": np.repeat(["a", "b"], n // 2), "age": x[:, 0], "days": y[:, 0], "died": y[:, 1].astype(int)}
    return pd.DataFrame(own | {"status": y[:, 1] == 1, "outcome": np.where(y[:, 1] == 1, "yes", "no")})


def test_what_tells_the_event_is_no_feature():
    with pytest.warns(FedgmiWarning) as caught:
        made = Federation.from_frame(told_twice(60), "ward", "days", event="died", task="survival")
    assert made.schema.features == ("age",)
    words = " ".join(str(one.message) for one in caught)
    assert "'status' holds what the event 'died' holds, so" in words
    assert "'outcome' holds what the event 'died' holds, in other words" in words


@pytest.mark.parametrize("n", [60, 20], ids=["large", "small"])
def test_times_and_events_of_the_table_itself_are_no_features(n):
    table = told_twice(n)[["ward", "age", "days", "died"]]
    made = federation_of(table, table[["days", "died"]], "ward", task="survival")
    assert made.schema.features == ("age",)
    with pytest.warns(FedgmiWarning, match="y is called 'died'"):
        changed = federation_of(table, table[["days", "died"]].assign(died=1 - table.died), "ward", task="survival")
    assert changed.schema.features == ("age",)


def test_times_and_events_that_came_as_an_array_are_found():
    table = told_twice(60).drop(columns=["status", "outcome"])
    with pytest.warns(FedgmiWarning, match=r"'(days|died)' holds what the (label|event) .* no feature") as caught:
        made = federation_of(table, table[["days", "died"]].to_numpy(), "ward", task="survival")
    assert len(caught) == 2
    assert made.schema.features == ("age",)


def settings(path, **data):
    found = {"path": str(path), "task": "survival", "label_column": "days", "event_column": "died"} | data
    return from_table(
        {
            "rounds": 6,
            "data": {key: value for key, value in found.items() if value},
            "scenario": {"name": "by-column", "client_column": "ward", "n_components": 2},
            "density": {"name": "gaussian"},
            "expert": {"hidden": 8},
            "training": {"epochs": 1},
            "evaluation": {"local": False},
        },
        "settings",
    )


@pytest.fixture
def rows(tmp_path):
    lines = ["ward,age,dose,days,died"]
    for i, ward in enumerate("abc"):
        x, y = patients(i, 60)
        lines += [f"{ward},{a:.4f},{b:.4f},{t:.1f},{int(d)}" for (a, b), (t, d) in zip(x, y, strict=True)]
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path / "rows.csv"


def test_a_run_is_judged_by_its_c_index(rows, tmp_path):
    summary = run_experiment(settings(rows), tmp_path / "run")
    assert summary["metric"] == "c_index"
    assert set(summary["metrics"]) == {"c_index"}
    assert summary["validation_score"] is not None
    assert 0 <= summary["fedavg"]["metrics"]["c_index"]["mean"] <= 1


def test_a_data_set_s_columns_that_tell_the_event_are_no_features(rows, tmp_path):
    lines = rows.read_text(encoding="utf-8").splitlines()
    told = [f"{lines[0]},outcome", *(f"{line},{'ny'[int(line[-1])]}" for line in lines[1:])]
    rows.write_text("\n".join(told) + "\n", encoding="utf-8")
    with pytest.warns(FedgmiWarning, match="'outcome' holds what the event 'died' holds, in other words"):
        made = build_scenario(settings(rows).data, settings(rows).scenario, 0)
    assert made.federation.schema.features == ("age", "dose")


def test_columns_of_survival_are_named_and_never_guessed(rows, tmp_path):
    with pytest.raises(ConfigError, match=r"data.event_column: survival needs the column of each row's event"):
        run_experiment(settings(rows, event_column=None), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"data.label_column: survival needs the column of each row's time"):
        run_experiment(settings(rows, label_column=None), tmp_path / "run")
    with pytest.raises(DataError, match=r"column 'days' is the time"):
        run_experiment(settings(rows, event_column="days"), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"data.event_column: it is .died. and has no effect, for data.task is regr"):
        run_experiment(settings(rows, task="regression"), tmp_path / "run")
