"""Missing values by a rule: filled by federated means, in training, in every method, at later rows, and from disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from federations import bare_method, make_task, run
from fedgmi import Federation, FedGMI
from fedgmi.data import encode
from fedgmi.data.missing import with_markers
from fedgmi.data.rows import Schema, pack
from fedgmi.data.scenarios.truth import Scenario
from fedgmi.data.standardise import feature_sums, means, standardisation
from fedgmi.deploy.settings import FederationSettings, RowSettings, SiteSettings
from fedgmi.deploy.site.site_data import load_site
from fedgmi.drift import Monitor
from fedgmi.errors import ConfigError, DataError
from fedgmi.methods import METHODS
from fedgmi.methods.standardising import FILL, prepared, scale_of, standardise_step
from fedgmi.protocol.in_process import InProcess
from fedgmi.settings.run import DataSettings

SMALL = {"density.hidden": 4, "density.latent": 2, "expert.hidden": 4}
RULES = ("mean", "indicator")
NAN = float("nan")


def patients(n: int = 240, gaps: float = 0.2) -> pd.DataFrame:
    """Two kinds of patients in six wards; some ages and sexes were not asked for."""
    rng = np.random.default_rng(0)
    kind = rng.random(n) < np.repeat(np.linspace(0.1, 0.9, 6), n // 6)
    frame = pd.DataFrame(
        {
            "ward": np.repeat(list("abcdef"), n // 6),
            "age": np.where(kind, 70, 30) + rng.normal(0, 5, n),
            "pulse": np.where(kind, 90, 60) + rng.normal(0, 5, n),
            "sex": np.where(rng.random(n) < 0.5, "f", "m"),
            "ill": np.where(kind ^ (rng.random(n) < 0.1), "yes", "no"),
        }
    )
    frame.loc[rng.random(n) < gaps, "age"] = np.nan
    frame.loc[rng.random(n) < gaps, "sex"] = None
    return frame


def federation(rule: str) -> Federation:
    return Federation.from_frame(patients(), client="ward", label="ill", missing=rule)


def scenario(rule: str) -> Scenario:
    found = federation(rule)
    return Scenario(Federation(found.schema, found.clients, found.clients, found.clients), None)


# --- the mean is of those that are there ------------------------------------------------------------------------------


def test_sums_are_over_the_values_that_are_there() -> None:
    x = [torch.tensor([[1.0, NAN], [3.0, NAN]]), torch.tensor([[NAN, 10.0]])]
    sums = [feature_sums(part, gaps=True) for part in x]
    total = {key: sums[0][key] + sums[1][key] for key in sums[0]}
    assert means(total).tolist() == [2.0, 10.0]
    scale = standardisation(total)
    assert (scale.mean.tolist(), scale.std.tolist()) == ([2.0, 10.0], [1.0, 1.0])


@pytest.mark.parametrize("standardise", [True, False])
def test_a_gap_becomes_the_mean_of_all_clients(standardise: bool) -> None:
    schema = Schema((2,), 0, "tabular", features=("a", "b"), missing="mean")
    seen: list[torch.Tensor] = []

    def predict(server: Any, states: Any, rows: Any) -> torch.Tensor:
        seen.append(rows.x)
        return rows.x

    method = prepared(bare_method("bare", predict), schema, standardise=standardise)
    clients = Federation.from_arrays([[[1.0, NAN], [3.0, NAN]], [[NAN, 10.0]]], missing="mean").clients
    transport = InProcess(clients, method.program)
    step = standardise_step(schema, scale=standardise)
    server: dict[str, torch.Tensor] = {}
    messages = [step.client(server, {}, pack([client]), 0)[1] for client in clients]
    total = {key: messages[0].sums[key] + messages[1].sums[key] for key in messages[0].sums}
    server = step.server(server, type(messages[0])(sums=total), 0)
    assert transport is not None
    assert server[FILL].tolist() == [2.0, 10.0]
    method.predictor.predict(server, {}, pack(clients))
    expected = torch.tensor([[1.0, 10.0], [3.0, 10.0], [2.0, 10.0]])
    scale = scale_of(server)
    assert scale is not None
    torch.testing.assert_close(seen[0], scale.apply(expected))
    assert bool((scale.std == 1).all()) or standardise


def test_nothing_more_is_sent_where_missing_values_are_refused() -> None:
    plain = Schema((1,), 0, "tabular", features=("a",))
    rows = pack(Federation.from_arrays([[[1.0], [2.0]]]).clients)
    sums = standardise_step(plain).client({}, {}, rows, 0)[1].sums
    assert {key: tuple(leaf.shape) for key, leaf in sums.items()} == {"sum": (1,), "squares": (1,), "count": ()}
    method = bare_method("bare")
    assert prepared(method, plain, standardise=False) is method


# --- every method ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(METHODS))
@pytest.mark.parametrize("rule", RULES)
def test_every_method_trains_and_predicts(name: str, rule: str) -> None:
    made = scenario(rule)
    schema = made.federation.schema
    built = METHODS[name](make_task(schema, 2, method=name))
    method = prepared(built, schema, standardise=name != "fedavg")
    server, states, _ = run(method, made, rounds=1)
    logs = method.predictor.predict(server, states, pack(made.federation.clients))
    assert logs.shape == (240, 2)
    assert bool(logs.isfinite().all())


# --- a model and its later rows ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=RULES)
def fitted(request: pytest.FixtureRequest) -> FedGMI:
    small = SMALL | {"method.codewords": 5, "method.kmeans_rounds": 2, "method.calibration_steps": 2}
    small |= {"method.personal": False}  # no rows are set aside, so the mean is that of all
    model = FedGMI(2, rounds=2, epochs=1, verbose=0, settings=small)
    return model.fit(federation(request.param))


LATER = pd.DataFrame({"age": [NAN, 40.0], "pulse": [70.0, NAN], "sex": [None, "f"]})
UNSEEN = pd.DataFrame({"age": [30.0], "pulse": [70.0], "sex": ["d"]})


def test_later_rows_are_filled_by_the_rule(fitted: FedGMI, tmp_path: Path) -> None:
    again = FedGMI.load(fitted.save(tmp_path))
    for x in (LATER, UNSEEN):
        for model in (fitted, again):
            assert np.isfinite(model.predict_proba(x, client="a")).all()
            assert np.isfinite(model.score_samples(x)).all()
            assert np.isfinite(model.infer_weights(x).weights).all()
            assert np.isfinite(model.predict_components(x, client="a")).all()
        assert np.array_equal(fitted.predict_proba(x, client="a"), again.predict_proba(x, client="a"))


def test_a_gap_is_worth_the_mean(fitted: FedGMI) -> None:
    mean = pd.DataFrame({"age": [float(patients()["age"].mean())], "pulse": [70.0], "sex": ["f"]})
    gap = mean.assign(age=NAN)
    one, other = (fitted.predict_proba(x, client="a") for x in (mean, gap))
    if fitted._model().schema.missing == "mean":
        np.testing.assert_allclose(one, other, atol=1e-5)
    else:
        assert not np.allclose(one, other, atol=1e-7)  # its mark says more


def test_samples_are_complete(fitted: FedGMI) -> None:
    marks = [place for place, name in enumerate(fitted._model().schema.features) if "=" in name]
    assert set(fitted.sample(6, component=0)[:, marks].ravel().tolist()) <= {0.0, 1.0}
    table = fitted.sample(6, component=0, as_frame=True)
    assert list(table.columns) == ["age", "pulse", "sex"]
    assert np.isfinite(table[["age", "pulse"]].to_numpy()).all()
    assert set(table["sex"].dropna()) <= {"f", "m"}
    assert list(fitted.feature_names_in_) == ["age", "pulse", "sex"]


def test_drift_evaluation_and_diagnosis(fitted: FedGMI) -> None:
    rows = patients().query("ward == 'a'")
    monitor = Monitor(fitted, "a")
    assert monitor.update(rows[["age", "pulse", "sex"]], rows["ill"]).state in ("learning", "in control")
    found = fitted.evaluate(federation(fitted._model().schema.missing))
    assert 0 <= found.metrics["accuracy"]["mean"] <= 1 if hasattr(found, "metrics") else found is not None
    assert fitted.diagnose(federation(fitted._model().schema.missing)) is not None


# --- the schema's columns ---------------------------------------------------------------------------------------------


def test_unseen_values_are_missing_ones() -> None:
    for rule, row in (("mean", [30, 70, NAN, NAN]), ("indicator", [30, 70, 1, 0, 0, 0])):
        found = encode.features(UNSEEN, federation(rule).schema)
        torch.testing.assert_close(found, torch.tensor([row], dtype=torch.float32), equal_nan=True)
    whole = Federation.from_frame(patients(gaps=0.0), client="ward", label="ill", missing="indicator")
    assert whole.schema.features == ("age", "pulse", "sex=f", "sex=m")
    assert encode.features(UNSEEN, whole.schema)[0, 2:].isnan().all()
    refusing = Federation.from_frame(patients(gaps=0.0), client="ward", label="ill")
    with pytest.raises(DataError, match=r"'d' at row 0 is not among the federation's values: f, m.*indicator"):
        encode.features(UNSEEN, refusing.schema)


def test_arrays_may_come_with_marks_or_without() -> None:
    found = Federation.from_arrays([[[1.0, NAN], [2.0, 3.0]]], missing="indicator")
    assert found.schema.features == ("x0", "x1", "x1=(missing)")
    bare = encode.features([[5.0, NAN]], found.schema)
    assert bare[0, 2] == 1
    torch.testing.assert_close(encode.features(bare, found.schema), bare, equal_nan=True)


def test_marks_stand_where_the_schema_says() -> None:
    x = with_markers(torch.tensor([[NAN, 2.0]]), ["a=(missing)", "a", "b"])
    assert x[0, 0] == 1
    assert x[0, 2] == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Federation.from_arrays([np.ones((2, 2))], missing="drop"), "'drop' is no rule.*'refuse', 'mean'"),
        (lambda: Federation.from_arrays([np.full((2, 4, 4), 0.5)], missing="mean"), "pictures have no missing values"),
        (lambda: Federation.from_arrays([[[1.0, NAN]]], missing="mean"), "column 'x1': no client has a value"),
        (lambda: RowSettings(kind="tabular", features=("a", "a=(missing)")).as_schema(), 'rows.missing = "indicator"'),
        (lambda: RowSettings(kind="image", shape=(1, 4, 4), missing="mean").as_schema(), "no missing values"),
    ],
)
def test_rules_that_cannot_be(make: Any, message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        make()


# --- a site -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "features", "expected"),
    [
        ("mean", ("sex=f", "age", "sex=m"), [[NAN, NAN, NAN], [1, 40, 0]]),
        (
            "indicator",
            ("age", "age=(missing)", "sex=(missing)", "sex=f", "sex=m"),
            [[NAN, 1, 1, 0, 0], [40, 0, 0, 1, 0]],
        ),
    ],
)
def test_a_site_fills_as_the_federation_says(tmp_path: Path, rule: Any, features: Any, expected: Any) -> None:
    (tmp_path / "rows.csv").write_text("sex,age\n,\nf,40\n")
    rows = RowSettings(kind="tabular", features=features, missing=rule)
    settings = SiteSettings(name="s", held_out=0.0, validation=0.0, data=DataSettings(path="rows.csv"))
    found = load_site(settings, FederationSettings(name="f", sites=1, rows=rows), tmp_path)
    torch.testing.assert_close(found.train.x, torch.tensor(expected, dtype=torch.float32), equal_nan=True)
    own = SiteSettings(name="s", data=DataSettings(path="rows.csv", missing="mean"))
    with pytest.raises(ConfigError, match=r"data.missing is the federation's to decide: rows.missing"):
        load_site(own, FederationSettings(name="f", sites=1, rows=rows), tmp_path)
