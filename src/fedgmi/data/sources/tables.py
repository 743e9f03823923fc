"""Open a data set's splits with `datasets`: a local folder or file, or a hub id. Nothing is decoded yet."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fedgmi.data.sources.columns import Values, kind_of
from fedgmi.errors import DataError
from fedgmi.settings.run import DataSettings

BUILDERS = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".json": "json", ".jsonl": "json"}
MOST_ROWS = 10**9
OF_NO_ROWS = ("corresponds to no data", "BatchSize must be greater than 0, got 0")  # what CSV and Parquet say of it


def open_splits(settings: DataSettings, cache: str | None = None) -> dict[str, Any]:
    """The train split and, where there is one, the test split: name → `datasets.Dataset`.

    cache: the folder in which `datasets` keeps its copy of the rows; None: where it always does.
    """
    found = _load(settings, cache)
    optional = (None, "", "test", settings.train_split)  # "test" is the default, and many data sets have none
    for option, name in (("train_split", settings.train_split), ("test_split", settings.test_split)):
        if name not in found and (option == "train_split" or name not in optional):
            raise DataError(
                f"no split {name!r}; there are {', '.join(found)}",
                where=f"data.{option}",
                fix=f"set it to {next(iter(found))!r}" if option == "train_split" else "choose one, or leave it out",
            )
    names = [settings.train_split]
    if settings.test_split and settings.test_split in found and settings.test_split != settings.train_split:
        names.append(settings.test_split)
    splits = {}
    for name in names:
        table = found[name]
        if not len(table):
            raise DataError("no rows", where=f"{settings.path}, split {name!r}", fix="choose another split")
        splits[name] = table.select(range(min(settings.max_rows or len(table), len(table))))
    return splits


def column_values(table: Any, column: str, *, where: str) -> Values:
    """A column as an array [n]; a missing value is an error."""
    values = table.select_columns([column]).with_format("arrow")[:].column(column)
    return array_of(values, where=f"{where}, column {column!r}")


def named_values(table: Any, column: str, *, where: str) -> Values:
    """`column_values`, with class numbers as the classes' names; -1, which stands for no class, as "(none)"."""
    values, feature = column_values(table, column, where=where), table.features[column]
    return np.array(["(none)", *feature.names])[values + 1] if kind_of(feature) == "class" else values


def array_of(values: Any, *, where: str) -> Values:
    """An Arrow column as an array [n]; a missing value is an error."""
    if values.null_count:
        raise DataError(
            f"{values.null_count} values are missing, the first at row {values.to_pylist().index(None)}",
            where=where,
            fix="fill or drop these rows, or choose other columns",
        )
    return np.asarray(values.to_numpy())


def batches(table: Any, column: str, size: int = 1024) -> Iterator[list[Any]]:
    """A column's cells as stored (pictures still encoded), batch by batch."""
    for batch in table.select_columns([column]).with_format("arrow").iter(batch_size=size):
        yield batch.column(column).to_pylist()


def _load(settings: DataSettings, cache: str | None) -> Any:
    import datasets  # takes more than a second: the digits do without it

    path = Path(settings.path).expanduser()
    _check_local(settings.path, path)
    try:
        with _quietly():
            if path.is_file():
                options = _whole_columns(path.suffix)
                return datasets.load_dataset(BUILDERS[path.suffix], data_files=str(path), cache_dir=cache, **options)
            return datasets.load_dataset(str(path) if path.exists() else settings.path, cache_dir=cache)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        generating = isinstance(error, datasets.exceptions.DatasetGenerationError)  # it says no more than that
        told = (generating and error.__cause__) or error
        reason = next(iter(str(told).splitlines()), type(told).__name__).rstrip(".")
        where = f"data.path {settings.path!r}"
        if any(words in reason for words in OF_NO_ROWS):
            raise DataError("no rows", where=where, fix="give a file with rows in it") from error
        if path.exists():
            fix = "check that it holds Parquet, CSV, JSON or picture files of one layout"
            raise DataError(f"cannot be read ({reason})", where=where, fix=fix) from error
        close = difflib.get_close_matches(settings.path.lower(), ["digits"], n=1)
        fix = "did you mean 'digits'?" if close else "check the name and the network, or give a local folder"
        what = f"no such folder here, and loading it from the hub failed ({reason})"
        raise DataError(what, where=where, fix=fix) from error


def _check_local(name: str, path: Path) -> None:
    """A path that can only be local is judged here, before the hub is asked."""
    if path.is_file() and path.suffix not in BUILDERS:
        raise DataError(
            f"files of type {path.suffix or '(none)'!r} are not read",
            where=f"data.path {name!r}",
            fix=f"give one of {', '.join(BUILDERS)}, or a folder",
        )
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name or path.suffix in BUILDERS
    if looks_local and not path.exists():
        beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        nearest = difflib.get_close_matches(path.name, beside, n=1)
        fix = f"did you mean {str(path.parent / nearest[0])!r}?" if nearest else "check the path"
        raise DataError("no such folder or file", where=f"data.path {name!r}", fix=fix)


def _whole_columns(suffix: str) -> dict[str, Any]:
    """Read a CSV file in one piece: by pieces, whole numbers in the first make a later decimal an error."""
    if BUILDERS[suffix] != "csv":
        return {}
    return {"chunksize": MOST_ROWS, **({"sep": "\t"} if suffix == ".tsv" else {})}


@contextmanager
def _quietly() -> Iterator[None]:
    """No progress bars, and no word to the hub's counter of downloads, which is told of local files as well."""
    import datasets

    shown = datasets.utils.is_progress_bar_enabled()
    counted = getattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)
    if shown:
        datasets.disable_progress_bars()
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    blocked = "scipy" not in sys.modules  # `datasets` would load it to read .mat files from a hub
    if blocked:
        sys.modules["scipy"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if blocked:
            del sys.modules["scipy"]
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = counted
        if shown:
            datasets.enable_progress_bars()
