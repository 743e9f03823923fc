"""What people hand to `fit`, `evaluate` and `predict`: labels and clients among the columns, gaps, whole decimals."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from sklearn import config_context
from sklearn.model_selection import KFold, cross_val_score

from fedgmi import Federation, FedGMI
from fedgmi.drift import Monitor
from fedgmi.errors import ConfigError, DataError, FedgmiWarning
from fedgmi.modes import own_modes

SMALL = {"density.name": "gaussian", "expert.hidden": 4, "method.codewords": 4, "method.kmeans_rounds": 2}
ROWS = 25
WARDS = [101, 20, 7, 103]


def table() -> pd.DataFrame:
    """Two kinds of patients in wards that hold different shares of them."""
    rng = np.random.default_rng(0)
    old = rng.random(ROWS * len(WARDS)) < np.repeat(np.linspace(0.1, 0.9, len(WARDS)), ROWS)
    return pd.DataFrame(
        {
            "ward": np.repeat(WARDS, ROWS),
            "age": np.where(old, 75.0, 35.0) + rng.normal(0, 8, len(old)),
            "pressure": np.where(old, 3.0, 1.0) + rng.normal(0, 1, len(old)),
            "died": (rng.random(len(old)) < np.where(old, 0.8, 0.2)).astype(int),
        }
    )


FRAME = table()
BARE = FRAME[["age", "pressure"]]


def new(**parameters):
    return FedGMI(**{"n_components": 2, "rounds": 1, "epochs": 1, "verbose": 0, "settings": SMALL} | parameters)


@pytest.fixture(scope="module")
def model() -> FedGMI:
    return new().fit(FRAME, "died", groups="ward")


GIVEN = {  # how labels and clients are given beside a table that may hold them too, and of what is to be warned
    "by name": (FRAME, "died", "ward", ()),
    "as the table's own columns": (FRAME, FRAME.died, FRAME.ward, ()),
    "as arrays of them": (FRAME, FRAME.died.to_numpy(), FRAME.ward.to_numpy(), ("'died'.*label", "'ward'.*client")),
    "as lists of them": (FRAME, FRAME.died.tolist(), FRAME.ward.tolist(), ("'died'.*label", "'ward'.*client")),
    "beside the table": (BARE, FRAME.died, FRAME.ward, ()),
    "in Polars": (pl.from_pandas(FRAME), pl.from_pandas(FRAME)["died"], pl.from_pandas(FRAME)["ward"], ()),
    "as arrays alone": (BARE.to_numpy(), FRAME.died.to_numpy(), FRAME.ward.to_numpy(), ()),
}


@pytest.mark.parametrize("case", GIVEN)
def test_labels_and_clients_are_no_features(model, case):
    X, y, groups, told = GIVEN[case]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = new().fit(X, y, groups=groups)
    assert found.n_features_in_ == 2
    assert found.client_names_ == model.client_names_
    np.testing.assert_array_equal(found.weights_, model.weights_)
    messages = [str(one.message) for one in caught if "holds what" in str(one.message)]
    for words in told:
        assert any(pd.Series([message]).str.contains(words).item() for message in messages)
    assert len(messages) == len(told)


def test_a_constant_column_is_no_label():
    """What never changes is told by every constant column alike."""
    fitted = new().fit(BARE.assign(one=1), np.ones(len(BARE), int), groups=FRAME.ward)
    assert "one" in fitted.feature_names_in_


WHOLE = {
    "frame": lambda wards: Federation.from_frame(FRAME.assign(ward=wards), "ward", "died").names,
    "groups": lambda wards: new().fit(BARE, FRAME.died, groups=wards).client_names_,
    "arrays": lambda wards: new().fit(BARE.to_numpy(), FRAME.died, groups=np.asarray(wards)).client_names_,
    "dict": lambda wards: tuple(
        sorted(Federation.from_arrays({name: np.zeros((2, 1)) for name in set(wards.tolist())}).names, key=int)
    ),
}


@pytest.mark.parametrize("way", WHOLE)
def test_clients_in_a_column_of_decimals_keep_their_numbers(way):
    """A column of whole numbers becomes one of decimals where it once had a gap."""
    assert WHOLE[way](FRAME.ward) == ("7", "20", "101", "103")
    assert WHOLE[way](FRAME.ward.astype(float)) == ("7", "20", "101", "103")


def test_fractions_name_nobody():
    with pytest.raises(DataError, match=r"column 'ward': 7\.5 is no name of a client"):
        Federation.from_frame(FRAME.assign(ward=FRAME.ward.replace(7, 7.5)), "ward")


def test_decimals_are_known_again(model):
    later = FRAME.assign(ward=FRAME.ward.astype(float))
    np.testing.assert_array_equal(model.predict(later), model.predict(FRAME))
    assert not any(client["newcomer"] for client in model.evaluate(later)["clients"])


GAPPY = FRAME.assign(age=FRAME.age.where(np.arange(len(FRAME)) % 9 > 0))
PARTS = dict(list(GAPPY.groupby("ward")))
WAYS = {
    "table": lambda fitted: fitted.fit(GAPPY, "died", groups="ward"),
    "arrays": lambda fitted: fitted.fit(GAPPY[["age", "pressure"]].to_numpy(), GAPPY.died, groups=GAPPY.ward),
    "list": lambda fitted: fitted.fit([(part[["age", "pressure"]], part.died) for part in PARTS.values()]),
    "dict": lambda fitted: fitted.fit({n: (part[["age", "pressure"]], part.died) for n, part in PARTS.items()}),
}


def test_a_newcomer_s_labels_are_read_from_its_table_as_score_reads_them(model):
    sub = FRAME[FRAME.ward == 20]
    own = model.infer_weights(sub)
    np.testing.assert_array_equal(own.weights, model.infer_weights(sub, sub.died).weights)
    renamed = sub.rename(columns={"died": "dead"})[["age", "pressure", "dead"]]
    with pytest.warns(FedgmiWarning, match="'dead', which the federation did not have"):
        np.testing.assert_array_equal(own.weights, model.infer_weights(renamed, "dead").weights)
    assert not np.array_equal(own.weights, model.infer_weights(sub.drop(columns="died")).weights)
    assert model.score(sub, "died") == model.score(sub)
    with pytest.raises(DataError, match="rows without named columns have no column 'died'"):
        model.infer_weights(sub[["age", "pressure"]].to_numpy(), "died")


def test_a_monitor_takes_labels_from_tables_or_from_none(model):
    monitor = Monitor(model, "20", reference=(FRAME[FRAME.ward == 20], None))
    with pytest.raises(DataError, match="earlier rows had labels, these have none"):
        monitor.update(FRAME[FRAME.ward == 20].drop(columns="died"))


@pytest.mark.filterwarnings("ignore:X has no column names")
@pytest.mark.parametrize("way", WAYS)
def test_gaps_go_by_the_rule_of_the_settings(way):
    with pytest.raises(DataError, match="are missing"):
        WAYS[way](new())
    fitted = WAYS[way](new(settings=SMALL | {"data.missing": "indicator"}))
    assert fitted._fitted.schema.features[-1] in ("age=(missing)", "x0=(missing)")
    assert np.isfinite(
        fitted.predict_proba(GAPPY[["age", "pressure"]].to_numpy(), client=fitted.client_names_[0])
    ).all()


def test_a_federation_has_its_own_rule():
    federation = Federation.from_frame(GAPPY, "ward", "died", missing="mean")
    assert new().fit(federation)._fitted.schema.missing == "mean"
    with pytest.raises(ConfigError, match=r'data\.missing: it is "indicator", and the federation was made with "mean"'):
        new(settings=SMALL | {"data.missing": "indicator"}).fit(federation)


def test_the_width_of_rows_with_marked_gaps_is_told_both_ways():
    fitted = WAYS["arrays"](new(settings=SMALL | {"data.missing": "indicator"}))
    with pytest.raises(DataError, match="n×2, or n×3 with the 1 that mark missing values"):
        fitted.predict(np.zeros((3, 5)), client=0)


def test_columns_that_the_federation_did_not_have_are_told(model):
    with pytest.warns(FedgmiWarning, match="X has a column 'height', which the federation did not have"):
        found = model.predict(FRAME.assign(height=180))
    np.testing.assert_array_equal(found, model.predict(FRAME))
    with pytest.raises(DataError, match=r"X: no column 'age'.*rename 'aged' to 'age'"):
        model.predict(FRAME.rename(columns={"age": "aged"}))


def test_rows_without_names_are_told_once_beside_a_model_with_names():
    fitted = new().fit(FRAME, "died", groups="ward")
    with pytest.warns(FedgmiWarning, match="X has no column names; the columns are taken in the order age, pressure"):
        found = fitted.predict(BARE.to_numpy(), client="7")
    np.testing.assert_array_equal(fitted.predict(BARE.to_numpy(), client="7"), found)
    refitted = fitted.fit(FRAME, "died", groups="ward")
    refitted.evaluate(FRAME)
    with pytest.warns(FedgmiWarning, match="X has no column names"):
        refitted.infer_weights(BARE.to_numpy())


def test_what_fit_takes_is_evaluated_and_diagnosed(model):
    federation = Federation.from_frame(FRAME, "ward", "died")
    assert model.evaluate(FRAME) == model.evaluate(federation)
    assert model.evaluate(BARE, FRAME.died, groups=FRAME.ward) == model.evaluate(federation)
    found, wanted = model.diagnose(FRAME), model.diagnose(federation)
    assert {**found, "seconds": 0.0} == {**wanted, "seconds": 0.0}
    with pytest.raises(DataError, match="nobody says which client"):
        model.evaluate(BARE)


def test_a_client_that_is_given_goes_before_the_column(model):
    np.testing.assert_array_equal(model.predict_proba(FRAME, client="7"), model.predict_proba(BARE, client="7"))


def test_any_scorer_of_scikit_learn_scores_a_table_with_its_column_of_clients():
    """`predict` reads the clients from the table, so that scorers need not know of them."""
    with config_context(enable_metadata_routing=True):
        estimator = new().set_fit_request(groups=True)
        scores = cross_val_score(
            estimator,
            FRAME,
            FRAME.died,
            cv=KFold(2, shuffle=True, random_state=0),
            scoring="f1_macro",
            params={"groups": FRAME.ward},
        )
    assert scores.shape == (2,)
    assert np.isfinite(scores).all()


def test_a_data_set_tells_its_columns(tmp_path):
    FRAME.to_csv(tmp_path / "rows.csv", index=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FedgmiWarning)
        federation = Federation.from_dataset(str(tmp_path), client="ward", label="died")
    assert (federation.client_column, federation.label_column) == ("ward", "died")
    fitted = new().fit(federation)
    assert len(fitted.predict(FRAME)) == len(FRAME)
    assert 0 <= fitted.score(FRAME) <= 1


WRONG = {
    "settings that are no dict": (lambda: new(settings=[1]).fit(FRAME, "died", groups="ward"), "settings is a list"),
    "another method": (
        lambda: new(settings={"method.name": "fedavg"}).fit(FRAME, "died", groups="ward"),
        "FedGMI is the method fedgmi, not fedavg",
    ),
    "more components than clients": (
        lambda: new().fit({"a": (BARE[:5], FRAME.died[:5])}),
        r"2 components cannot be told apart from 1 client\. Likely fix: ask for 1\.",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_parameters_that_cannot_be_meant(case):
    ask, message = WRONG[case]
    with pytest.raises(ConfigError, match=message):
        ask()


WARD_TABLE = Federation.from_frame(FRAME, "ward", "died")
ASKED = {
    "half a row": (lambda m: m.sample(1.5, component=0), ConfigError, "n is 1.5"),
    "half a draw": (lambda m: m.score_samples(FRAME, n_samples=1.5), ConfigError, "n_samples is 1.5"),
    "a component that is a truth": (lambda m: m.sample(2, component=True), ConfigError, "component is True"),
    "a component that is a decimal": (lambda m: m.sample(2, component=0.0), ConfigError, r"component is 0\.0"),
    "a component too many": (lambda m: m.sample(2, component=2), ConfigError, r"no component 2.*0\.\.1"),
    "too few weights": (lambda m: m.score(FRAME, sample_weight=[1, 2]), DataError, r"sample_weight.*for 100 rows"),
    "no weight": (
        lambda m: m.score(FRAME, sample_weight=[np.nan] * 100),
        DataError,
        "it is nan at row 0",
    ),
    "a weight below 0": (lambda m: m.score(FRAME, sample_weight=[1] * 99 + [-2]), DataError, "it is -2 at row 99"),
    "weights of texts": (lambda m: m.score(FRAME, sample_weight=["a"] * 100), DataError, "sample_weight.*texts"),
    "a share that is a text": (lambda m: WARD_TABLE.split("a"), ConfigError, "share is 'a'"),
    "a name that is nearly one": (lambda m: m.predict(BARE, client="10l"), DataError, r"did you mean '10[13]'\? For"),
}


@pytest.mark.parametrize("case", ASKED)
def test_questions_that_have_no_answer(model, case):
    ask, error, message = ASKED[case]
    with pytest.raises(error, match=message):
        ask(model)


def test_the_density_of_a_row_is_never_no_number(model):
    """Models see no value beyond a bound: a row farther out has the density of the bound, which is next to nothing."""
    far = pd.DataFrame({"age": [40.0, 1e30, 1e35], "pressure": [1.0, 1.0, 1.0]})
    bound = new(settings=SMALL | {"density.name": "vae"}).fit(FRAME, "died", groups="ward")
    for one in (model, bound):
        near, *out = one.score_samples(far)
        assert np.isfinite(out).all()
        assert max(out) < near - 1000


def test_copies_of_the_label_and_the_client_are_no_features():
    """However the role is given, and whatever type the copy has."""
    twice = FRAME.assign(again=FRAME.died.astype(str), place=FRAME.ward.astype(float), other=FRAME.died.astype(bool))
    with pytest.warns(FedgmiWarning) as caught:
        federation = Federation.from_frame(twice, "ward", "died")
    assert federation.schema.features == ("age", "pressure")
    told = " ".join(str(one.message) for one in caught)
    assert all(name in told for name in ("'again'", "'place'", "'other'"))
    named = Federation.from_frame(twice, "ward", "died", features=["age", "again"])
    assert len(named.schema.features) == 3


MIXED = {
    "a gap in texts": (["a", float("nan")], "missing"),
    "numbers and texts": ([1, "a"], "mixed|one type|both"),
    "numbers and truths": ([1, True], "mixed|one type|both"),
}


@pytest.mark.parametrize("case", MIXED)
def test_lists_of_labels_are_not_made_one_type(case):
    values, message = MIXED[case]
    labels = values * (len(FRAME) // 2)
    with pytest.raises(DataError, match=message):
        new().fit(BARE.to_numpy(), labels, groups=FRAME.ward)
    with pytest.raises(DataError, match=message):
        Federation.from_arrays([(BARE.to_numpy(), labels)])


@pytest.mark.filterwarnings("ignore:X has no column names")
def test_masks_are_gaps_wherever_they_stand(model):
    hide = np.arange(len(FRAME)) % 10 == 0
    rows, labels = BARE.to_numpy(), np.ma.masked_array(FRAME.died.to_numpy(), mask=hide)
    with pytest.raises(DataError, match="missing"):
        new().fit(rows, labels, groups=FRAME.ward)
    with pytest.raises(DataError, match="missing"):
        new().fit(BARE, labels, groups=FRAME.ward)
    with pytest.raises(DataError, match=r"missing|None is no name"):
        new().fit(rows, FRAME.died, groups=np.ma.masked_array(FRAME.ward.astype(str), mask=hide))
    with pytest.raises(DataError, match="missing"):
        new().fit([np.ma.masked_array(row, mask=[0, 1]) for row in rows], FRAME.died, groups=FRAME.ward)
    with pytest.raises(DataError, match="the name is missing"):
        model.predict(rows[:2], client=np.ma.masked_array(["7", "20"], mask=[0, 1]))


DAYS = pd.to_datetime("2020-01-01") + pd.to_timedelta(FRAME.ward, unit="D")
NOBODY = {  # what names no client, whatever X is
    "dates": (DAYS, "date|times"),
    "dates as objects": (DAYS.dt.date.tolist(), "date"),
    "durations": (FRAME.ward.to_numpy().astype("m8[D]"), "a duration"),
    "bytes": (FRAME.ward.astype(str).to_numpy().astype("S"), r"bytes.*decode"),
    "complex numbers": (FRAME.ward.to_numpy() * 1j, "a complex number"),
    "a number and a text": (FRAME.ward.astype(object).where(FRAME.index != 30, "101"), "two clients have this name"),
}


@pytest.mark.parametrize("case", NOBODY)
def test_what_names_no_client(model, case):
    groups, message = NOBODY[case]
    for X in (BARE, BARE.to_numpy()):
        with pytest.raises(DataError, match=f"groups.*({message})"):
            new().fit(X, FRAME.died, groups=groups)
    if message != "two clients have this name":
        with pytest.raises(DataError, match=f"client.*({message})"):
            model.predict(BARE, client=groups)
    if case in ("dates", "durations"):
        with pytest.raises(DataError, match=r"'ward': it holds dates or times.*texts"):
            Federation.from_frame(FRAME.assign(ward=groups), "ward", "died")


MIXED_UP = FRAME.sample(frac=1, random_state=0)  # the same rows by pandas' index, in another order
ORDERS = {
    "labels": (lambda m: new().fit(FRAME, MIXED_UP.died, groups="ward"), "y"),
    "clients": (lambda m: new().fit(MIXED_UP[["age"]], MIXED_UP.died, groups=FRAME.ward), "groups"),
    "client by client": (lambda m: new().fit([(BARE[:20], FRAME.died[:20][::-1])] * 2), "y"),
    "later clients": (lambda m: m.predict(MIXED_UP, client=FRAME.ward), "client"),
    "later labels": (lambda m: m.score(FRAME, MIXED_UP.died), "y"),
    "labels of components": (lambda m: m.predict_components(FRAME, MIXED_UP.died), "y"),
    "evaluation": (lambda m: m.evaluate(FRAME, MIXED_UP.died), "y"),
}


@pytest.mark.parametrize("case", ORDERS)
def test_an_index_in_another_order_is_refused(model, case):
    ask, what = ORDERS[case]
    with pytest.raises(DataError, match=rf"{what} has the index of X in another order.*{what}\.loc\[X\.index\]"):
        ask(model)


def test_an_index_that_is_another_one_plays_no_part(model):
    other = MIXED_UP.set_axis(range(1000, 1000 + len(MIXED_UP)))
    np.testing.assert_array_equal(model.predict(MIXED_UP, client=other.ward), model.predict(MIXED_UP))
    assert model.score(MIXED_UP, other.died) == model.score(MIXED_UP, MIXED_UP.died.to_numpy())


def test_the_client_is_no_label():
    for ask in (
        lambda: Federation.from_frame(FRAME, "ward", "ward"),
        lambda: new().fit(FRAME, "ward", groups="ward"),
        lambda: new().fit(FRAME, FRAME.ward, groups=FRAME.ward),
    ):
        with pytest.raises(DataError, match="column 'ward' is the client and the label"):
            ask()


def test_names_that_mark_gaps_are_taken():
    with pytest.raises(DataError, match=r"which is how missing values are marked"):
        Federation.from_frame(FRAME.assign(**{"age=(missing)": 1.0}), "ward", "died")
    with pytest.raises(DataError, match=r"it holds the text '\(missing\)'"):
        Federation.from_frame(FRAME.assign(kind=["(missing)", "a"] * 50), "ward", "died", missing="indicator")


def test_tables_are_evaluated_as_they_are_predicted():
    """Gaps that training had not, and categories that the test lacks, are read by the model's rule."""
    kind = np.where(FRAME.pressure > 2.5, "high", np.where(FRAME.pressure < 1, "low", "even"))
    whole = FRAME.assign(kind=kind)
    for rule in ("mean", "indicator"):
        fitted = new(settings=SMALL | {"data.missing": rule}).fit(whole, "died", groups="ward")
        later = whole.assign(age=GAPPY.age, kind=np.where(kind == "even", None, kind))
        found = fitted.evaluate(later)
        for line in found["clients"]:
            mine = later[later.ward.astype(str) == line["name"]]
            assert line["accuracy"] == pytest.approx(fitted.score(mine))
            assert line["log_density"] == pytest.approx(fitted.score_samples(mine).mean())


