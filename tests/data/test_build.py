"""Federations from arrays, from one table, from a data set; what cannot be used is told in one message."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fedgmi
from fedgmi import Federation
from fedgmi.data import encode
from fedgmi.data.federation import check_federation
from fedgmi.data.rows import Schema
from fedgmi.data.scenarios.scenarios import build_scenario
from fedgmi.data.sources import frames
from fedgmi.errors import ConfigError, DataError, FedgmiWarning
from fedgmi.settings.run import DataSettings, ScenarioSettings

X = np.arange(8.0).reshape(4, 2)
Y = [0, 1, 1, 0]
NAN = np.where(X == 3, np.nan, X)
PATIENTS = {
    "ward": ["b", "a", "b", "c", "a"],
    "age": [30, 41, 52, 63, 74],
    "sex": ["f", "m", "m", "f", "f"],
    "smokes": [True, False, False, True, True],
    "ill": ["yes", "no", "no", "yes", "no"],
}
pl: Any = importlib.import_module("polars") if importlib.util.find_spec("polars") else None
FRAMES: list[Callable[[dict[str, Any]], Any]] = [pd.DataFrame, pa.table, *([] if pl is None else [pl.DataFrame])]
needs_polars = pytest.mark.skipif(pl is None, reason="Polars is not installed")


# --- the package's name --------------------------------------------------------------------------------------------


def test_the_package_is_light_until_a_name_is_asked_for() -> None:
    code = "import sys, fedgmi; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert fedgmi.Federation is Federation
    assert "Federation" in dir(fedgmi)
    with pytest.raises(AttributeError, match="no attribute 'Federations'"):
        _ = fedgmi.Federations


# --- arrays --------------------------------------------------------------------------------------------------------


def test_tables_of_arrays_or_tensors() -> None:
    federation = Federation.from_arrays([(X, Y), (torch.from_numpy(X[:3]).half(), torch.tensor([2, 2, 0]))])
    assert federation.names == ("client-00", "client-01")
    assert federation.schema.kind == "tabular"
    assert (federation.schema.shape, federation.schema.features) == ((2,), ("x0", "x1"))
    assert federation.schema.classes == ("0", "1", "2")
    assert [client.x.dtype for client in federation.clients] == [torch.float32] * 2
    assert federation.clients[1].x.tolist() == X[:3].tolist()
    assert [client.y.tolist() for client in federation.clients if client.y is not None] == [Y, [2, 2, 0]]
    assert federation.validation == federation.held_out == ()


def test_classes_are_found_over_all_clients_and_all_their_rows() -> None:
    federation = Federation.from_arrays(
        [(X, ["cat", "dog", "dog", "cat"]), (X, np.array(["eel"] * 4, dtype=object))],
        names=["anna", "bert"],
        held_out=[(X[:1], ["ant"]), (X[:1], ["eel"])],
    )
    assert federation.schema.classes == ("ant", "cat", "dog", "eel")
    assert [client.y.tolist() for client in federation.clients if client.y is not None] == [[1, 2, 2, 1], [3] * 4]
    assert [client.name for client in federation.held_out] == ["anna", "bert"]
    assert federation.held_out[0].y is not None
    assert federation.held_out[0].y.tolist() == [0]


@given(st.lists(st.lists(st.integers(-9, 9), min_size=1, max_size=5), min_size=1, max_size=4))
@settings(deadline=None)
def test_classes_name_the_labels_that_were_given(labels: list[list[int]]) -> None:
    federation = Federation.from_arrays([(np.zeros((len(y), 1)), np.array(y, dtype=float)) for y in labels])
    classes = federation.schema.classes
    assert [[int(classes[i]) for i in client.y] for client in federation.clients if client.y is not None] == labels


@pytest.mark.parametrize(("shape", "expected"), [((3, 4, 5), (1, 4, 5)), ((3, 2, 4, 5), (2, 4, 5))])
def test_pictures(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    federation = Federation.from_arrays([np.full(shape, 0.5), torch.full(shape, 0.5)])
    assert (federation.schema.kind, federation.schema.shape) == ("image", expected)
    assert federation.schema.n_classes == 0
    assert federation.clients[0].y is None


def test_the_arrays_are_copied() -> None:
    x = X.astype(np.float32)
    federation = Federation.from_arrays([x])
    x[:] = np.nan
    assert federation.clients[0].x.tolist() == X.tolist()


@pytest.mark.parametrize(
    ("clients", "options", "message"),
    [
        ([], {}, r"federation: there is no client"),
        ([X[0]], {}, r"client 'client-00': x of shape \(2,\) is neither a table nor pictures.*\[n, features\]"),
        ([np.zeros((1, 1, 1, 1, 1))], {}, r"neither a table nor pictures"),
        ([X[:, :0]], {}, r"x of shape \(4, 0\)"),
        ([[[1.0], [1.0, 2.0]]], {}, r"client 'client-00': the rows differ in length"),
        ([[["a"]]], {}, r"x holds texts, not numbers.*Federation.from_frame"),
        ([X, X[:, :1]], {}, r"client 'client-01': rows have shape \(1,\), but the schema says \(2,\)"),
        ([X, np.zeros((2, 2, 2))], {}, r"client 'client-01': rows have shape \(1, 2, 2\)"),
        ([X, NAN], {}, r"client 'client-01', column 'x1': 1 of 4 values are missing.*fill or drop.*data.missing"),
        ([np.full((1, 1), 1e300)], {}, r"column 'x0': 1 of 1 values are infinite, or too large"),
        ([np.full((1, 2, 2), 255, dtype=np.uint8)], {}, r"values from 255 to 255, outside 0..1.*divide by 255"),
        ([X, X[:0]], {}, r"client 'client-01': it has no rows"),
        ([X[:0]], {}, r"client 'client-00': it has no rows"),
        ([X, X], {"names": ["anna", "anna"]}, r"client 'anna': two clients have this name"),
        ([X, X], {"names": ["anna"]}, r"1 names for 2 clients.*one entry"),
        ([X, X], {"held_out": [X]}, r"federation \(held-out\): 2 names for 1 clients"),
        ([X], {"validation": [X, X]}, r"federation \(validation\): 1 names for 2 clients"),
        ([(X, Y), X], {}, r"client 'client-01': some clients have labels and others have none"),
        ([(X, Y)], {"held_out": [X]}, r"client 'client-00' \(held-out\): some clients have labels"),
        ([(X, Y), (X, [0, 1, 0.5, 1])], {}, r"client 'client-01', labels: label 0.5 at row 2 is not a whole number"),
        (
            [(X, [0, 1, np.nan, 1])],
            {},
            r"labels: 1 of 4 labels are missing, the first at row 2.*rows without a label out",
        ),
        ([(X, [0, 1, None, 1])], {}, r"client 'client-00', labels: 1 of 4 labels are missing, the first at row 2"),
        ([(X, Y), (X, list("abba"))], {}, r"labels: some labels are numbers and others are texts"),
        ([(X, Y[:3])], {}, r"labels: the shape is \(3,\) for 4 rows"),
        ([(X, [[label] * 2 for label in Y])], {}, r"labels: the shape is \(4, 2\) for 4 rows"),
        ([(np.zeros((1001, 1)), range(1001))], {}, r"1001 different labels"),
        ([(X, Y, Y)], {}, r"client 'client-00': the entry is a tuple of 3.*give \(x, y\), or x alone"),
        ([()], {}, r"client 'client-00': the entry is a tuple of 0"),
    ],
)
def test_arrays_that_cannot_be_used(clients: list[Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Federation.from_arrays(clients, **options)


# --- one table -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", FRAMES)
def test_mixed_columns_by_client(make: Callable[[dict[str, Any]], Any]) -> None:
    federation = Federation.from_frame(make(PATIENTS), client="ward", label="ill")
    assert federation.names == ("a", "b", "c")
    assert federation.schema.features == ("age", "sex=f", "sex=m", "smokes")
    assert federation.schema.classes == ("no", "yes")
    assert federation.clients[0].x.tolist() == [[41, 0, 1, 0], [74, 1, 0, 1]]
    assert federation.clients[0].x.dtype == torch.float32
    assert [client.y.tolist() for client in federation.clients if client.y is not None] == [[0, 0], [1, 0], [1]]


@pytest.mark.parametrize("make", FRAMES)
def test_chosen_features_and_no_label(make: Callable[[dict[str, Any]], Any]) -> None:
    federation = Federation.from_frame(make(PATIENTS), client="ward", features=["smokes", "age"])
    assert federation.schema.features == ("smokes", "age")
    assert federation.schema.n_classes == 0
    assert federation.clients[2].x.tolist() == [[1, 63]]


def test_categories_are_texts_whatever_they_are_made_of() -> None:
    grade = pd.Categorical([3, 1, 3, 1, 1], categories=[1, 2, 3])
    frame = pd.DataFrame({"ward": pd.Categorical(PATIENTS["ward"]), "grade": grade})
    federation = Federation.from_frame(frame, client="ward")
    assert federation.schema.features == ("grade=1", "grade=3")
    assert federation.clients[0].x.tolist() == [[1, 0], [1, 0]]
    arrow = pa.table({"ward": [0] * 5, "grade": pa.array(list("abcab")).dictionary_encode()})
    assert Federation.from_frame(arrow, client="ward").schema.features == ("grade=a", "grade=b", "grade=c")


def test_an_index_of_pandas_is_no_feature_and_numbered_clients_are_in_order() -> None:
    frame = pd.DataFrame({"site": [10, 9, 10, 2], "a": [1.0, 2.0, 3.0, 4.0]}, index=[7, 5, 3, 1])
    federation = Federation.from_frame(frame, client="site")
    assert federation.names == ("2", "9", "10")
    assert federation.schema.features == ("a",)
    assert federation.clients[2].x.flatten().tolist() == [1, 3]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30))
@settings(deadline=None)
def test_every_row_goes_to_its_client_in_the_order_of_the_table(column: list[int]) -> None:
    federation = Federation.from_frame(pa.table({"who": column, "row": list(range(len(column)))}), client="who")
    for client in federation.clients:
        assert client.x.flatten().tolist() == [row for row, who in enumerate(column) if str(who) == client.name]


def changed(**columns: Any) -> dict[str, Any]:
    return PATIENTS | columns


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (PATIENTS, {"client": "wards"}, r"client: no column 'wards'; there are ward, age.*did you mean 'ward'\?"),
        (PATIENTS, {"label": "sick"}, r"label: no column 'sick'"),
        (PATIENTS, {"features": ["aged"]}, r"features: no column 'aged'.*did you mean 'age'\?"),
        (PATIENTS, {"features": ["age", "ill"], "label": "ill"}, r"features: column 'ill' is the label.*leave it out"),
        (PATIENTS, {"features": ["ward"]}, r"features: column 'ward' is the clients' names"),
        (PATIENTS, {"features": []}, r"features: no column is left"),
        (changed(age=[1.0, 2.0, None, 4.0, 5.0]), {}, r"column 'age': 1 values are missing, the first at row 2"),
        (changed(sex=["f", None, "m", "m", "m"]), {}, r"column 'sex': 1 values are missing, the first at row 1"),
        (changed(ward=["a", None, "b", "b", "b"]), {}, r"column 'ward': 1 values are missing, the first at row 1"),
        (changed(age=[1.0, 2.0, float("inf"), 4.0, 5.0]), {}, r"column 'age': 1 values.*leave it out of features"),
        (changed(age=[b"x"] * 5), {}, r"column 'age': it holds (large_)?binary, neither numbers nor texts"),
        (changed(age=[[1]] * 5), {"label": "age"}, r"column 'age': it holds (large_)?list"),
        (PATIENTS | {"y": [0.5] * 5}, {"label": "y"}, r"column 'y': label 0.5 at row 0 is not a whole.*another label"),
        ({name: values[:0] for name, values in PATIENTS.items()}, {"features": ["age"]}, r"there is no client|null"),
    ],
)
@pytest.mark.parametrize("make", FRAMES)
def test_tables_that_cannot_be_used(
    make: Callable[[dict[str, Any]], Any], columns: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        Federation.from_frame(make(columns), **{"client": "ward", **options})


def schema_of(frame: Any) -> Schema:
    return Federation.from_frame(frame, client="ward", label="ill").schema


@pytest.mark.parametrize("make", FRAMES)
def test_later_rows_come_in_the_same_columns(make: Callable[[dict[str, Any]], Any]) -> None:
    later = make({"smokes": [True], "sex": ["m"], "city": ["Rome"], "age": [25]})
    assert frames.encode(later, schema_of(make(PATIENTS))).tolist() == [[25, 0, 1, 1]]
    assert encode.features(later, schema_of(make(PATIENTS))).tolist() == [[25, 0, 1, 1]]


def test_later_categories_of_numbers_may_come_as_numbers() -> None:
    frame = pd.DataFrame({"ward": [0, 1], "grade": pd.Categorical([3, 1])})
    schema = Federation.from_frame(frame, client="ward").schema
    assert frames.encode(pa.table({"grade": [1, 3]}), schema).tolist() == [[1, 0], [0, 1]]


def test_an_equals_sign_in_a_name_leads_nobody_astray() -> None:
    table = pa.table({"ward": ["a", "b"], "dose=mg": [5, 7], "text=": ["a=b", "="]})
    federation = Federation.from_frame(table, client="ward")
    assert federation.schema.features == ("dose=mg", "text===", "text==a=b")
    assert frames.encode(table, federation.schema).tolist() == [client.x[0].tolist() for client in federation.clients]


def test_a_column_that_is_called_like_a_value_of_another_is_refused() -> None:
    """Later tables could not tell a column `dose=mg` from the value `mg` of a column `dose`."""
    table = pa.table({"ward": ["a", "b"], "dose": ["low", "high"], "dose=mg": [5, 7]})
    with pytest.raises(DataError, match=r"column 'dose=mg' is called as if it were a value of .* 'dose'"):
        Federation.from_frame(table, client="ward")
    federation = Federation.from_frame(table.drop_columns("dose=mg"), client="ward")
    later = table.append_column("dose=low", pa.array([3.0, 4.0]))
    with pytest.raises(DataError, match="columns 'dose=low' and 'dose' could both be meant"):
        frames.encode(later, federation.schema)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"age": [1], "sex": ["x"], "smokes": [True]},
            r"column 'sex': 'x' at row 0 is not among the federation's values: f, m",
        ),
        ({"age": [1], "sexe": ["f"], "smokes": [True]}, r"X: no column 'sex'.*rename 'sexe' to 'sex'"),
        (
            {"age": ["1"], "sex": ["f"], "smokes": [True]},
            r"column 'age': it holds texts, but numbers in the federation",
        ),
        ({"age": [None, 1], "sex": ["f"] * 2, "smokes": [True] * 2}, r"column 'age': 1 values are missing"),
    ],
)
def test_later_rows_that_cannot_be_used(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        frames.encode(pa.table(columns), schema_of(pa.table(PATIENTS)))


@pytest.mark.parametrize("make", FRAMES)
def test_frames_as_arrays_give_their_names(make: Callable[[dict[str, Any]], Any]) -> None:
    x = make({"age": [30, 41], "dose": [0.5, 1.5]})
    federation = Federation.from_arrays([(x, [0, 1])])
    assert federation.schema.features == ("age", "dose")
    assert federation.clients[0].x.tolist() == [[30, 0.5], [41, 1.5]]


def test_frames_that_are_no_tables() -> None:
    with pytest.raises(DataError, match=r"frame: this is a dict, not a table.*pandas or Polars, or a pyarrow Table"):
        Federation.from_frame(PATIENTS, client="ward")
    with pytest.raises(DataError, match=r"frame: a column cannot be read \(.*age.*one type"):
        Federation.from_frame(pd.DataFrame(changed(age=[1, "x", 2, 3, 4])), client="ward")
    for twice in (pa.table([[1], [2]], names=["age", "age"]), pd.DataFrame([[1, 2]], columns=["age", "age"])):
        with pytest.raises(DataError, match=r"frame: two columns are called 'age'.*rename"):
            Federation.from_frame(twice, client="age")
        with pytest.raises(DataError, match=r"frame: two columns are called 'age'.*rename"):
            Federation.from_arrays([twice])


def mixed_columns(n: int, seed: int) -> dict[str, list[Any]]:
    draws = np.random.default_rng(seed)
    return {
        "ward": draws.choice(["a", "b", "c"], n).tolist(),
        "age": draws.integers(0, 100, n).tolist(),
        "dose": draws.normal(size=n).tolist(),
        "sex": draws.choice(["f", "m=x"], n).tolist(),
        "smokes": (draws.random(n) > 0.5).tolist(),
        "ill": draws.integers(-1, 3, n).tolist(),
    }


@pytest.mark.parametrize("make", FRAMES)
@pytest.mark.parametrize("seed", range(3))
def test_every_kind_of_frame_gives_the_same_federation(make: Callable[[dict[str, Any]], Any], seed: int) -> None:
    columns = mixed_columns(40, seed)
    federation = Federation.from_frame(make(columns), client="ward", label="ill")
    other = Federation.from_frame(pa.table(columns), client="ward", label="ill")
    assert federation.schema == other.schema
    assert federation.names == other.names
    for ours, theirs in zip(federation.clients, other.clients, strict=True):
        assert ours.x.equal(theirs.x)
        assert ours.y is not None
        assert theirs.y is not None
        assert ours.y.equal(theirs.y)
    later = encode.features(make(columns), federation.schema)
    assert later.equal(encode.features(pa.table(columns), federation.schema))


@needs_polars
def test_categories_of_polars_are_texts() -> None:
    grade = pl.Series("grade", ["low", "high", "low", "low", "high"], dtype=pl.Enum(["low", "high"]))
    wards = pl.Series(PATIENTS["ward"], dtype=pl.Categorical)
    frame = pl.DataFrame({"ward": wards, "grade": grade, "age": PATIENTS["age"]})
    federation = Federation.from_frame(frame, client="ward", label="grade")
    assert federation.names == ("a", "b", "c")
    assert federation.schema.classes == ("high", "low")
    with_grade = Federation.from_frame(frame, client="ward", features=["grade"])
    assert with_grade.schema.features == ("grade=high", "grade=low")
    assert encode.features(pl.DataFrame({"grade": ["high"]}), with_grade.schema).tolist() == [[1, 0]]


@needs_polars
def test_frames_of_polars_that_are_no_tables_in_memory() -> None:
    frame = pl.DataFrame(PATIENTS)
    with pytest.raises(DataError, match=r"frame: this is a LazyFrame.*collect"):
        Federation.from_frame(frame.lazy(), client="ward")
    with pytest.raises(DataError, match=r"frame: this is a Series"):
        Federation.from_frame(frame["age"], client="ward")
    with pytest.raises(DataError, match=r"column 'born': it holds dates or times.*days since"):
        Federation.from_frame(frame.with_columns(born=pl.date(2026, 1, 1)), client="ward")


@needs_polars
def test_columns_of_polars_as_arrays() -> None:
    frame = pl.DataFrame({"age": [30, 41], "dose": [0.5, 1.5], "ill": ["no", "yes"]})
    federation = Federation.from_arrays([(frame.select("age", "dose"), frame["ill"])])
    assert federation.schema.features == ("age", "dose")
    assert federation.schema.classes == ("no", "yes")
    assert federation.clients[0].x.tolist() == [[30, 0.5], [41, 1.5]]
    assert encode.labels(frame["ill"], federation.schema, 2).tolist() == [0, 1]


def test_arrays_wait_for_no_library_of_frames() -> None:
    code = "import sys, numpy, fedgmi; fedgmi.Federation.from_arrays([numpy.eye(2)]); "
    loaded = "sorted({'pandas', 'polars', 'pyarrow'} & sys.modules.keys())"
    subprocess.run([sys.executable, "-c", f"{code}sys.exit(str({loaded}) if {loaded} else 0)"], check=True)


def test_errors_of_data_and_settings_are_value_errors() -> None:
    with pytest.raises(ValueError, match="there is no client"):
        Federation.from_arrays([])
    with pytest.raises(ValueError, match='there is no option "max_row"'):
        Federation.from_dataset("digits", client="ward", max_row=3)


WITHOUT_PANDAS = """
import sys
class NotInstalled:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "pandas":
            raise ImportError(name)
