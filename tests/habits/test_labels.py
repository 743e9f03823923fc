"""Labels come back as they were given: in values and in type, over all clients, from disk too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

from fedgmi import Federation, FedGMI
from fedgmi.data import encode
from fedgmi.data.rows import Schema
from fedgmi.deploy.settings import RowSettings
from fedgmi.errors import ConfigError, DataError
from fedgmi.runs.config import seeds

X = np.arange(8.0).reshape(4, 2)
AS_GIVEN: dict[str, Any] = {
    "whole numbers": [3, 5, 5, 3],
    "8 bits": np.array([3, -5, -5, 3], dtype=np.int8),
    "unsigned": np.array([3, 5, 200, 3], dtype=np.uint8),
    "64 bits, unsigned": np.array([3, 5, 2**63 - 1, 3], dtype=np.uint64),
    "truth values": [True, False, True, True],
    "whole decimals": np.array([1.0, 0.0, -2.0, 1.0]),
    "whole decimals of 32 bits": np.array([1, 0, 7, 1], dtype=np.float32),
    "texts": ["cat", "dog", "dog", "eel"],
    "digits as texts": ["0", "1", "1", "0"],
    "codes": ["007", "7", "07", "7"],
    "odd digits": ["²", "--1", "½", "²"],
    "texts as objects": np.array(["01", "1", "02", "1"], dtype=object),
    "categories": pd.Categorical(["b", "a", "b", "a"], categories=["b", "a"]),
    "categories of numbers": pd.Categorical([10, 2, 10, 2]),
    "texts of pandas": pd.Series(["01", "1", "02", "1"]),
    "texts of Polars": pl.Series(["01", "1", "02", "1"]),
    "numbers of Polars": pl.Series([1, 10, 2, 1], dtype=pl.Int16),
    "texts of NumPy": np.array(["01", "1", "02", "1"], dtype=np.dtypes.StringDType()).astype(object),
}


def known(y: Any) -> Any:
    """What NumPy says the classes are."""
    return np.unique(np.asarray(y))


@pytest.mark.parametrize("name", AS_GIVEN)
def test_of_arrays(name: str) -> None:
    y = AS_GIVEN[name]
    federation = Federation.from_arrays([(X, y), (X[:1], y[:1])])
    classes = encode.classes(federation.schema)
    assert classes.tolist() == known(y).tolist()
    assert classes.dtype == known(y).dtype
    assert federation.labels("client-00").tolist() == np.asarray(y).tolist()
    assert torch.equal(encode.labels(y, federation.schema, 4), federation.clients[0].y)


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table], ids=["pandas", "Polars", "Arrow"])
@pytest.mark.parametrize("name", [name for name in AS_GIVEN if "pandas" not in name and "Polars" not in name])
def test_of_a_table(make: Any, name: str) -> None:
    y = AS_GIVEN[name]
    column = y if make is pd.DataFrame or not isinstance(y, pd.Categorical) else np.asarray(y)
    table = make({"ward": list("aabb"), "age": [1.5, 2, 3, 4], "kind": column})
    schema = Federation.from_frame(table, client="ward", label="kind").schema
    assert encode.classes(schema).tolist() == known(y).tolist()
    kind = known(y).dtype.kind
    assert encode.classes(schema).dtype.kind == ("O" if kind == "U" else kind)


def test_of_pandas_own_types() -> None:
    for values, expected in (("Int64", "int64"), ("boolean", "bool")):
        y = pd.Series([1, 0, 1, 1]).astype(values)
        assert encode.classes(Federation.from_arrays([(X, y)]).schema).dtype == expected


@pytest.mark.parametrize("name", ["codes", "truth values", "8 bits", "whole decimals", "texts as objects"])
def test_predictions_are_labels(tmp_path, name: str) -> None:
    y = np.asarray(AS_GIVEN[name])
    x = np.concatenate([X] * 6)
    federation = Federation.from_arrays([(x, np.concatenate([y] * 6))] * 2)
    small = {"density.hidden": 4, "density.latent": 2, "expert.hidden": 4}
    model = FedGMI(1, rounds=1, epochs=1, preset="plain", verbose=0, settings=small).fit(federation)
    assert model.predict(X, client="client-00").dtype == known(y).dtype
    assert set(model.predict(X, client="client-00").tolist()) <= set(y.tolist())
    model.infer_weights(X, y)
    again = FedGMI.load(model.save(tmp_path))
    assert again.classes_.tolist() == known(y).tolist()
    assert again.classes_.dtype == known(y).dtype


REFUSED = {
    "2⁶³": (np.array([0, 1, 2**63, 1], dtype=np.uint64), r"9223372036854775808 at row 2 is 2⁶³ or more.*as texts"),
    "1e300": ([1e300, 2e300, 0, 0], "too large for float64 to tell it from others"),
    "2²⁴ in 32 bits": (np.array([0, 1, 2**24, 0], dtype=np.float32), "too large for float32"),
    "fractions": ([0, 0.5, 1, 1], "label 0.5 at row 1 is not a whole number"),
    "None": (["a", None, "b", None], "2 of 4 labels are missing, the first at row 1.*leave rows without"),
    "NaN": ([0, 1, float("nan"), 1], "1 of 4 labels are missing, the first at row 2"),
    "NA of pandas": (pd.array([1, None, 0, 1], dtype="Int64"), "1 of 4 labels are missing, the first at row 1"),
    "masked": (np.ma.masked_array([1, 2, 3, 4], mask=[0, 0, 1, 0]), "1 of 4 labels are missing, the first at row 2"),
    "mixture": (np.array(["a", 1, "b", 2], dtype=object), "a mixture of int and str"),
    "dates": (np.array(["2020-01-01"] * 4, dtype="datetime64[D]"), "the labels are dates"),
    "bytes": (np.array([b"a"] * 4), "the labels are bytes.*decode"),
    "complex": (np.array([1j] * 4), "the labels are complex numbers"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_labels_that_are_none(name: str) -> None:
    y, message = REFUSED[name]
    with pytest.raises(DataError, match=message):
        Federation.from_arrays([(X, y)])


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        ([0, 1, 0, 1], list("abba"), "some labels are numbers and others are texts"),
        ([0, 1, 0, 1], [True, False, True, True], "some labels are numbers and others are truth values"),
        ([2**60, 1, 0, 1], [0.0, 1.0, 0.0, 1.0], "too large for float64"),
    ],
)
def test_clients_whose_labels_differ_in_kind(one: Any, other: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Federation.from_arrays([(X, one), (X, other)])


LATER = [
    (("int64", ("0", "1", "10")), [0.0, 10.0], [0, 2]),
    (("int64", ("0", "1", "10")), ["10", "1"], [2, 1]),
    (("int64", ("0", "1")), [True, False], [1, 0]),
    (("bool", ("False", "True")), [1, 0], [1, 0]),
    (("float64", ("0", "1")), [1, 0], [1, 0]),
    (("str", ("1", "2")), [2, 1], [1, 0]),
]


@pytest.mark.parametrize(("given", "later", "numbers"), LATER)
def test_the_same_number_may_come_in_another_type(given: Any, later: Any, numbers: list[int]) -> None:
    schema = Schema((2,), len(given[1]), "tabular", given[1], label_type=given[0])
    assert encode.labels(later, schema, len(later)).tolist() == numbers


def test_a_code_is_no_number() -> None:
    with pytest.raises(DataError, match="label '7' at row 0 is not among the federation's: 007"):
        encode.labels([7], Schema((2,), 1, "tabular", ("007",)), 1)


def test_numbers_behind_the_names_of_classes_are_told_as_such() -> None:
    """As when pandas reads the file of a data set whose labels have names."""
    schema = Schema((2,), 2, "tabular", ("no disease", "disease"))
    with pytest.raises(DataError, match=r"label '0' at row 0 .* the classes' names, give model.classes_\[y\]"):
        encode.labels([0, 1], schema, 2)
    with pytest.raises(DataError, match="leave these rows out"):
        encode.labels([0, 2], schema, 2)  # 2 is behind no name


@pytest.mark.parametrize(
    ("classes", "dtype"), [([3, 5], "int64"), ([False, True], "bool"), (["03", "3"], "<U2"), ([], "int64")]
)
def test_a_deployment_says_what_labels_are(classes: list[Any], dtype: str) -> None:
    schema = RowSettings(kind="tabular", features=("age",), classes=tuple(classes)).as_schema()
    assert encode.classes(schema).tolist() == classes
    assert encode.classes(schema).dtype == dtype


@pytest.mark.parametrize(("classes", "what"), [((1, "a"), "several types"), ((True, False), "another order")])
def test_a_deployment_with_unclear_labels(classes: Any, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        RowSettings(kind="tabular", features=("age",), classes=classes).as_schema()


@pytest.mark.parametrize("word", ["²", "--1", "-1", "1.0", ""])
def test_seeds_that_are_none(word: str) -> None:
    with pytest.raises(ConfigError, match="is no seed"):
        seeds([word], "--seeds")
