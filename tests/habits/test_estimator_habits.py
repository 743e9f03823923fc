"""What scikit-learn's users do by habit with `FedGMI` and `Federation` gives the right answer, or a clear one."""

from __future__ import annotations

import copy
import io
import json
import pickle
import subprocess
import sys
from functools import partial

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GroupKFold, KFold, cross_validate

from fedgmi import Federation, FedGMI
from fedgmi.drift import Monitor
from fedgmi.errors import CheckpointError, ConfigError, DataError, FedgmiWarning
from fedgmi.estimator.progress import warn_if_rising
from fedgmi.report.progress import listening
from fedgmi.runs.whose import by_client

SMALL = {"density.name": "gaussian", "expert.hidden": 4, "method.codewords": 4, "method.kmeans_rounds": 2}
BLIND = {name: value for name, value in SMALL.items() if name != "expert.hidden"}  # for clients without labels
ROWS = 30


def frame(names="abcdef", seed=0):
    """Two kinds of patients in wards that hold different shares of them."""
    rng = np.random.default_rng(seed)
    kind = rng.random(ROWS * len(names)) < np.repeat(np.linspace(0.1, 0.9, len(names)), ROWS)
    return pd.DataFrame(
        {
            "ward": np.repeat(list(names), ROWS),
            "age": np.where(kind, 75.0, 35.0) + rng.normal(0, 8, len(kind)),
            "pulse": np.where(kind & (rng.random(len(kind)) < 0.7), "irregular", "regular"),
            "outcome": np.where(kind ^ (rng.random(len(kind)) < 0.1), "ill", "well"),
        }
    )


FRAME = frame()
NAMED = {
    name: (part[["age"]].assign(sex=part.pulse == "regular").to_numpy(float), part.outcome.to_numpy(str))
    for name, part in FRAME.groupby("ward")
}


def new(**parameters):
    return FedGMI(**{"n_components": 2, "rounds": 1, "epochs": 1, "verbose": 0, "settings": SMALL} | parameters)


@pytest.fixture(scope="module")
def model():
    return new().fit(FRAME, "outcome", groups="ward")


