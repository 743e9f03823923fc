"""A site's rows in the federation's columns and classes, or one error: file, column, what was found, how to mend it."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fedgmi.deploy.settings import FederationSettings, RowSettings, SiteSettings
from fedgmi.deploy.site.own_secret import secret_of
from fedgmi.deploy.site.site_data import SiteRows, load_site, parted
from fedgmi.errors import ConfigError, DataError
from fedgmi.settings.run import DataSettings

PATIENTS = RowSettings(
    kind="tabular",
    features=("age", "sex=f", "sex=m", "pressure"),
    classes=("well", "ill", "dead"),
    ranges={"age": [0, 120]},
)
WARD: dict[str, list[Any]] = {
    "age": [30, 40.5, 50, 60],
    "sex": ["f", "m", "m", "m"],
    "pressure": [120, 130, 140, 150],
    "outcome": ["ill", "well", "well", "ill"],
}
DIGITS = RowSettings(kind="image", shape=(1, 4, 4), classes=("zero", "one", "two"))


@pytest.fixture
def write(tmp_path):
    """write({"column": values}, "rows.csv") → the name of the file, which lies beside site.toml."""

    def write(columns: dict[str, list[Any]], name: str = "rows.csv") -> str:
        table = pa.table({key: pa.array(values, None if values else pa.float64()) for key, values in columns.items()})
        writer = pyarrow.csv.write_csv if name.endswith(".csv") else pyarrow.parquet.write_table
        writer(table, tmp_path / name)
        return name

    return write


@pytest.fixture
def load(tmp_path):
    """load("rows.csv", rows=PATIENTS, seed=0, name="ward-1", held_out=0.0, …settings of data) → the site's rows."""

    def load(path: str, rows: RowSettings = PATIENTS, **options: Any) -> SiteRows:
        seed, own = (
            options.pop("seed", 0),
            {key: options.pop(key) for key in ("name", "held_out", "validation") if key in options},
        )
        label = {} if rows.kind == "image" or not rows.classes else {"label_column": "outcome"}
        data = DataSettings(path=path, **(label | options))
        settings = SiteSettings(**({"name": "ward-1", "held_out": 0.0, "validation": 0.0, "data": data} | own))
        return load_site(settings, FederationSettings(name="f", sites=2, seed=seed, rows=rows), tmp_path)

    return load


def draw(folder: Path, shades: dict[str, list[Any]], size: tuple[int, int] = (4, 4), mode: str = "L") -> str:
    """Pictures of one shade each, a folder per class; the folder's name."""
    for name, fills in shades.items():
        (folder / "pictures" / name).mkdir(parents=True)
        for i, fill in enumerate(fills):
            Image.new(mode, size, fill).save(folder / "pictures" / name / f"{i}.png")
    return "pictures"


def without(column: str) -> dict[str, list[Any]]:
    return {name: values for name, values in WARD.items() if name != column}


# --- rows as agreed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet"])
def test_table_in_the_columns_of_the_federation(write, load, name):
    rows = load(write(WARD, name))
    assert rows.train.name == "ward-1"
    assert rows.train.x.tolist() == [[30, 1, 0, 120], [40.5, 0, 1, 130], [50, 0, 1, 140], [60, 0, 1, 150]]
    assert rows.train.x.dtype == torch.float32
    assert rows.train.y.tolist() == [1, 0, 0, 1]
    assert (rows.columns, rows.label, rows.ignored) == (("age", "sex", "pressure"), "outcome", ())
    assert rows.held_out is None


def test_columns_in_another_order_make_the_same_rows(write, load):
    rows = load(write(WARD))
    turned = load(write(dict(reversed(WARD.items())), "turned.csv"))
    assert turned.train.x.equal(rows.train.x)
    assert turned.train.y.equal(rows.train.y)
    assert turned.digest == rows.digest


def test_a_value_that_the_site_lacks_keeps_its_column(write, load):
    rows = load(write(WARD | {"sex": ["m"] * 4}))
    assert rows.train.x[:, 1].tolist() == [0] * 4
    assert rows.train.x[:, 2].tolist() == [1] * 4


def test_other_columns_are_ignored_by_name(write, load):
    extra = {"patient": [f"p{i}" for i in range(4)], "visits": [[1], [2], [3], [4]]}
    rows = load(write(extra | WARD, "rows.parquet"))
    assert rows.ignored == ("patient", "visits")
    assert rows.digest == load(write(WARD)).digest


def test_other_splits_are_ignored_by_name(write_table, load):
    write_table(WARD, split="test")
    rows = load(write_table(WARD))
    assert len(rows.train) == 4
    assert rows.ignored == ("split 'test'",)


