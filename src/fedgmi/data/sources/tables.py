"""Open a data set's splits with `datasets`: a local folder or file, or a hub id. Nothing is decoded yet."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fedgmi.data.sources.arrays import Array as Values
from fedgmi.data.sources.arrays import is_missing
from fedgmi.data.sources.columns import kind_of
from fedgmi.data.sources.csv_files import csv_options
from fedgmi.errors import DataError, nearest
from fedgmi.settings.run import DataSettings

BUILDERS = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".json": "json", ".jsonl": "json"}
"""The files that are read, by how their names end."""

OF_NO_ROWS = ("corresponds to no data", "BatchSize must be greater than 0, got 0")
"""What the readers of CSV and Parquet say of a file without rows."""


def open_splits(settings: DataSettings, cache: str | None = None, texts: Sequence[str | None] = ()) -> dict[str, Any]:
    """Open the train split and, where there is one, the test split.

    Args:
        settings: The section `data`. Of each split the first `max_rows` are kept.
        cache: The folder in which `datasets` keeps its copy of the rows; its usual one by default.
        texts: Columns of a CSV file to be read as texts, whatever they look like; None counts for nothing.

    Returns:
        Each split's `datasets.Dataset` by name. The train split comes first.

    Raises:
        DataError: For a data set that is not there, cannot be read, or lacks a split; and for a split without rows.
    """
    found = _load(settings, cache, [name for name in texts if name is not None])
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


def column_values(table: Any, column: str) -> Values:
    """A column of a data set.

    Args:
        table: A `datasets.Dataset`.
        column: The column's name.

    Returns:
        Its values, None or NaN where one is missing. [n]
    """
    return array_of(table.select_columns([column]).with_format("arrow")[:].column(column))


def named_values(table: Any, column: str) -> Values:
    """A column of a data set, with classes by name.

    Args:
        table: A `datasets.Dataset`.
        column: The column's name.

    Returns:
        Its values. Class numbers become the classes' names, and −1, which stands for no class, becomes "(none)". [n]
    """
    values, feature = column_values(table, column), table.features[column]
    if kind_of(feature) != "class":
        return values
    gaps = np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), dtype=bool)
    names = np.array(["(none)", *feature.names])[np.where(gaps, 0, values).astype(np.int64) + 1]
    if gaps.any():
        names = names.astype(object)
        names[gaps] = None
    return names


def all_values(table: Any, column: str, *, where: str, fix: str) -> Values:
    """A column of a data set in which every row has to have a value.

    Args:
        table: A `datasets.Dataset`.
        column: The column's name.
        where: Where the table comes from, for the message.
        fix: What to do about a missing value.

    Returns:
        Its values, with classes by name. [n]

    Raises:
        DataError: For a missing value.
    """
    values = named_values(table, column)
    gaps = np.array([is_missing(value) for value in values.tolist()], dtype=bool)
    if gaps.any():
        what = f"{int(gaps.sum())} values are missing, the first at row {int(gaps.argmax())}"
        raise DataError(what, where=f"{where}, column {column!r}", fix=fix)
    return values


def array_of(values: Any) -> Values:
    """An Arrow column as an array.

    Args:
        values: A pyarrow ChunkedArray. [n]

    Returns:
        Its values; texts and decimal numbers as objects. Where one is missing, it is None or NaN. [n]
    """
    return np.asarray(values.to_numpy())


def batches(table: Any, column: str, size: int = 1024) -> Iterator[list[Any]]:
    """Read a column's cells as they are stored.

    Args:
        table: A `datasets.Dataset`.
        column: The column's name.
        size: So many rows at a time.

    Yields:
        The cells of some rows. Pictures are still encoded.
    """
    for batch in table.select_columns([column]).with_format("arrow").iter(batch_size=size):
        yield batch.column(column).to_pylist()


def _load(settings: DataSettings, cache: str | None, texts: Sequence[str]) -> Any:
    import datasets  # takes more than a second: the digits do without it

    path = Path(settings.path).expanduser()
    _check_local(settings.path, path)
    options = csv_options(path, settings, texts)
    try:
        with _quietly():
            if path.is_file():
                return datasets.load_dataset(BUILDERS[path.suffix], data_files=str(path), cache_dir=cache, **options)
            return datasets.load_dataset(str(path) if path.exists() else settings.path, cache_dir=cache, **options)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        generating = isinstance(error, datasets.exceptions.DatasetGenerationError)  # it says no more than that
        cause = (generating and error.__cause__) or error
        reason = next(iter(str(cause).splitlines()), type(cause).__name__).rstrip(".")
        where = f"data.path {settings.path!r}"
        if any(words in reason for words in OF_NO_ROWS):
            raise DataError("no rows", where=where, fix="give a file with rows in it") from error
        if path.exists():
            fix = "check that it holds Parquet, CSV, JSON or picture files of one layout"
            raise DataError(f"cannot be read ({reason})", where=where, fix=fix) from error
        fix = "check the name and the network, or give a local folder"
        what = f"no such folder here, and loading it from the hub failed ({reason})"
        raise DataError(what, where=where, fix=fix) from error


def _check_local(name: str, path: Path) -> None:
    """Refuse a path that can only be local and is not there, before the hub is asked."""
    if path.is_file() and path.suffix not in BUILDERS:
        raise DataError(
            f"files of type {path.suffix or '(none)'!r} are not read",
            where=f"data.path {name!r}",
            fix=f"give one of {', '.join(BUILDERS)}, or a folder",
        )
    if path.is_file() and not path.stat().st_size:
        raise DataError("the file is empty", where=f"data.path {name!r}", fix="give a file with rows in it")
    if may_be_on_hub(name) or path.exists():
        return
    beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    bare = "/" not in name
    guess = nearest(path.name, ["digits", *beside] if bare else beside)
    fix = f"did you mean {str(path.parent / guess)!r}?" if guess else "check the path"
    if bare and not guess:
        fix += ", or write owner/name for a data set of the hub"
    raise DataError("no such folder or file", where=f"data.path {name!r}", fix=fix)


def may_be_on_hub(name: str) -> bool:
    """Whether a `data.path` can be a hub id, owner/name. All others are local, and the network is never asked.

    >>> [may_be_on_hub(name) for name in ("ylecun/mnist", "../data/adult", "adult", "adult/", "a/b.csv")]
    [True, False, False, False, False]
    """
    owner, _, rest = name.partition("/")
    plain = all((owner, rest)) and "/" not in rest and "\\" not in name and not name.startswith((".", "~"))
    return plain and Path(name).suffix not in BUILDERS and not Path(owner).is_dir()


@contextmanager
def _quietly() -> Iterator[None]:
    """Load without progress bars, without a word to the hub's counter of downloads, and without SciPy.

    The hub would be told of local files as well. SciPy would be loaded for the .mat files that a hub may hold, and
    takes a second. What is wrong with a file is logged before it is raised: that is silenced, too.
    """
    import datasets

    shown = datasets.utils.is_progress_bar_enabled()
    counted = getattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)
    said = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    if shown:
        datasets.disable_progress_bars()
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    blocked = "scipy" not in sys.modules
    if blocked:
        sys.modules["scipy"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if blocked:
            del sys.modules["scipy"]
        datasets.logging.set_verbosity(said)
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = counted
        if shown:
            datasets.enable_progress_bars()