COPIES = {
    "pickle": lambda fitted: pickle.loads(pickle.dumps(fitted)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


@pytest.mark.parametrize("name", COPIES)
def test_a_model_that_has_been_used_can_be_copied(model, name):
    before = model.predict_proba(FRAME)
    np.testing.assert_array_equal(COPIES[name](model).predict_proba(FRAME), before)
    np.testing.assert_array_equal(COPIES[name](new()).fit(NAMED).weights_, new().fit(NAMED).weights_)


def test_a_model_that_has_been_used_can_be_dumped_by_joblib(model):
    model.predict(FRAME)
    where = io.BytesIO()
    joblib.dump(model, where)
    where.seek(0)
    np.testing.assert_array_equal(joblib.load(where).predict(FRAME), model.predict(FRAME))


@pytest.mark.parametrize("convert", [pl.from_pandas, lambda f: pa.Table.from_pandas(f, preserve_index=False)])
def test_tables_of_every_library_are_one(model, convert):
    other = new().fit(convert(FRAME), "outcome", groups="ward")
    np.testing.assert_array_equal(other.weights_, model.weights_)
    np.testing.assert_array_equal(other.predict_proba(convert(FRAME)), model.predict_proba(FRAME))


WAYS = {
    "labels as an array": lambda: (FRAME[["ward", "age", "pulse"]], FRAME.outcome.to_numpy(), "ward"),
    "clients as a series": lambda: (FRAME[["age", "pulse"]], FRAME.outcome, FRAME.ward),
    "an index that means nothing": lambda: (
        FRAME[["age", "pulse"]].set_index(np.arange(len(FRAME))[::-1] + 1000),
        FRAME.outcome,
        FRAME.ward,
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_all_rows_with_a_name_for_each_are_a_federation(model, way):
    X, y, groups = WAYS[way]()
    found = new().fit(X, y, groups=groups)
    np.testing.assert_array_equal(found.weights_, model.weights_)
    assert found.client_names_ == tuple("abcdef")
    assert found.classes_.tolist() == ["ill", "well"]


def test_clients_one_by_one_are_a_federation():
    x, y, groups = (np.concatenate(part) for part in (*zip(*NAMED.values(), strict=True), [[n] * ROWS for n in NAMED]))
    alike = partial(new, settings=SMALL | {"method.personal": False})  # rows set aside go by clients' names
    by_name, grouped = alike().fit(NAMED), alike().fit(x, y, groups=groups)
    listed = alike().fit(list(NAMED.values()))
    for other in (grouped, listed, alike().fit(Federation.from_arrays(list(NAMED.values())))):
        np.testing.assert_array_equal(other.weights_, by_name.weights_)
    assert by_name.client_names_ == grouped.client_names_ == tuple("abcdef")
    assert listed.client_names_[0] == "client-00"


REFUSED = {
    "rows without clients": (lambda: (np.zeros((9, 2)),), {}, "which client"),
    "a table without clients": (lambda: (FRAME,), {}, "which client the rows of a table"),
    "labels without clients": (lambda: (np.zeros((9, 2)), np.zeros(9)), {}, "whose rows"),
    "rows as lists": (lambda: ([[1.0, 2.0], [3.0, 4.0]],), {}, "which client"),
    "nothing": (lambda: (None,), {}, "which client"),
    "a column of an array": (lambda: (np.zeros((9, 2)),), {"groups": "ward"}, "no column 'ward'"),
    "too few names": (lambda: (np.zeros((9, 2)),), {"groups": ["a"] * 8}, "8 of groups for 9 rows"),
    "names that are none": (lambda: (np.zeros((2, 2)),), {"groups": [True, False]}, "no name of a client"),
    "groups of a federation": (lambda: (Federation.from_arrays([np.ones((3, 1))]),), {"groups": "w"}, "names already"),
    "a misspelt column": (lambda: (FRAME,), {"groups": "wrad"}, "did you mean 'ward'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_federation_says_how_to_make_one(case):
    arguments, more, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        new().fit(*arguments(), **more)


def test_whose_rows_they_are(model):
    proba = model.predict_proba(FRAME)
    for name in "abf":
        mine = FRAME.ward == name
        np.testing.assert_allclose(proba[mine], model.predict_proba(FRAME[mine], client=name), atol=1e-6)
    bare = FRAME[["pulse", "age"]]  # columns by name, whatever their order
    for names in (FRAME.ward, FRAME.ward.to_numpy(), list(FRAME.ward), pl.Series(FRAME.ward.to_numpy())):
        np.testing.assert_array_equal(model.predict_proba(bare, client=names), proba)
    with pytest.raises(DataError, match="whose rows these are"):
        model.predict(bare)
    with pytest.raises(DataError, match=r"row 3.*'z'"):
        model.predict(bare, client=["a", "b", "a", "z", *"a" * (len(FRAME) - 4)])
    with pytest.raises(DataError, match="2 names for 180 rows"):
        model.predict(bare, client=["a", "b"])


NAMES = {  # names of the clients, what is asked for, its place or what is said
    "a name that looks like another's place": ([105, 3, 20, 1], 1, 3),
    "as a text": ([105, 3, 20, 1], "105", 0),
    "NumPy's numbers": ([105, 3, 20, 1], np.int64(20), 2),
    "a place among numbers": ([105, 3, 20, 1], 2, "no client is called 2"),
    "a place among texts": (["b", "a", "d", "c"], 2, 2),
    "a place that is not there": (["b", "a", "d", "c"], 4, "no client 4"),
    "counted from the end": (["b", "a", "d", "c"], -1, "no client -1"),
    "yes": (["b", "a", "d", "c"], True, "True is no name"),
    "a fraction": (["b", "a", "d", "c"], 1.0, "no proportions|no client of that name"),
    "leading zeros": (["007", "01", "2", "3"], 7, "no client is called 7"),
    "misspelt": (["anna", "bert", "c", "d"], "ana", "did you mean 'anna'"),
}


@pytest.mark.parametrize("case", NAMES)
def test_names_come_before_places_everywhere(case):
    names, asked, wanted = NAMES[case]
    x = np.random.default_rng(0).normal(size=(4, 25, 2)) + 3.0 * np.arange(4)[:, None, None]
    federation = Federation.from_arrays(list(x), names=names)
    fitted = FITTED.setdefault("names", new(settings=BLIND).fit(Federation.from_arrays(list(x))))
    fitted = copy.copy(fitted)
    fitted._take(copy.copy(fitted._fitted))
    object.__setattr__(fitted._fitted, "names", federation.names)
    fitted.client_names_ = federation.names
    asks = {
        "federation": lambda: federation[asked].name,
        "predict": lambda: fitted.client_names_[_place(fitted, asked)],
        "monitor": lambda: Monitor(fitted, asked).client,
    }
    for ask in asks.values():
        if isinstance(wanted, int):
            assert ask() == str(names[wanted])
        else:
            with pytest.raises(DataError, match=wanted):
                ask()


FITTED: dict[str, FedGMI] = {}


def _place(fitted, asked):
    [(_, member)] = by_client(fitted._fitted, asked, 1)
    assert fitted.weights_[member.place].tolist() == member.weights.tolist()
    return member.place


def test_a_federation_is_a_collection_of_clients():
    federation = Federation.from_arrays(list(NAMED.values()), names=list(NAMED), held_out=list(NAMED.values()))
    assert len(federation) == 6
    assert [client.name for client in federation] == list(NAMED)
    assert "a" in federation
    assert "z" not in federation
    assert federation["b"].name == "b"
    assert federation.labels("b").tolist() == NAMED["b"][1].tolist()
    assert federation == Federation.from_arrays(list(NAMED.values()), names=list(NAMED), held_out=list(NAMED.values()))
    assert federation != federation.subset(list("abcde"))
    assert federation.subset(["f", "a"]).names == ("f", "a")
    assert [client.name for client in federation.subset(["f", "a"]).held_out] == ["f", "a"]
    assert len(repr(federation)) < 120
    assert len(repr(federation["a"])) < 60
    for names, message in ((["z"], "'z'"), ([], "no client is left"), (["a", "a"], "twice")):
        with pytest.raises(DataError, match=message):
            federation.subset(names)


def test_a_split_over_rows_loses_none_and_repeats_none():
    federation = Federation.from_arrays(list(NAMED.values()), names=list(NAMED))
    here, there = federation.split(0.3)
    assert here == federation.split(0.3)[0]
    assert there != federation.split(0.3, seed=1)[1]
    for client in federation:
        both = torch.cat([here[client.name].x, there[client.name].x])
        assert sorted(both.tolist()) == sorted(client.x.tolist())
        assert len(there[client.name]) == 9
    backwards = federation.subset(list("fedcba")).split(0.3)[1]
    assert all(backwards[name] == there[name] for name in "abcdef")


def test_a_split_over_clients_does_not_ask_for_their_order():
    federation = Federation.from_arrays(list(NAMED.values()), names=list(NAMED))
    here, there = federation.split(0.3, over="clients")
    assert set(here.names) | set(there.names) == set("abcdef")
    assert len(there) == 2
    assert set(federation.subset(list("fdbeca")).split(0.3, over="clients")[1].names) == set(there.names)
    with pytest.raises(ConfigError, match="over"):
        federation.split(0.3, over="columns")
    with pytest.raises(ConfigError, match="between 0 and 1"):
        federation.split(3)


def test_a_client_with_one_row_keeps_it():
    here, there = Federation.from_arrays([np.ones((1, 2)), np.ones((4, 2))]).split()
    assert [len(client) for client in here] == [1, 3]
    assert there.names == ("client-01",)


def test_parameters_are_scikit_learns():
    parameters = {"random_state": 3, "verbose": 1, "settings": {"density.hidden": 4}}
    model = FedGMI(4, **parameters)
    assert clone(model).get_params() == model.get_params()
    assert repr(FedGMI(4, random_state=3)) == "FedGMI(n_components=4, random_state=3)"
    assert model.set_params(seed=0, random_state=None)._config().seed == 0
    assert FedGMI(2, random_state=np.int64(5))._config().seed == 5
    assert FedGMI(2, random_state=np.random.RandomState(0))._config() == (
        FedGMI(2, random_state=np.random.RandomState(0))._config()
    )
    with pytest.raises(ConfigError, match="seed is 1 and random_state is 2"):
        FedGMI(2, seed=1, random_state=2)._config()
    with pytest.raises(ConfigError, match="random_state is 'x'"):
        FedGMI(2, random_state="x")._config()
    with pytest.raises(NotFittedError):
        FedGMI().score(FRAME)


def test_random_state_is_the_seed(model, tmp_path):
    one = new(seed=7).fit(NAMED)
    other = new(random_state=7).fit(NAMED)
    np.testing.assert_array_equal(one.weights_, other.weights_)
    assert FedGMI.load(other.save(tmp_path)).get_params()["seed"] == 7


def test_what_was_fitted_is_told(model, tmp_path):
    for found in (model, FedGMI.load(model.save(tmp_path))):
        assert found.feature_names_in_.tolist() == ["age", "pulse"]
        assert found.n_features_in_ == 2
        assert found.n_iter_ == 1
        assert [line["round"] for line in found.history_] == [0, 1, 2]
        assert found.history_[-1]["bound"] == pytest.approx(found.bound_)
        np.testing.assert_array_equal(found.predict(FRAME), model.predict(FRAME))  # it knows the column of wards
    assert not hasattr(new().fit(NAMED), "feature_names_in_")


def test_intervals_of_the_proportions(model, tmp_path):
    assert model.weights_interval_.shape == (6, 2, 2)
    assert (model.weights_interval_[..., 0] <= model.weights_interval_[..., 1]).all()
    with pytest.raises(AttributeError, match="diagnose"):
        _ = FedGMI.load(model.save(tmp_path)).weights_interval_


def test_scores(model):
    found = model.score(FRAME)  # wards and outcomes are the table's
    assert found == pytest.approx((model.predict(FRAME) == FRAME.outcome).mean())
    bare = FRAME[["age", "pulse"]]
    assert model.score(bare, FRAME.outcome, client=FRAME.ward) == pytest.approx(found)
    first = np.arange(len(FRAME)) < ROWS
    weighted = model.score(bare, FRAME.outcome, client=FRAME.ward, sample_weight=first)
    assert weighted == pytest.approx(model.score(FRAME[first]))
    with pytest.raises(DataError, match="no labels"):
        model.score(bare, client=FRAME.ward)
    blind = new(settings=BLIND).fit([x for x, _ in NAMED.values()])
    assert blind.score(NAMED["a"][0], client=0) == pytest.approx(blind.score_samples(NAMED["a"][0], client=0).mean())


def test_a_federation_is_scored_by_clients_and_a_table_by_rows(model):
    few = FRAME[(FRAME.ward != "a") | (np.arange(len(FRAME)) < 3)]  # of the first ward three rows
    right = model.predict(few) == few.outcome
    assert model.score(few) == pytest.approx(right.mean())
    by_ward = right.groupby(few.ward).mean().mean()
    assert model.score(Federation.from_frame(few, "ward", "outcome")) == pytest.approx(by_ward)
    assert abs(right.mean() - by_ward) > 1e-6


def test_an_evaluation_says_how_each_client_fares(model):
    federation = Federation.from_frame(FRAME, "ward", "outcome")
    found = model.evaluate(federation)
    assert [line["name"] for line in found["clients"]] == list("abcdef")
    for line in found["clients"]:
        mine = FRAME[FRAME.ward == line["name"]]
        assert line["accuracy"] == pytest.approx(model.score(mine))
        assert line["log_density"] == pytest.approx(model.score_samples(mine).mean())
        assert not line["newcomer"]
    assert model.score(federation) == pytest.approx(np.mean([line["accuracy"] for line in found["clients"]]))
    assert found["worst_tenth"]["accuracy"] == min(line["accuracy"] for line in found["clients"])
    assert [line["name"] for line in found["per_class"]] == ["ill", "well"]


def test_an_evaluation_goes_by_the_names_of_columns_and_labels(model):
    """A federation of its own may have other columns' order, fewer values and fewer labels."""
    well = FRAME[(FRAME.outcome == "well") & (FRAME.pulse == "regular")].assign(ward="new")
    federation = Federation.from_frame(well[["outcome", "pulse", "age", "ward"]], "ward", "outcome")
    [line] = model.evaluate(federation)["clients"]
    assert line["newcomer"]
    whose = model.infer_weights(well)
    assert line["accuracy"] == pytest.approx((model.predict(well, client=whose) == "well").mean())
    with pytest.raises(DataError, match="no feature 'age'"):
        model.evaluate(Federation.from_frame(well[["outcome", "pulse", "ward"]], "ward", "outcome"))


def test_a_diagnosis_is_in_words_and_numbered_as_the_model(model):
    federation = Federation.from_frame(FRAME, "ward", "outcome")
    found = model.diagnose(federation)
    assert found["n_components"] == 2
    assert found["clients"] == list("abcdef")
    assert "How many components?" in repr(found)
    assert np.abs(np.array(found["proportions"]) - model.weights_).mean() < 0.25
    assert np.corrcoef(np.array(found["proportions"])[:, 0], model.weights_[:, 0])[0, 1] > 0.5
    assert new(n_components="auto").diagnose(federation)["n_components_estimated"]


def test_rows_for_validation_choose_among_learning_rates():
    clients = list(NAMED.values())
    with pytest.raises(ConfigError, match="there are none"):
        new(learning_rate=[1e-6, 1e-1]).fit(Federation.from_arrays(clients))
    labelled = Federation.from_arrays(clients, validation=clients)
    alone = {rate: new(learning_rate=rate).fit(labelled).history_[-1]["validation_score"] for rate in (1e-6, 1e-1)}
    assert len(set(alone.values())) == 2
    assert new(learning_rate=[1e-6, 1e-1]).fit(labelled).learning_rate_ == max(alone, key=alone.get)
    blind = Federation.from_arrays([x for x, _ in clients], validation=[x for x, _ in clients])
    own = {**BLIND, "density.name": "vae", "density.hidden": 4, "density.latent": 1}
    for rates in ([1e-6, 1e-1], [1e-1, 1e-6]):
        assert new(settings={**own, "training.lr": rates}, epochs=5).fit(blind).learning_rate_ == 1e-1


def test_patience_is_no_setting_without_effect():
    clients = list(NAMED.values())
    patient = new(rounds=8, settings={**SMALL, "training.patience": 1, "method.warm_up_rounds": 1})
    with pytest.raises(ConfigError, match="patience"):
        patient.fit(Federation.from_arrays(clients))
    found = patient.fit(Federation.from_arrays(clients, validation=clients))
    assert 1 < found.n_iter_ <= 8
    assert len(found.history_) < 10


@pytest.mark.parametrize(
    ("bounds", "warns"),
    [
        ([-9, -5, -4, -3, -2], True),
        ([-9, -5, -2, -2, -2], False),
        ([-1, -2, -3], False),
        ([-3], False),
        ([None], False),
    ],
)
def test_a_bound_that_still_rises_is_warned_of(bounds, warns, recwarn):
    warn_if_rising([{"round": i + 1, "bound": bound} for i, bound in enumerate(bounds)], len(bounds))
    assert [bool(issubclass(w.category, ConvergenceWarning)) for w in recwarn] == [True] * warns
    assert all(issubclass(warning.category, FedgmiWarning) for warning in recwarn)


def test_a_fit_is_silent_when_asked_and_tells_when_asked(capsys):
    new().fit(NAMED)
    assert capsys.readouterr() == ("", "")
    new(verbose=None).fit(NAMED)  # no terminal
    assert capsys.readouterr() == ("", "")
    new(verbose=1).fit(NAMED)
    assert "fedgmi: round 1/1" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="verbose"):
        new(verbose="yes").fit(NAMED)


def test_a_terminal_gets_a_bar():
    from rich.console import Console

    text = io.StringIO()
    with listening(Console(file=text, force_terminal=True, width=100)) as listener:
        new().fit(NAMED, listener=listener)
    assert "done" in text.getvalue()


def test_samples_go_on_and_can_be_repeated(model):
    one = copy.deepcopy(model)
    draws = [one.sample(5, component=1) for _ in range(3)]
    assert len({draw.tobytes() for draw in draws}) == 3
    again = copy.deepcopy(model)
    np.testing.assert_array_equal(again.sample(5, component=1, seed=4), one.sample(5, component=1, seed=4))
    fresh = new().fit(FRAME, "outcome", groups="ward")
    np.testing.assert_array_equal(fresh.sample(5, component=1), model.sample(5, component=1, seed=0))


def test_a_sample_of_a_table_is_one_of_its_columns(model):
    rows = model.sample(20, component=0, seed=1)
    assert set(rows[:, 1:].flatten().tolist()) <= {0.0, 1.0}
    np.testing.assert_array_equal(rows[:, 1:].sum(1), 1.0)
    table = model.sample(20, component=0, seed=1, as_frame=True)
    assert list(table.columns) == ["age", "pulse"]
    assert set(table.pulse) <= {"regular", "irregular"}
    assert model.predict(table, client="a").shape == (20,)  # what it gives, it takes


MODES = """
import json, sys, warnings
import numpy as np, torch
from fedgmi import FedGMI
tiny = float.fromhex("0x1p-1074")
torch.set_default_dtype(torch.float64)
torch.set_num_threads(2)
np.seterr(all="raise")
def modes(small=False):
    some = [] if small else [
        tiny > 0, int((torch.full((10**6,), 1e-310) * 1.0 == 0).sum()), torch.get_num_threads(),
        str(torch.get_default_dtype())]
    return [*some, torch.is_grad_enabled(), str(np.geterr()), len(warnings.filters), torch.initial_seed(),
            torch.random.get_rng_state().sum().item(), str(np.random.get_state()[1][:3]), sys.getrecursionlimit()]
rng = np.random.default_rng(0)
clients = [(rng.normal(size=(30, 2)), rng.integers(0, 2, 30)) for _ in range(4)]
found = {"threads": 1, "density.hidden": 4, "density.latent": 2, "expert.hidden": 4, "method.codewords": 4}
model = FedGMI(1, rounds=1, settings=found, verbose=0)
import fedgmi.runs.fit
before = modes(small=True)
model.fit(clients)
after = modes()
model.predict(clients[0][0], client=0), model.score_samples(clients[0][0]), model.sample(2, component=0)
model.infer_weights(*clients[0])
print(json.dumps([after, modes(), before]))
"""


@pytest.mark.slow
def test_modes_of_the_process_are_as_they_were():
    """In a process of its own, where fit is the first to start PyTorch's threads: they keep what they begin with."""
    done = subprocess.run([sys.executable, "-c", MODES], capture_output=True, text=True, check=True)
    after, asked, fresh = json.loads(done.stdout)
    assert after[:4] == [True, 0, 2, "torch.float64"]
    assert asked == after
    assert fresh == after[4:]


def test_cross_validation_within_clients():
    """The recipe of docs/estimator.md: groups go to fit, and a name for each row to score."""
    X, y, groups = FRAME[["age", "pulse"]], FRAME.outcome, FRAME.ward
    with config_context(enable_metadata_routing=True):
        model = new().set_fit_request(groups=True).set_score_request(client=True)
        found = cross_validate(
            model, X, y, cv=KFold(2, shuffle=True, random_state=0), params={"groups": groups, "client": groups}
        )
    train, test = next(KFold(2, shuffle=True, random_state=0).split(X))
    first = new().fit(X.iloc[train], y.iloc[train], groups=groups.iloc[train])
    assert found["test_score"][0] == first.score(X.iloc[test], y.iloc[test], client=groups.iloc[test])


def test_cross_validation_over_clients():
    """Clients that were not there are newcomers: `evaluate` infers their proportions."""
    federation = Federation.from_frame(FRAME, "ward", "outcome")
    names = np.array(federation.names)
    scores = []
    for train, test in GroupKFold(3).split(names, groups=names):
        model = new().fit(federation.subset(names[train]))
        found = model.evaluate(federation.subset(names[test]))
        assert all(line["newcomer"] for line in found["clients"])
        scores.append(found["mean"]["accuracy"])
    assert len(scores) == 3


def test_a_model_of_another_kind_of_error_is_caught_by_value_error():
    for error in (DataError("x"), ConfigError("x")):
        assert isinstance(error, ValueError)
    assert not isinstance(CheckpointError("x"), ValueError)