def test_labels_that_are_numbers(write, load):
    agreed = RowSettings(kind="tabular", features=("age",), classes=("2", "0", "1"))
    rows = load(write({"age": [1, 2, 3], "y": [0, 1, 2]}), agreed, label_column="y")
    assert rows.train.y.tolist() == [1, 2, 0]
    assert load(write({"age": [1, 2, 3], "y": [0, 1, 2]}), agreed, label_column=None).label == "y"


def test_class_labels_of_the_datasets_library(write_table, load):
    import datasets

    features = {"age": datasets.Value("float32"), "state": datasets.ClassLabel(names=["ill", "well"])}
    path = write_table({"age": [1.0, 2.0], "state": [0, 1]}, features=features)
    agreed = RowSettings(kind="tabular", features=("age",), classes=("well", "ill"))
    assert load(path, agreed, label_column=None).train.y.tolist() == [1, 0]
    as_feature = RowSettings(kind="tabular", features=("state=well", "state=ill"))
    assert load(path, as_feature).train.x.tolist() == [[0, 1], [1, 0]]


def test_federation_without_labels(write, load):
    rows = load(write(WARD), RowSettings(kind="tabular", features=("age",)))
    assert rows.train.y is None
    assert rows.label is None
    assert rows.ignored == ("sex", "pressure", "outcome")


def test_folder_of_pictures(tmp_path, load):
    rows = load(draw(tmp_path, {"one": [0, 51], "zero": [255]}), DIGITS)
    assert rows.train.x.shape == (3, 1, 4, 4)
    assert rows.train.x[:, 0, 0, 0].tolist() == pytest.approx([0, 0.2, 1])
    assert rows.train.y.tolist() == [1, 1, 0]  # numbered by the federation, which also knows of twos


def test_pictures_brought_to_the_size_of_the_federation(tmp_path, load):
    rows = load(draw(tmp_path, {"one": [51]}, (9, 7)), DIGITS, size=4, invert=True)
    torch.testing.assert_close(rows.train.x, torch.full((1, 1, 4, 4), 0.8))


def test_pictures_of_a_single_class(tmp_path, load):
    """Of which `datasets` makes no label."""
    assert load(draw(tmp_path, {"two": [0, 99]}), DIGITS).train.y.tolist() == [2, 2]


def test_grey_pictures_in_a_coloured_federation(tmp_path, load):
    coloured = RowSettings(kind="image", shape=(3, 4, 4), classes=("one",))
    rows = load(draw(tmp_path, {"one": [51]}), coloured)
    torch.testing.assert_close(rows.train.x, torch.full((1, 3, 4, 4), 0.2))


def test_whole_numbers_with_a_decimal_far_below(write, load):
    agreed = RowSettings(kind="tabular", features=("dose",))
    path = write({"dose": [1] * 10_001 + [1.5]})
    assert load(path, agreed, validation=0).train.x.sum() == 10_002.5


# --- held-out rows --------------------------------------------------------------------------------------------------


def many(n: int) -> dict[str, list[Any]]:
    return {"age": list(range(n)), "sex": ["f"] * n, "pressure": [100] * n, "outcome": ["ill"] * n}


def test_held_out_rows_are_drawn_by_seed_and_site(write, load):
    path = write(many(121))
    rows = load(path, held_out=0.2, validation=0.1)
    parts = (rows.train, rows.validation, rows.held_out)
    assert [len(part) for part in parts] == pytest.approx([87, 10, 24], abs=12)
    assert sorted(torch.cat([part.x for part in parts])[:, 0].tolist()) == list(range(121))
    assert load(path, held_out=0.2).held_out.x.equal(rows.held_out.x)
    assert load(path, held_out=0.2, validation=0).validation is None
    for other in ({"seed": 1}, {"name": "ward-2"}):
        assert not load(path, held_out=0.2, **other).held_out.x.equal(rows.held_out.x)


