"""Any data set becomes tensors and a schema, or an error that says what, where and how to mend it."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from fedgmi.data.sources import digits
from fedgmi.data.sources.sources import load_source
from fedgmi.errors import ConfigError, DataError
from fedgmi.settings.run import DataSettings

Write = Callable[..., str]


def encoded(image: Image.Image) -> dict[str, Any]:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def grey(height: int, width: int, value: int = 0) -> dict[str, Any]:
    return encoded(Image.new("L", (width, height), value))


def picture_features(**others: Any) -> dict[str, Any]:
    import datasets

    return {"image": datasets.Image(), **others}


def value(dtype: str) -> Any:
    import datasets

    return datasets.Value(dtype)


# --- the digits ---------------------------------------------------------------------------------------------------


def test_digits_are_pictures_between_zero_and_one() -> None:
    source = load_source(DataSettings(path="digits"))
    assert source.train.x.shape == (1797, 1, 8, 8)
    assert source.train.x.dtype == torch.float32
    assert float(source.train.x.min()) == 0
    assert float(source.train.x.max()) == 1
    assert source.train.y is not None
    assert set(source.train.y.tolist()) == set(range(10))


def test_digits_wait_for_no_large_library() -> None:
    code = "import sys; from fedgmi.data.sources.sources import load_source; "
    code += "from fedgmi.settings.run import DataSettings; load_source(DataSettings()); "
    code += "sys.exit(bool({'datasets', 'sklearn', 'scipy', 'pandas'} & sys.modules.keys()))"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("file", [digits.FILE, Path("elsewhere.csv.gz")], ids=["its own file", "a file that moved"])
def test_digits_are_those_of_scikit_learn(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "FILE", file)
    pictures, classes = digits.read_digits()
    expected = load_digits()
    np.testing.assert_array_equal(pictures, expected.images)
    np.testing.assert_array_equal(classes, expected.target)


def test_options_change_pictures() -> None:
    plain = load_source(DataSettings())
    changed = load_source(DataSettings(invert=True, crop=1, size=12, max_rows=9))
    assert changed.schema.shape == (1, 12, 12)
    assert len(changed.train) == 9
    torch.testing.assert_close(load_source(DataSettings(invert=True)).train.x, 1 - plain.train.x)
    torch.testing.assert_close(load_source(DataSettings(crop=2)).train.x, plain.train.x[..., 2:-2, 2:-2])


# --- pictures -----------------------------------------------------------------------------------------------------


def test_pictures_keep_pixels_and_orientation(write_table: Write) -> None:
    pixels = np.arange(20, dtype=np.uint8).reshape(4, 5)
    path = write_table({"image": [encoded(Image.fromarray(pixels))]}, features=picture_features())
    source = load_source(DataSettings(path=path))
    torch.testing.assert_close(source.train.x[0, 0], torch.from_numpy(pixels).float() / 255)
    assert source.train.y is None
    assert source.schema.n_classes == 0


@pytest.mark.parametrize(
    ("mode", "fill", "expected"),
    [("1", 1, [1.0]), ("I;16", 65535, [1.0]), ("LA", (51, 255), [0.2]), ("RGB", (0, 51, 255), [0.0, 0.2, 1.0])],
)
def test_picture_modes(write_table: Write, mode: str, fill: Any, expected: list[float]) -> None:
    path = write_table({"image": [encoded(Image.new(mode, (3, 3), fill))]}, features=picture_features())
    x = load_source(DataSettings(path=path)).train.x
    torch.testing.assert_close(x[0, :, 1, 1], torch.tensor(expected))


def test_grey_among_coloured_pictures_becomes_coloured(write_table: Write) -> None:
    pictures = [grey(3, 3, 51), encoded(Image.new("RGB", (3, 3), (255, 0, 0)))]
    x = load_source(DataSettings(path=write_table({"image": pictures}, features=picture_features()))).train.x
    torch.testing.assert_close(x[:, :, 0, 0], torch.tensor([[0.2, 0.2, 0.2], [1.0, 0.0, 0.0]]))


def test_pictures_of_different_sizes_need_a_size(write_table: Write) -> None:
    path = write_table({"image": [grey(4, 4, 255), grey(6, 5, 0)]}, features=picture_features())
    with pytest.raises(DataError, match=r"different sizes \(4×4, 6×5\).*set data.size"):
        load_source(DataSettings(path=path))
    x = load_source(DataSettings(path=path, size=3)).train.x
    torch.testing.assert_close(x.flatten(1), torch.tensor([1.0, 0.0])[:, None].expand(2, 9))


def test_splits_of_different_sizes(write_table: Write) -> None:
    write_table({"image": [grey(4, 4)]}, features=picture_features())
    path = write_table({"image": [grey(5, 5)]}, split="test", features=picture_features())
    with pytest.raises(DataError, match=r"splits' pictures differ in size \(4×4, 5×5\).*data.size"):
        load_source(DataSettings(path=path))


def test_damaged_and_missing_pictures(write_table: Write) -> None:
    noise = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9), dtype=np.uint8)))
    for damaged in (noise["bytes"][:60], noise["bytes"][:20], b"no picture"):
        cells = [grey(9, 9), {"bytes": damaged, "path": None}]
        path = write_table({"image": cells}, features=picture_features())
        with pytest.raises(DataError, match=r"row 1: the picture cannot be read.*replace or drop the row"):
            load_source(DataSettings(path=path))
    path = write_table({"image": [None, grey(9, 9)]}, split="test", features=picture_features())
    with pytest.raises(DataError, match=r"split 'test', column 'image', row 0: the picture is missing"):
        load_source(DataSettings(path=path, train_split="test"))


def test_pictures_of_real_numbers(write_table: Write) -> None:
    buffer = io.BytesIO()
    Image.new("F", (3, 3), 0.5).save(buffer, "TIFF")
    path = write_table({"image": [{"bytes": buffer.getvalue(), "path": None}]}, features=picture_features())
    with pytest.raises(DataError, match=r"row 0: the picture.s numbers are real numbers.*not known.*8 or 16 bits"):
        load_source(DataSettings(path=path))


def test_crop_that_leaves_nothing() -> None:
    with pytest.raises(DataError, match=r"data.crop.*4 pixels off each edge.*8×8.*set it to 3 or less"):
        load_source(DataSettings(crop=4))


def test_folder_of_pictures_by_class(tmp_path: Path, write_table: Write) -> None:
    for name, fill in (("cat", 0), ("dog", 255)):
        (tmp_path / "pets" / "train" / name).mkdir(parents=True)
        Image.new("L", (4, 4), fill).save(tmp_path / "pets" / "train" / name / "1.png")
    source = load_source(DataSettings(path=str(tmp_path / "pets")))
    assert source.schema.classes == ("cat", "dog")
    assert source.train.y is not None
    assert source.train.x[:, 0, 0, 0].tolist() == source.train.y.tolist() == [0, 1]


# --- tables -------------------------------------------------------------------------------------------------------


def test_table_takes_numbers_and_encodes_texts(write_table: Write) -> None:
    columns = {"age": [1, 2], "site": ["b", "a"], "weight": [0.5, 1.5], "smokes": [True, False], "y": ["no", "yes"]}
    write_table(columns)
    path = write_table({**columns, "site": ["c", "a"]}, split="test")
    source = load_source(DataSettings(path=path))
    assert source.schema.features == ("age", "site=a", "site=b", "site=c", "weight", "smokes")
    assert source.train.x.tolist() == [[1, 0, 1, 0, 0.5, 1], [2, 1, 0, 0, 1.5, 0]]
    assert source.schema.classes == ("no", "yes")
    assert source.test is not None
    assert source.test.x[0].tolist() == [1, 0, 0, 1, 0.5, 1]


def test_feature_columns_and_the_extra_column(write_table: Write) -> None:
    path = write_table({"a": [1.0, 2.0], "b": [3.0, 4.0], "ward": ["x", "y"], "label": [5, 3]})
    source = load_source(DataSettings(path=path, feature_columns=["b"]), extra_column="ward")
    assert source.train.x.tolist() == [[3.0], [4.0]]
    assert source.train.columns == {"ward": ["x", "y"]}
    assert source.train.y is not None
    assert source.train.y.tolist() == [1, 0]
    assert load_source(DataSettings(path=path), extra_column="ward").schema.features == ("a", "b")


def test_class_labels_come_before_names_of_columns(write_table: Write) -> None:
    import datasets

    features = {"x": value("float32"), "target": value("int64"), "kind": datasets.ClassLabel(names=["p", "q"])}
    path = write_table({"x": [0.0], "target": [1], "kind": [1]}, features=features)
    source = load_source(DataSettings(path=path))
    assert source.schema.classes == ("p", "q")
    assert source.schema.features == ("x", "target")
    assert load_source(DataSettings(path=path, label_column="target")).schema.features == ("x", "kind=q")


def test_csv_file(tmp_path: Path, write_table: Write) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("a,label\n1.5,0\n2.5,1\n")
    assert load_source(DataSettings(path=str(file))).train.x.tolist() == [[1.5], [2.5]]


# --- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "settings", "message"),
    [
        ({"a": [1.0], "y": [0.5]}, {}, r"column 'y': label 0.5 at row 0 is not a whole number.*data.label_column"),
        ({"a": [1.0, float("nan")]}, {}, r"column 'a': 1 values are missing, the first at row 1.*fill or drop"),
        ({"a": [1e300]}, {}, r"column 'a': 1 values are infinite, or too large"),
        ({"a": [1.0, None]}, {}, r"column 'a': 1 values are missing, the first at row 1"),
        ({"a": [1.0], "y": [float("inf")]}, {}, r"label inf at row 0"),
        (
            {"a": [[1.0]]},
            {},
            r"neither a picture nor a numeric column among a.*data.image_column or data.feature_columns",
        ),
        ({"a": [[1.0]]}, {"feature_columns": ["a"]}, r"column 'a' holds lists or records, neither numbers nor texts"),
        ({"a": [1.0], "b": [[1]]}, {"label_column": "b"}, r"data.label_column: column 'b' holds neither"),
        ({"age": [1.0]}, {"label_column": "agee"}, r"no column 'agee'; there are age.*did you mean 'age'\?"),
        (
            {"age": [1.0], "kind": ["a"]},
            {"feature_columns": ["age", "kind"], "label_column": "kind"},
            r"data.feature_columns: column 'kind' is the label",
        ),
        ({"age": [1.0]}, {"feature_columns": ["zz"]}, r"no column 'zz'; there are age.*choose one of them"),
        ({"age": [1.0]}, {"image_column": "age"}, r"column 'age' holds no pictures.*data.feature_columns"),
        ({"a": [str(i) for i in range(300)]}, {}, r"300 different texts are too many for one column each; 256"),
        ({"a": [1] * 1200, "y": list(range(1200))}, {}, r"1200 different labels, which looks like measurements"),
        ({"a": [1.0]}, {"train_split": "fit"}, r"no split 'fit'; there are train.*set it to 'train'"),
        ({"a": [1.0]}, {"test_split": "check"}, r"data.test_split: no split 'check'; there are train.*leave it out"),
    ],
)
def test_tables_that_cannot_be_used(
    write_table: Write, columns: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    path = write_table(columns)
    with pytest.raises(DataError, match=message):
        load_source(DataSettings(path=path, **settings))


def test_column_that_the_test_split_lacks(write_table: Write) -> None:
    import datasets

    write_table({"a": [1.0], "y": [1]})
    path = write_table({"a": [1.0], "y": [1]}, split="test")
    tables = datasets.load_dataset(path)
    with pytest.MonkeyPatch.context() as patch:
        lacking = {"train": tables["train"], "test": tables["test"].remove_columns("y")}
        patch.setattr(datasets, "load_dataset", lambda *_args, **_options: lacking)
        with pytest.raises(DataError, match=r"split 'test': no column 'y'; there are a"):
            load_source(DataSettings(path=path))


def test_label_out_of_range(write_table: Write) -> None:
    import datasets

    features = {"a": value("float32"), "y": datasets.ClassLabel(names=["p", "q"])}
    path = write_table({"a": [1.0, 2.0], "y": [0, -1]}, features=features)
    with pytest.raises(DataError, match=r"column 'y': label -1 is out of range 0..1.*test_split"):
        load_source(DataSettings(path=path))


def test_pictures_and_columns_at_once(write_table: Write) -> None:
    path = write_table({"a": [1.0]})
    with pytest.raises(ConfigError, match="both a picture and table columns"):
        load_source(DataSettings(path=path, image_column="a", feature_columns=["a"]))


def test_missing_folder_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "patients").mkdir()
    with pytest.raises(DataError, match=r"no such folder or file.*did you mean '.*patients'\?"):
        load_source(DataSettings(path=str(tmp_path / "patient")))
    with pytest.raises(DataError, match=r"no such folder or file.*check the path"):
        load_source(DataSettings(path="./nowhere/at/all"))


def test_only_owner_and_name_ask_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets

    asked: list[str] = []
    monkeypatch.setattr(datasets, "load_dataset", lambda name, **_options: asked.append(name) or {"all": []})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for name in ("school-scores", "school-scores/", "../shared/school-scores", "data/school-scores"):
        with pytest.raises(DataError, match="no such folder or file"):
            load_source(DataSettings(path=name))
    assert asked == []
    with pytest.raises(DataError, match="no split"):
        load_source(DataSettings(path="owner/school-scores"))
    assert asked == ["owner/school-scores"]


def test_unreadable_folder_and_file(tmp_path: Path, write_table: Write) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"cannot be read \(.*check that it holds Parquet"):
        load_source(DataSettings(path=str(tmp_path / "empty")))
    (tmp_path / "rows.xls").touch()
    with pytest.raises(DataError, match=r"files of type '.xls' are not read.*\.csv"):
        load_source(DataSettings(path=str(tmp_path / "rows.xls")))


def test_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def unreachable(*_args: Any, **_options: Any) -> None:
        raise ConnectionError("Couldn't reach 'some/thing' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(DataError, match=r"'some/thing': no such folder here, and loading it from the hub.*network"):
        load_source(DataSettings(path="some/thing"))
    with pytest.raises(DataError, match=r"did you mean 'digits'\?"):
        load_source(DataSettings(path="Digit"))


def test_digits_have_no_columns() -> None:
    with pytest.raises(DataError, match=r"scenario.client_column: the digits have no column 'writer'"):
        load_source(DataSettings(), extra_column="writer")


# --- real data ----------------------------------------------------------------------------------------------------


def test_mnist(mnist: Path) -> None:
    source = load_source(DataSettings(path=str(mnist), max_rows=2000))
    assert source.schema.shape == (1, 28, 28)
    assert source.schema.n_classes == 10
    assert source.test is not None
    assert (len(source.train), len(source.test)) == (2000, 2000)
    assert source.train.x.mean() == pytest.approx(0.13, abs=0.01)


def test_femnist(femnist: Path) -> None:
    settings = DataSettings(path=str(femnist), invert=True, crop=4, size=14, max_rows=2000)
    source = load_source(settings, extra_column="writer_id")
    assert source.schema.shape == (1, 14, 14)
    assert source.schema.n_classes == 62
    assert source.train.x.mean() < 0.3
    assert len(source.train.columns["writer_id"]) == 2000