def test_a_parameter_and_a_setting_that_contradict_are_refused():
    with pytest.raises(ConfigError, match=r"learning_rate is 0\.001, and settings say training\.lr = 0\.01"):
        new(learning_rate=1e-3, settings=SMALL | {"training.lr": 1e-2}).fit(FRAME, "died", groups="ward")
    assert new(learning_rate=np.float32(1e-3)).fit(FRAME, "died", groups="ward").learning_rate_ == pytest.approx(1e-3)
    with pytest.raises(ConfigError, match="random_state is 5, and settings say seed = 3"):
        new(random_state=5, settings=SMALL | {"seed": 3}).fit(FRAME, "died", groups="ward")
    with pytest.raises(ConfigError, match="learning_rate is None"):
        new(learning_rate=None).fit(FRAME, "died", groups="ward")


def test_fits_that_overlap_leave_the_default_type_as_it_was():
    torch.set_default_dtype(torch.float64)
    try:
        with own_modes():
            assert torch.get_default_dtype() == torch.float32
            with own_modes():
                assert torch.get_default_dtype() == torch.float32
            assert torch.get_default_dtype() == torch.float32
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_frozen_layers_are_told():
    layer = torch.nn.Linear(2, 2).requires_grad_(False)
    with pytest.warns(FedgmiWarning, match="frozen .*trained all the same"):
        new(expert=layer, settings={k: v for k, v in SMALL.items() if k != "expert.hidden"}).fit(
            FRAME, "died", groups="ward"
        )