sys.meta_path.insert(0, NotInstalled())
import pyarrow
from fedgmi import Federation
rows = {"ward": ["a", "b"], "age": [1, 2], "sex": pyarrow.array(["f", "m"]).dictionary_encode()}
sys.exit(Federation.from_frame(pyarrow.table(rows), client="ward").schema.features != ("age", "sex=f", "sex=m"))
"""


def test_arrow_needs_no_pandas() -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_PANDAS], check=True)


# --- a data set ----------------------------------------------------------------------------------------------------


@pytest.fixture
def wards(write_table: Callable[..., str]) -> str:
    ward = [f"ward-{i % 3}" for i in range(90)] + ["tiny"] * 5
    return write_table({"number": list(range(5, 100)), "ward": ward, "label": [0, 1] * 47 + [1]})


@pytest.mark.filterwarnings("ignore:.* rows are used")
def test_a_data_set_is_split_as_the_by_column_scenario_does(wards: str) -> None:
    settings = ScenarioSettings(name="by-column", client_column="ward", n_clients=2, rows_per_client=12)
    scenario = build_scenario(DataSettings(path=wards, label_column="label"), settings, 3)
    federation = Federation.from_dataset(wards, "ward", "label", n_clients=2, rows_per_client=12, seed=3)
    for ours, theirs in (
        (federation.clients, scenario.federation.clients),
        (federation.validation, scenario.federation.validation),
        (federation.held_out, scenario.federation.held_out),
    ):
        assert [client.name for client in ours] == [client.name for client in theirs]
        assert all(torch.equal(a.x, b.x) for a, b in zip(ours, theirs, strict=True))
    assert federation.schema == scenario.federation.schema


def test_a_data_set_gives_all_clients_with_enough_rows(wards: str) -> None:
    with pytest.warns(FedgmiWarning, match="90 of 95 rows are used, of 3 clients"):
        federation = Federation.from_dataset(wards, client="ward", features=["number"])
    assert federation.names == ("ward-0", "ward-1", "ward-2")
    groups = [federation.clients, federation.validation, federation.held_out]
    assert [len(group[0]) for group in groups] == [21, 3, 6]
    rows = sorted(int(row) for group in groups for client in group for row in client.x[:, 0])
    assert rows == list(range(5, 95))
    assert federation.schema.classes == ("0", "1")


def test_how_many_rows_make_a_client_and_choose_is_as_in_settings(wards: str) -> None:
    federation = Federation.from_dataset(wards, client="ward", features=["number"], min_rows=5, validation_share=0)
    assert federation.names == ("tiny", "ward-0", "ward-1", "ward-2")
    assert (federation.validation, [len(client) for client in federation.clients]) == ((), [4, 24, 24, 24])
    with pytest.raises(ConfigError, match=r"from_dataset: validation_share is 1, expected less than 1"):
        Federation.from_dataset(wards, client="ward", validation_share=1)
    with pytest.raises(ConfigError, match=r"from_dataset: min_rows is 0, expected 1 or more"):
        Federation.from_dataset(wards, client="ward", min_rows=0)


def test_a_client_with_one_row_trains_on_it(tmp_path: Path) -> None:
    for split, sizes in (("train", {"a": 30, "b": 2, "c": 1}), ("test", {"a": 9, "c": 3})):
        lines = [f"{i},{ward},{i % 2}" for ward, n in sizes.items() for i in range(n)]
        (tmp_path / f"{split}.csv").write_text("number,ward,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    with pytest.warns(FedgmiWarning, match=r"no test rows for 1 clients \(b\)"):
        data = Federation.from_dataset(str(tmp_path), "ward", "label", min_rows=1)
    groups = (data.clients, data.validation, data.held_out)
    assert [[len(client) for client in group] for group in groups] == [[27, 1, 1], [3, 0, 0], [9, 1, 3]]
    check_federation(data)


def test_data_sets_that_cannot_be_used(wards: str) -> None:
    with pytest.raises(DataError, match=r"no column 'wards'.*did you mean 'ward'\?"):
        Federation.from_dataset(wards, client="wards")
    with pytest.raises(DataError, match=r"1 client is asked for, but 0 of 95 values have 20 rows or more"):
        Federation.from_dataset(wards, client="number")
    with pytest.raises(ConfigError, match=r'there is no option "max_row".*did you mean "max_rows"\?'):
        Federation.from_dataset(wards, client="ward", max_row=3)
