"""Every reader gives back what it was given: columns by name, values, clients, missing values; or it says why not."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from fedgmi import Federation
from fedgmi.data import encode
from fedgmi.data.sources.sources import load_source
from fedgmi.errors import DataError, FedgmiWarning
from fedgmi.settings.run import DataSettings

NAN = float("nan")
TABLES = {"pandas": pd.DataFrame, "Polars": pl.DataFrame, "Arrow": pa.table}
AGE, HEIGHT = [30.0, 40.0, 50.0], [1.5, 1.6, 1.7]
MATRIX = np.array([AGE, HEIGHT]).T


# --- columns by name ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", TABLES)
@pytest.mark.parametrize("other", TABLES)
def test_columns_are_found_by_name_in_every_table(first: str, other: str) -> None:
    one, turned = TABLES[first]({"age": AGE, "height": HEIGHT}), TABLES[other]({"height": HEIGHT, "age": AGE})
    federation = Federation.from_arrays([one, turned], validation=[turned, one], held_out=[turned, turned])
    assert federation.schema.features == ("age", "height")
    for client in (*federation.clients, *federation.validation, *federation.held_out):
        assert torch.equal(client.x, torch.tensor(MATRIX).float())
    assert torch.equal(encode.features(turned, federation.schema), torch.tensor(MATRIX).float())


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"age": AGE, "hight": HEIGHT}, r"client 'client-01': it has no column 'height' and 'hight' too much.*rename"),
        ({"age": AGE}, r"client 'client-01': it has no column 'height'.*columns that client 'client-00' has"),
        ({"age": AGE, "height": HEIGHT, "q": AGE}, r"client 'client-01': it has 'q' too much"),
        (
            MATRIX,
            r"client 'client-01': it is an array, and client 'client-00' is a table.*as a table with.*age, height",
        ),
    ],
)
@pytest.mark.parametrize("group", ["", "validation", "held_out"])
def test_columns_that_differ_are_named(other: Any, message: str, group: str) -> None:
    good = pd.DataFrame({"age": AGE, "height": HEIGHT})
    bad = pd.DataFrame(other) if isinstance(other, dict) else other
    with pytest.raises(DataError, match=message.replace("client-01'", "client-01'.*", 1)):
        Federation.from_arrays([good, bad if not group else good], **({group: [good, bad]} if group else {}))


def test_a_dict_of_clients_is_read_by_name() -> None:
    clients = {"b": (MATRIX, [0, 1, 0]), "a": (MATRIX + 1, [1, 1, 0])}
    turned = dict(reversed(clients.items()))
    federation = Federation.from_arrays(clients, held_out=turned)
    assert federation.names == ("b", "a")
    assert federation.held_out == federation.clients
    with pytest.raises(DataError, match=r"held-out.*names differ: 'a', 'c'"):
        Federation.from_arrays(clients, held_out={"b": clients["b"], "c": clients["a"]})


def test_one_table_is_no_list_of_clients() -> None:
    with pytest.raises(DataError, match=r"this is one table, not a list of clients.*from_frame"):
        Federation.from_arrays(pd.DataFrame({"age": AGE}))


# --- values ---------------------------------------------------------------------------------------------------------

GAP = [[1.0, NAN], [3.0, 4.0]]
WITH_A_GAP: dict[str, Any] = {
    "numpy": np.array(GAP),
    "list": GAP,
    "None in a list": [[1, None], [3, 4]],
    "torch": torch.tensor(GAP),
    "float16": np.array(GAP, dtype=np.float16),
    "mask": np.ma.masked_array([[1.0, -999.0], [3.0, 4.0]], mask=[[0, 1], [0, 0]]),
    "mask of whole numbers": np.ma.masked_array([[1, -999], [3, 4]], mask=[[0, 1], [0, 0]]),
    "masks in a list": [np.ma.masked_array([1, -999], mask=[0, 1]), np.ma.masked_array([3, 4])],
    "pandas": pd.DataFrame(GAP, columns=["a", "b"]),
    "pandas NA": pd.DataFrame({"a": [1, 3], "b": pd.array([None, 4], dtype="Int64")}),
    "pandas None": pd.DataFrame({"a": [1, 3], "b": pd.Series([None, 4], dtype=object)}),
    "pandas of truth": pd.DataFrame({"a": [1, 3], "b": pd.array([None, True], dtype="boolean")}).astype({"a": float}),
    "Polars null": pl.DataFrame({"a": [1, 3], "b": [None, 4]}),
    "Polars NaN": pl.DataFrame({"a": [1.0, 3.0], "b": [NAN, 4.0]}),
    "Arrow null": pa.table({"a": [1, 3], "b": [None, 4]}),
    "Arrow NaN": pa.table({"a": [1.0, 3.0], "b": [NAN, 4.0]}),
}


@pytest.mark.parametrize("name", WITH_A_GAP)
def test_a_missing_value_is_one_in_every_form(name: str) -> None:
    x = WITH_A_GAP[name]
    with pytest.raises(DataError, match=r"column '(b|x1)': 1 of 2 values are missing .NaN., the first at row 0"):
        Federation.from_arrays([x])
    found = Federation.from_arrays([x], missing="mean").clients[0].x
    assert found[0, 1].isnan()
    assert found[1, 1].item() == (1 if "truth" in name else 4)
    assert found[:, 0].tolist() == [1, 3]
    marked = Federation.from_arrays([x], missing="indicator")
    assert marked.schema.features[2] in ("b=(missing)", "x1=(missing)")
    assert marked.clients[0].x[:, 2].tolist() == [1, 0]
    later = encode.features(x, marked.schema)
    torch.testing.assert_close(later, marked.clients[0].x, rtol=0, atol=0, equal_nan=True)


WRITERS: dict[str, Callable[[pd.DataFrame, Path], Path]] = {
    "csv": lambda frame, to: _written(frame.to_csv, to / "rows.csv", index=False),
    "tsv": lambda frame, to: _written(frame.to_csv, to / "rows.tsv", index=False, sep="\t"),
    "parquet": lambda frame, to: _written(frame.to_parquet, to / "rows.parquet", index=False),
    "json": lambda frame, to: _written(frame.to_json, to / "rows.json", orient="records"),
    "jsonl": lambda frame, to: _written(frame.to_json, to / "rows.jsonl", orient="records", lines=True),
}
READERS: dict[str, Callable[[pd.DataFrame, Path], Any]] = {
    "pandas": lambda frame, to: frame,
    "Polars": lambda frame, to: pl.from_pandas(frame),
    "Arrow": lambda frame, to: pa.Table.from_pandas(frame, preserve_index=False),
} | WRITERS


def _written(write: Any, path: Path, **options: Any) -> Path:
    write(path, **options)
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def read(reader: str, frame: pd.DataFrame, folder: Path, **options: Any) -> Federation:
    source = READERS[reader](frame, folder)
    if isinstance(source, Path):
        return Federation.from_dataset(str(source), client="ward", label="ill", **options)
    return Federation.from_frame(source, client="ward", label="ill", **options)


def patients(**changes: Any) -> pd.DataFrame:
    rows = {
        "ill": [2, 7] * 25,
        "sex": ["m", "f", "d", "f", "m"] * 10,
        "age": [30.5, 41, 52, 63, 74] * 10,
        "ward": ["b"] * 25 + ["a"] * 25,
        "beds": [3, 1, 2, 3, 5] * 10,
    }
    return pd.DataFrame(rows | changes)


def all_rows(federation: Federation) -> set[tuple[Any, ...]]:
    classes = encode.classes(federation.schema)
    groups = (federation.clients, federation.validation, federation.held_out)
    return {
        (client.name, *np.nan_to_num(x, nan=-1).tolist(), classes[y])
        for group in groups
        for client in group
        for x, y in zip(client.x.numpy(), client.y.numpy(), strict=True)
    }


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_reads_the_same(tmp_path: Path, reader: str) -> None:
    federation = read(reader, patients(), tmp_path)
    assert federation.schema.features == ("sex=d", "sex=f", "sex=m", "age", "beds")
    assert federation.names == ("a", "b")
    assert encode.classes(federation.schema).tolist() == [2, 7]
    assert encode.classes(federation.schema).dtype == np.int64
    assert all_rows(federation) == all_rows(read("pandas", patients(), tmp_path))


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_knows_missing_values(tmp_path: Path, reader: str) -> None:
    frame = patients(age=[NAN, 41, 52, 63, 74] * 10, sex=[None, "f", "d", "f", "m"] * 10)
    with pytest.raises(DataError, match=r"2 problems(.|\n)*column 'sex': 10 values are missing(.|\n)*column 'age'"):
        read(reader, frame, tmp_path)
    mean, marked = (read(reader, frame, tmp_path, missing=rule) for rule in ("mean", "indicator"))
    assert mean.schema.features == ("sex=d", "sex=f", "sex=m", "age", "beds")
    assert marked.schema.features == (
        *("sex=(missing)", "sex=d", "sex=f", "sex=m"),
        *("age", "beds", "age=(missing)"),
    )
    assert all_rows(marked) == all_rows(read("pandas", frame, tmp_path, missing="indicator"))
    gaps = torch.cat([client.x for client in mean.clients]).isnan().sum(0)
    assert gaps[0] > 0
    assert gaps[:4].tolist() == [int(gaps[0])] * 4
    assert gaps[4] == 0


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("column", ["ill", "ward"])
def test_labels_and_clients_may_not_be_missing(tmp_path: Path, reader: str, column: str) -> None:
    frame = patients(**{column: [None, *patients()[column][1:]]})
    with pytest.raises(DataError, match=f"column '{column}'.*1 (of 50 labels|values) are missing, the first at row 0"):
        read(reader, frame, tmp_path, missing="mean")


@pytest.mark.parametrize("reader", ["pandas", "Polars", "Arrow", "csv", "parquet", "json"])
def test_dates_are_no_categories(tmp_path: Path, reader: str) -> None:
    days = pd.date_range("2020-01-01", periods=50)
    frame = patients(born=days if reader in ("pandas", "Polars", "Arrow", "parquet") else days.strftime("%Y-%m-%d"))
    with pytest.raises(DataError, match="column 'born': it holds dates"):
        read(reader, frame, tmp_path)


# --- row numbers ----------------------------------------------------------------------------------------------------


def indexed_csv(folder: Path) -> Path:
    return _written(patients().to_csv, folder / "rows.csv")


def shuffled_parquet(folder: Path) -> Path:
    return _written(patients().sample(frac=1, random_state=0).to_parquet, folder / "rows.parquet")


@pytest.mark.parametrize(
    ("write", "name"), [(indexed_csv, "Unnamed: 0"), (shuffled_parquet, "__index_level_0__")], ids=["csv", "parquet"]
)
def test_row_numbers_are_no_features(tmp_path: Path, write: Any, name: str) -> None:
    path = write(tmp_path)
    with pytest.warns(FedgmiWarning, match=f"left out '{name}', which numbers the rows.*data.feature_columns"):
        federation = Federation.from_dataset(str(path), client="ward", label="ill")
    assert federation.schema.features == ("sex=d", "sex=f", "sex=m", "age", "beds")
    table = pyarrow.parquet.read_table(path) if path.suffix == ".parquet" else pd.read_csv(path)
    with pytest.warns(FedgmiWarning, match=f"left out '{name}'.*name it in features"):
        assert name not in Federation.from_frame(table, client="ward", label="ill").schema.features
    kept = Federation.from_frame(table, client="ward", features=[name, "age"])
    assert kept.schema.features == (name, "age")


def test_a_column_that_counts_is_told_and_kept(tmp_path: Path) -> None:
    frame = patients(patient=range(1, 51)).sample(frac=1, random_state=0)
    with pytest.warns(FedgmiWarning, match="column 'patient': it counts the rows from 1 to 50"):
        assert "patient" in Federation.from_frame(frame, client="ward", label="ill").schema.features


def test_columns_may_be_numbered() -> None:
    frame = pd.DataFrame([["a", 1.5], ["b", 2.5]])
    federation = Federation.from_frame(frame, client=0)
    assert (federation.names, federation.schema.features) == (("a", "b"), ("1",))


# --- what a CSV file cannot say --------------------------------------------------------------------------------------


def write_csv(folder: Path, text: str, rows: int = 25) -> str:
    head, *lines = text.split("\n")
    (folder / "rows.csv").write_text("\n".join([head, *(lines * rows)]) + "\n")
    return str(folder / "rows.csv")


def test_codes_stay_texts(tmp_path: Path) -> None:
    path = write_csv(tmp_path, "ward,zip,label,age\n007,01067,01,3\n7,1067,1,4")
    with pytest.warns(FedgmiWarning, match=r"leading zeros: column 'zip' .such as 01067., 'label' .such as 01."):
        federation = Federation.from_dataset(path, client="ward", features=["zip", "age"])
    assert federation.names == ("007", "7")
    assert encode.classes(federation.schema).tolist() == ["01", "1"]
    assert federation.schema.features == ("zip=01067", "zip=1067", "age")


@pytest.mark.parametrize("kind", ["int64", "float64", "object"])
def test_large_numbers_that_become_one_are_told(kind):
    """float32 has 24 bits: 16,777,217 is 16,777,216 there."""
    codes = np.array([[2**24], [2**24 + 1], [5]], dtype=kind)
    with pytest.warns(FedgmiWarning, match=r"16777216(\.0)? and 16777217(\.0)? become one.*float32 has 24 bits"):
        Federation.from_arrays([codes, codes])
    with pytest.warns(FedgmiWarning, match="become one"):
        Federation.from_frame(pd.DataFrame({"ward": list("aab"), "code": codes[:, 0].astype(float)}), "ward")


@pytest.mark.parametrize("values", [[2**24, 2**24 + 2, 5], [1e30, 2e30, -1e30], [0.1, 0.2, 1e7]])
def test_large_numbers_that_stay_apart_pass_in_silence(values):
    rows = np.array(values)[:, None]
    assert len(Federation.from_arrays([rows, rows])) == 2


def test_texts_that_look_missing_can_be_kept(tmp_path: Path) -> None:
    path = write_csv(tmp_path, "ward,answer,age\nNA,None,3\nEU,Null,?")
    features = ["answer", "age"]
    with pytest.raises(DataError, match="values are missing"):
        Federation.from_dataset(path, "ward", None, features, missing_values=["?", "None"])
    federation = Federation.from_dataset(path, "ward", None, features, missing_values=["", "?"], missing="mean")
    assert federation.names == ("EU", "NA")
    assert federation.schema.features == ("answer=None", "answer=Null", "age")
    assert federation.clients[0].x[:, 2].isnan().all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ward;age\na;3", "separated by ';', not by ','"),
        ("ward,age,age\na,3,4", "two columns are called 'age'"),
        ("0.5,1.5\n2.5,3.5", "the first line holds numbers"),
        ("ward,x,y\na,0.5,3\nb,1.5,4", "column 'y' may hold labels or, beside 'x', a coordinate.*data.label_column"),
    ],
)
def test_headers_that_mislead(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Federation.from_dataset(write_csv(tmp_path, text), client="ward")


@pytest.mark.parametrize(
    ("n", "last"), [(8, r"labels are missing[^\n]*$"), (12, r"column 'c09'[^\n]*\n  and 3 more\.$")]
)
def test_all_problems_are_told_at_once(n: int, last: str) -> None:
    columns = {f"c{i:02d}": [NAN, *range(24)] for i in range(n)}
    frame = pd.DataFrame({"ward": ["a"] * 25, "ill": [None, *[1] * 24]} | columns)
    with pytest.raises(DataError, match=rf"^{n + 1} problems\.\n  column 'c00': 1 values(.|\n)*{last}"):
        Federation.from_frame(frame, client="ward", label="ill")


# --- pictures -------------------------------------------------------------------------------------------------------


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> dict[str, Any]:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return {"bytes": buffer.getvalue(), "path": None}


def pictures(write_table: Any, *cells: dict[str, Any]) -> torch.Tensor:
    import datasets

    path = write_table({"image": list(cells)}, features={"image": datasets.Image()})
    return load_source(DataSettings(path=path)).train.x


HALF = np.zeros((4, 6), dtype=np.uint8)
HALF[:, :3] = 200


def test_pictures_are_turned_as_the_camera_says(write_table: Any) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter to the right
    x = pictures(write_table, encoded(Image.fromarray(HALF), exif=turned))
    torch.testing.assert_close(x[0, 0], torch.from_numpy(np.rot90(HALF, -1).copy()).float() / 255)


def ink(mode: str, fill: Any, alpha: np.ndarray) -> Image.Image:
    image = Image.new(mode, (6, 4), fill)
    image.putalpha(Image.fromarray(alpha))
    return image


@pytest.mark.parametrize(("mode", "fill"), [("RGB", (0, 0, 0)), ("L", 0)])
def test_transparent_pictures_lie_on_white(write_table: Any, mode: str, fill: Any) -> None:
    x = pictures(write_table, encoded(ink(mode, fill, HALF)))
    assert x.shape[1] == (3 if mode == "RGB" else 1)
    torch.testing.assert_close(x[0, 0], 1 - torch.from_numpy(HALF).float() / 255)


def test_a_palette_with_a_transparent_colour(write_table: Any) -> None:
    image = Image.fromarray(HALF // 200)
    image = image.convert("P")
    image.putpalette([0, 0, 0, 255, 0, 0])
    x = pictures(write_table, encoded(image, transparency=0))
    assert x[0, :, 0, 0].tolist() == [1, 0, 0]
    assert x[0, :, 0, 5].tolist() == [1, 1, 1]


def test_white_ink_on_nothing_is_refused(write_table: Any) -> None:
    with pytest.raises(DataError, match=r"row 0: the picture is white.*what it shows is in its transparency"):
        pictures(write_table, encoded(ink("RGB", (255, 255, 255), HALF)))


def test_numbers_of_unknown_range(write_table: Any) -> None:
    with pytest.raises(DataError, match=r"whole numbers of 32 bits, and what is white is not known"):
        pictures(write_table, encoded(Image.fromarray(HALF.astype(np.int32)), "TIFF"))


def test_twelve_bits_in_sixteen_are_told(write_table: Any) -> None:
    image = Image.fromarray((HALF.astype(np.uint16) * 20).astype(np.uint16))
    with pytest.warns(FedgmiWarning, match=r"no pixel is brighter than 0.0588 of 1. .*fewer bits"):
        pictures(write_table, encoded(image))


def test_a_stack_is_no_picture(write_table: Any) -> None:
    one = Image.fromarray(HALF)
    with pytest.raises(DataError, match="a stack of 2 pictures"):
        pictures(write_table, encoded(one, "TIFF", save_all=True, append_images=[one]))


GREY = np.linspace(0, 1, 2 * 6 * 6).reshape(2, 6, 6)
ARRAYS = {
    "bytes": ((GREY * 255).astype(np.uint8), "values from 0 to 255, outside 0..1.*divide by 255"),
    "-1 to 1": (2 * GREY - 1, "values from -1 to 1.*add 1 and divide by 2"),
    "12 bits": ((GREY * 4095).round(), "divide by the greatest value that a pixel can have: 4095 with 12 bits"),
    "series": (GREY * 40 - 7.3, r"if these are no pictures but series or tables.*x.reshape\(len\(x\), -1\)"),
    "channels last": (np.repeat(GREY[..., None], 3, 3), r"channels last.*2×3×6×6.*numpy.moveaxis\(x, -1, 1\)"),
    "a gap": (np.where(GREY > 0.99, NAN, GREY), r"1 of 2 values are missing"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_of_pictures_are_not_guessed_at(name: str) -> None:
    x, message = ARRAYS[name]
    with pytest.raises(DataError, match=message):
        Federation.from_arrays([x])


def test_pictures_that_are_all_but_black_are_told() -> None:
    with pytest.warns(FedgmiWarning, match=r"no pixel is brighter than 0.00392 of 1"):
        Federation.from_arrays([GREY / 255])


# --- no numbers -----------------------------------------------------------------------------------------------------


def sparse() -> Any:
    import scipy.sparse

    return scipy.sparse.eye(3).tocsr()


NO_NUMBERS = {
    "sparse": (sparse, r"a sparse matrix.*x.toarray\(\)"),
    "sparse tensor": (lambda: torch.eye(3).to_sparse(), r"a sparse tensor.*x.to_dense\(\)"),
    "complex": (lambda: np.eye(3) * 1j, "complex numbers.*real and the imaginary part"),
    "dates": (lambda: np.array([["2020-01-01"]], dtype="datetime64[D]"), "dates.*days since"),
    "durations": (lambda: np.array([[3]], dtype="timedelta64[s]"), "durations.*seconds"),
    "dict": (lambda: {"age": [1, 2]}, "this is a dict, not an array.*DataFrame"),
    "ragged": (lambda: [[1.0], [1.0, 2.0]], "the rows differ in length.*rectangular"),
    "ragged objects": (lambda: np.array([[1.0], [1.0, 2.0]], dtype=object), "the rows differ in length"),
    "texts": (lambda: [["a", "b"]], "x holds texts, not numbers.*Federation.from_frame, which encodes texts"),
    "a table with texts": (lambda: pd.DataFrame({"sex": ["f"]}), "column 'sex': it holds texts.*from_frame"),
    "records": (lambda: np.array([(1, 2.0)], dtype=[("a", int), ("b", float)]), "records.*DataFrame"),
}


@pytest.mark.parametrize("name", NO_NUMBERS)
def test_what_holds_no_numbers_is_told(name: str) -> None:
    make, message = NO_NUMBERS[name]
    with pytest.raises(DataError, match=f"client 'client-01'.*{message}"):
        Federation.from_arrays([np.eye(3), make()])


def test_categories_of_numbers_may_come_back_as_any_number() -> None:
    frame = pd.DataFrame({"ward": list("ab"), "grade": pd.Categorical([3.0, 1.0])})
    schema = Federation.from_frame(frame, client="ward").schema
    assert schema.features == ("grade=1", "grade=3")
    for later in ([1, 3], [1.0, 3.0], ["1", "3"], pd.Categorical([1.0, 3.0])):
        assert encode.features(pd.DataFrame({"grade": later}), schema).tolist() == [[1, 0], [0, 1]]


def test_json_lines_with_gaps(tmp_path: Path) -> None:
    rows = [{"ward": "a", "age": None if i == 3 else i} for i in range(5, 30)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    federation = Federation.from_dataset(str(tmp_path / "rows.jsonl"), client="ward", missing="indicator")
    assert federation.schema.features == ("age",)  # nothing is missing, so nothing is marked