def test_a_text_file_whose_clients_became_decimals_has_the_same_clients(tmp_path):
    FRAME.assign(ward=FRAME.ward.astype(float)).to_csv(tmp_path / "rows.csv", index=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FedgmiWarning)
        federation = Federation.from_dataset(str(tmp_path), client="ward", label="died")
    assert sorted(federation.names, key=int) == ["7", "20", "101", "103"]


TOLD = FRAME.assign(outcome=np.where(FRAME.died == 1, "ill", "well"), place="ward " + FRAME.ward.astype(str))
RECODED = {  # y and groups that are made from a column of the table, which then would tell the answer
    "compared": (TOLD.outcome == "ill", "ward"),
    "compared, without a name": ((TOLD.outcome == "ill").to_numpy(), "ward"),
    "numbered": (pd.factorize(TOLD.outcome)[0], "ward"),
    "replaced": (TOLD.outcome.map({"ill": "A", "well": "B"}), "ward"),
    "clients numbered": ("died", pd.factorize(TOLD.place)[0]),
    "clients shortened": ("died", TOLD.place.str[5:]),
}


@pytest.mark.parametrize("case", RECODED)
def test_what_the_label_or_the_client_was_made_from_is_no_feature(case):
    y, groups = RECODED[case]
    X = TOLD.drop(columns=["died", "place"]) if isinstance(groups, str) else TOLD.drop(columns=["outcome", "ward"])
    with pytest.warns(FedgmiWarning, match=r"'(outcome|place)'.*no feature"):
        found = new().fit(X, y, groups=groups)
    assert set(found.feature_names_in_) <= {"age", "pressure"}