@pytest.mark.parametrize("noise", [{"method": {"epsilon": 1.0}}, {"privacy": {"clip": 1.0, "noise_multiplier": 1.0}}])
def test_where_noise_hides_rows_nobody_else_can_say_which_are_held_out(tmp_path, write, noise):
    """How many are is told. By a hash that the coordinator can repeat, it would tell one row from another."""
    rows = {"kind": "tabular", "features": ["age"], "ranges": {"age": [0.0, 200.0]}, "classes": ["ill", "well"]}
    table = {"name": "f", "sites": 2, "rows": rows} | noise
    table["method"] = {"name": "fedavg" if "privacy" in noise else "fedgmi"} | noise.get("method", {})
    agreed = FederationSettings.model_validate(table)
    path = write({"age": list(range(60)), "outcome": ["ill", "well"] * 30})
    own = SiteSettings(name="ward-1", held_out=0.5, data=DataSettings(path=path, label_column="outcome"))

    def held_out() -> torch.Tensor:
        found = load_site(own, agreed, tmp_path).held_out
        assert found is not None
        return found.x

    assert not held_out().equal(held_out()), "a look at a site that has no secret yet writes none"
    assert not (tmp_path / own.folder / "secret.json").exists()
    secret_of(tmp_path / own.folder)
    first = held_out()
    assert held_out().equal(first)
    (tmp_path / own.folder / "secret.json").unlink()
    secret_of(tmp_path / own.folder)
    assert not held_out().equal(first)


def test_no_row_left_to_train_on_is_an_error(write, load):
    assert len(load(write(many(1)), held_out=0.0).train) == 1
    with pytest.raises(DataError, match=r"none of its 2 rows is left to train on.*or to 0"):
        load(write(many(2)), held_out=0.999)


VALUES = st.integers(0, 3)  # few, so that rows stand several times over


@given(st.lists(st.tuples(VALUES, VALUES), min_size=2, max_size=30), st.floats(0, 0.9), st.data())
def test_a_row_that_goes_moves_no_other(rows, share, data):
    """So that the sensitivity of a histogram is 1: each part has the rows that it had, but for one row of one part."""

    def parts(kept: list[tuple[int, int]]) -> list[Counter]:
        x = torch.tensor([row[0] for row in kept], dtype=torch.float32)[:, None]
        y = torch.tensor([row[1] for row in kept])
        return [Counter(kept[i] for i in part.tolist()) for part in parted(x, y, share, 0.3, "key")]

    gone = data.draw(st.integers(0, len(rows) - 1))
    before, after = parts(rows), parts(rows[:gone] + rows[gone + 1 :])
    lost = [one - other for one, other in zip(before, after, strict=True)]
    assert sum(each.total() for each in lost) == 1
    assert sum(lost, Counter()) == Counter([rows[gone]])
    assert not any(other - one for one, other in zip(before, after, strict=True))
    assert parts(data.draw(st.permutations(rows))) == before  # nor does their order matter


# --- the digest -----------------------------------------------------------------------------------------------------


def test_digest_tells_whether_rows_have_changed(write, load):
    path = write(WARD)
    first = load(path, held_out=0.25).digest
    assert first == load(path, held_out=0.25).digest
    assert len(bytes.fromhex(first)) == 16
    cell = load(write(WARD | {"age": [30, 40.5, 50, 61]}, "cell.csv"), held_out=0.25).digest
    label = load(write(WARD | {"outcome": ["ill", "well", "well", "well"]}, "label.csv"), held_out=0.25).digest
    fewer = load(write({name: values[:3] for name, values in WARD.items()}, "fewer.csv"), held_out=0.25).digest
    other_part = load(path, held_out=0.5).digest
    assert len({first, cell, label, fewer, other_part}) == 5


def test_rows_of_a_file_count_as_the_same_whatever_the_coordinator_sets(write, load):
    """Runs are counted by it: neither seed nor shares nor `[rows]` begin a new count, nor do order and kind of file."""
    ward = WARD | {"bed": ["1", "2", "x", "3"]}
    path = write(ward)
    first = load(path, held_out=0.5)
    others = PATIENTS.model_copy(update={"features": ("pressure", "age"), "classes": ("ill", "dead", "well")})
    ages = tuple(f"age={age}" for age in (30, 40.5, 50, 60))
    texts = PATIENTS.model_copy(update={"features": (*ages, "pressure"), "ranges": {}})
    back = write({name: ward[name][::-1] for name in reversed(ward)}, "back.parquet")
    whole = write(WARD | {"bed": ["1", "2", "x", "3"], "age": [30.0, 40.5, 50.0, 60.0]}, "whole.csv")
    same = [
        load(path, held_out=0.5, seed=1),
        load(path, held_out=0.0, validation=0.5),
        load(path, rows=others),
        load(path, rows=texts),
        load(back),
        load(whole),
    ]
    assert {rows.content for rows in same} == {first.content}
    assert len({rows.digest for rows in same}) > 2
    other = [
        load(write(ward | {"age": [30, 40.5, 50, 61]}, "cell.csv")),
        load(write(ward | {"outcome": ["ill", "well", "well", "well"]}, "label.csv")),
        load(write({name: values[:3] for name, values in ward.items()}, "fewer.csv")),
        load(write({name: [*values, values[0]] for name, values in ward.items()}, "twice.csv")),
    ]
    assert len({rows.content for rows in (first, *other)}) == 5