def test_a_column_called_as_the_label_is_no_feature_in_small_tables_either():
    with pytest.warns(FedgmiWarning, match="y is called 'outcome'"):
        found = new().fit(TOLD.drop(columns=["died", "place"])[10:40], TOLD.outcome[10:40] == "ill", groups="ward")
    assert "outcome" not in " ".join(found.feature_names_in_)


def test_recodings_are_found_in_tables_and_kept_where_they_are_named():
    with pytest.warns(FedgmiWarning, match="in other words") as caught:
        federation = Federation.from_frame(TOLD, "ward", "died")
    assert federation.schema.features == ("age", "pressure")
    assert len(caught) == 2
    assert len(Federation.from_frame(TOLD, "ward", "died", features=["age", "outcome"]).schema.features) == 3
    nearly = TOLD.drop(columns="place").assign(outcome=TOLD.outcome.where(TOLD.index != 50, "unknown"))
    assert "outcome=ill" in Federation.from_frame(nearly, "ward", "died").schema.features


def test_data_sets_are_looked_through_for_recodings_as_tables_are(tmp_path):
    TOLD.to_csv(tmp_path / "rows.csv", index=False)
    path = str(tmp_path / "rows.csv")
    with pytest.warns(FedgmiWarning, match="in other words.*all the same, name the features in data.feature_columns"):
        federation = Federation.from_dataset(path, "ward", "died")
    assert federation.schema.features == ("age", "pressure")
    named = Federation.from_dataset(path, "ward", "died", features=["age", "outcome"])
    assert named.schema.features[0] == "age"
    assert len(named.schema.features) == 3
    TOLD[["ward", "died", "outcome"]].to_csv(path, index=False)
    with (
        pytest.warns(FedgmiWarning, match="'outcome' holds"),
        pytest.raises(DataError, match="every column tells the label or the client"),
    ):
        Federation.from_dataset(path, "ward", "died")


def test_texts_that_are_numbers_are_told():
    texts = FRAME.assign(dose=FRAME.age.round(1).astype(str), code=[f"{n % 30:03}" for n in range(len(FRAME))])
    with pytest.warns(FedgmiWarning, match="'dose': it holds .* all are numbers.*pandas.to_numeric") as caught:
        Federation.from_frame(texts, "ward", "died")
    assert len(caught) == 1
    Federation.from_frame(texts.astype({"dose": "category"}), "ward", "died")
    Federation.from_frame(FRAME.assign(stage=[str(n % 4) for n in range(len(FRAME))]), "ward", "died")
    many = pd.concat([FRAME] * 4).assign(dose=[str(n / 8) for n in range(400)])
    with pytest.raises(DataError, match=r"400 different texts.*pandas\.to_numeric"):
        Federation.from_frame(many, "ward", "died")


CLIENTS = [(part[["age", "pressure"]].to_numpy(), part.died.to_numpy()) for _, part in FRAME.groupby("ward")]
PAIRS = {
    "lists of arrays": [[x, y] for x, y in CLIENTS],
    "lists of lists": [[x.tolist(), y.tolist()] for x, y in CLIENTS],
    "lists of tables": [[pd.DataFrame(x), pd.Series(y)] for x, y in CLIENTS],
    "labels as one column": [(x, y[:, None]) for x, y in CLIENTS],
    "labels as a table of one column": [(x, pd.DataFrame({"y": y})) for x, y in CLIENTS],
}