def test_pictures_count_as_the_same_by_their_files(load, tmp_path):
    path = draw(tmp_path, {"one": [10, 20, 30], "two": [40, 50, 60]})
    first = load(path, rows=DIGITS)
    coloured = DIGITS.model_copy(update={"shape": (3, 4, 4), "classes": ("two", "one")})
    assert load(path, rows=coloured, seed=1, held_out=0.5).content == first.content
    Image.new("L", (4, 4), 11).save(tmp_path / path / "one" / "0.png")
    assert load(path, rows=DIGITS).content != first.content


def test_file_that_is_written_anew_is_read_anew(write, load, tmp_path):
    """Even where size and time of the file are those of before."""
    first, before = load(write(WARD)).digest, (tmp_path / "rows.csv").stat()
    path = write(WARD | {"age": [31, 40.5, 50, 60]})
    os.utime(tmp_path / path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (tmp_path / path).stat().st_size == before.st_size
    assert load(path).digest != first


# --- what stays on the site -----------------------------------------------------------------------------------------


def test_no_copy_of_the_rows_stays_behind(write, load, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    load(write(WARD))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.csv"]


def test_nobody_is_told_that_rows_were_read(write, load, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", True)
    calls: list[str] = []
    monkeypatch.setattr(datasets.load, "get_session", lambda: calls.append("a call"))
    load(write(WARD))
    assert not calls
    assert datasets.config.HF_UPDATE_DOWNLOAD_COUNTS


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet"])
@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (without("age"), r"no column 'age', which the federation has; there are sex, pressure, outcome\. .*add it"),
        (without("age") | {"Age": [1] * 4}, r"no column 'age'.*there are .*Age.*rename 'Age' to 'age'"),
        (without("sex"), r"no column 'sex', which the federation has"),
        (
            WARD | {"pressure": ["120", "130", "high", "?"]},
            r", column 'pressure': it holds texts, but numbers in the federation; the first text is 'high' at row 2",
        ),
        (WARD | {"sex": [0.5, 1, 1, 1]}, r", column 'sex': '0.5' at row 0 is not among the federation's values: f, m"),
        (WARD | {"sex": ["f", "m", "x", "m"]}, r", column 'sex': 'x' at row 2 is not among .*: f, m"),
        (
            WARD | {"age": [1.5, None, None, 2]},
            r", column 'age': 2 values are missing, the first at row 1.*ask the coordinator for rows.missing",
        ),
        (WARD | {"outcome": ["ill", None, "ill", "ill"]}, r", column 'outcome': 1 values are missing.*at row 1"),
        (
            WARD | {"outcome": ["well", "ill", "lost", "x"]},
            r", column 'outcome': label 'lost' at row 2 is not among",
        ),
        (WARD | {"outcome": [0, 1, 7, 1]}, r", column 'outcome': label '0' at row 0 .*: well, ill, dead"),
        (WARD | {"outcome": [0.5, 1, 1, 1]}, r", column 'outcome': label '?0.5'? at row 0 is not"),
        (
            without("outcome"),
            r", data.label_column of site.toml: no column 'outcome'; there are age, sex, pressure",
        ),
        (
            WARD | {"age": [3, 130.5, 4, -1]},
            r", column 'age': 2 values are outside the federation's range \[0, 120\], the first 130.5 at row 1.*unit",
        ),
        ({name: [] for name in WARD}, r": no rows\. Likely fix: give a file with rows"),
    ],
)
def test_tables_that_are_not_as_agreed(write, load, tmp_path, name, columns, message):
    path = write(columns, name)
    with pytest.raises(DataError, match=message) as raised:
        load(path)
    assert str(tmp_path / path) in str(raised.value)


@pytest.mark.parametrize(
    ("value", "what"),
    [(float("nan"), "missing"), (float("inf"), "infinite, or too"), (1e300, "infinite, or too large")],
)
def test_numbers_that_are_none(write, load, value, what):
    path = write(WARD | {"pressure": [1.0, 2.0, value, 3.0]}, "rows.parquet")
    with pytest.raises(DataError, match=rf"rows.parquet, column 'pressure': 1 values are {what}.*at row 2"):
        load(path)


def test_columns_of_neither_numbers_nor_texts(write, load):
    path = write(WARD | {"age": [[1], [2], [3], [4]]}, "rows.parquet")
    with pytest.raises(DataError, match=r"rows.parquet, column 'age': it holds list.*neither numbers nor texts"):
        load(path)


def test_ends_of_a_range_are_inside(write, load):
    agreed = RowSettings(kind="tabular", features=("dose",), ranges={"dose": [0.1, 0.7]})
    assert len(load(write({"dose": [0.1, 0.7]}), agreed).train) == 2
    with pytest.raises(DataError, match=r"the first 0.70001 at row 1"):
        load(write({"dose": [0.1, 0.70001]}), agreed)


def test_labels_that_nobody_finds(write, load):
    with pytest.raises(DataError, match=r"rows.csv: no column holds labels, .* 3 classes.*data.label_column"):
        load(write(without("outcome")), label_column=None)


def test_pictures_that_are_not_as_agreed(tmp_path, load):
    path = draw(tmp_path, {"one": [90]}, (5, 6))
    with pytest.raises(DataError, match=r"pictures.*column 'image': pictures of 1×6×5, and of 1×4×4.*data.size = 4"):
        load(path, DIGITS)
    agreed = RowSettings(kind="image", shape=(1, 6, 5), classes=("zero", "two"))
    with pytest.raises(DataError, match=r"pictures: no column holds labels, .* 2 classes.*a folder per class"):
        load(path, agreed)
    draw(tmp_path, {"two": [90]}, (5, 6))
    with pytest.raises(DataError, match=r"pictures, column 'label': label 'one' at row 0 is not among .*: zero, two"):
        load(path, agreed)


def test_pictures_of_different_sizes(tmp_path, load):
    draw(tmp_path, {"one": [90]}, (5, 6))
    draw(tmp_path, {"two": [90]}, (4, 4))
    with pytest.raises(DataError, match=r"pictures of different sizes \(4×4, 6×5\).*data.size"):
        load("pictures", DIGITS)


def test_coloured_pictures_in_a_grey_federation(tmp_path, load):
    path = draw(tmp_path, {"one": [(99, 98, 97)]}, mode="RGB")
    with pytest.raises(DataError, match=r"pictures of 3×4×4, and of 1×4×4 .*convert them to grey"):
        load(path, DIGITS)


def test_pictures_where_a_table_was_agreed_and_the_other_way_round(tmp_path, write, load):
    with pytest.raises(DataError, match=r"no column 'age', which the federation has; there are image, label"):
        load(draw(tmp_path, {"one": [90], "two": [90]}), label_column=None)
    with pytest.raises(DataError, match=r"the federation's rows are pictures, and no column holds any.*age"):
        load(write(WARD), DIGITS)


def test_no_such_file(load, tmp_path):
    with pytest.raises(DataError, match=r"data.path '.*/lost.csv': no such folder or file"):
        load("lost.csv")
    with pytest.raises(DataError, match=r"/digits': no such folder or file"):
        load("digits")
    (tmp_path / "void.csv").touch()
    with pytest.raises(DataError, match=r"void.csv': the file is empty"):
        load("void.csv")


@pytest.mark.parametrize(
    ("key", "value"), [("feature_columns", ["age"]), ("standardise", True), ("standardise", False)]
)
def test_settings_that_are_not_the_sites(write, load, key, value):
    with pytest.raises(ConfigError, match=rf"site 'ward-1': data.{key} is the federation's to decide.*remove it"):
        load(write(WARD), **{key: value})


def test_site_must_say_where_its_rows_are(tmp_path):
    settings = SiteSettings(name="ward-1", data=DataSettings())
    federation = FederationSettings(name="f", sites=2, rows=PATIENTS)
    with pytest.raises(ConfigError, match=r"site 'ward-1': data.path is missing"):
        load_site(settings, federation, tmp_path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"kind": "tabular"}, r"rows.features: the rows of a table have no features"),
        ({"kind": "image", "shape": (8, 8)}, r"rows.shape: pictures have 2 sides.*channels, height, width"),
        ({"kind": "image", "shape": (1, 8, 8), "features": ("a",)}, r'rows.features: rows of kind "image" have none'),
        ({"kind": "tabular", "features": ("a", "b", "a")}, r"rows.features: 'a' is named twice"),
        ({"kind": "tabular", "features": ("a",), "classes": ("x", "x")}, r"rows.classes: 'x' is named twice"),
        ({"kind": "tabular", "features": ("a",), "ranges": {"b": [0, 1]}}, r"rows.ranges: 'b' is no feature"),
        (
            {"kind": "tabular", "features": ("a",), "ranges": {"a": [1, 0]}},
            r"rows.ranges: the range of 'a' is \[1, 0\]",
        ),
    ],
)
def test_federation_that_contradicts_itself(rows, message):
    with pytest.raises(ConfigError, match=message):
        RowSettings(**rows).as_schema()