@pytest.mark.parametrize("case", PAIRS)
def test_rows_and_labels_in_a_list_are_those_of_a_tuple(case):
    found, wanted = new().fit(PAIRS[case]), new().fit(CLIENTS)
    assert found.classes_.tolist() == [0, 1]
    np.testing.assert_array_equal(found.weights_, wanted.weights_)


def test_lists_of_rows_and_pictures_are_no_pairs():
    assert len(Federation.from_arrays([[[1.0, 2.0], [3.0, 4.0]]] * 2)["client-00"]) == 2
    pictures = Federation.from_arrays([[np.full((4, 4), 0.5), np.zeros((4, 4))]] * 2)
    assert pictures.schema.shape == (1, 4, 4)


def test_labels_to_score_against_may_be_one_column(model):
    assert model.score(FRAME, FRAME.died.to_numpy()[:, None]) == model.score(FRAME)


def test_lazy_tables_are_to_be_collected(model):
    lazy = pl.from_pandas(FRAME).lazy()
    for ask in (
        lambda: new().fit(lazy, "died", groups="ward"),
        lambda: Federation.from_frame(lazy, "ward", "died"),
        lambda: Federation.from_arrays([lazy]),
        lambda: model.predict(lazy),
    ):
        with pytest.raises(DataError, match=r"LazyFrame.*call \.collect\(\)"):
            ask()


def test_settings_of_experts_have_no_effect_without_labels():
    with pytest.raises(ConfigError, match=r"expert\.hidden: .*no effect, for there are no labels"):
        new(settings=SMALL | {"expert.hidden": 3}).fit(BARE, groups=FRAME.ward)
    plain = {name: value for name, value in SMALL.items() if name != "expert.hidden"}
    assert len(new(settings=plain).fit(BARE, groups=FRAME.ward).weights_) == len(WARDS)


def test_what_is_measured_at_each_client_is_no_code_of_its_name():
    """Beside the client's name, a number with a fraction stays a feature; a whole number that numbers them does not."""
    frame = pd.DataFrame({"ward": np.repeat(list("abcdef"), 20), "age": np.arange(120.0)})
    frame["share"] = frame.ward.map(dict(zip("abcdef", (0.1, 0.25, 0.3, 0.55, 0.6, 0.9), strict=True)))
    frame["number"] = frame.ward.map({name: i for i, name in enumerate("abcdef")})
    frame["ill"] = np.random.default_rng(0).integers(0, 2, 120)
    with pytest.warns(FedgmiWarning, match="'number' holds what the client 'ward' holds, in other words"):
        federation = Federation.from_frame(frame, client="ward", label="ill")
    assert federation.schema.features == ("age", "share")
