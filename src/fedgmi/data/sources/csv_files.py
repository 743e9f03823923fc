"""CSV files: what their header says, which texts are missing values, and which numbers are codes and stay texts."""

from __future__ import annotations

import csv
import mmap
import re
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fedgmi.data.sources.arrays import is_number
from fedgmi.data.sources.csv_lines import check_encoding, check_lengths
from fedgmi.errors import ConfigError, DataError, FedgmiWarning
from fedgmi.settings.run import DataSettings

SEPARATORS = {".csv": ",", ".tsv": "\t"}
"""By how a file's name ends."""

BESIDE = ("", ".md", ".txt", ".toml", ".yaml", ".yml", ".cff")
"""Files that may lie beside the data: a licence, a description."""

MOST_ROWS = 10**9
"""So many rows of a file are read in one piece. By pieces, whole numbers in the first would make a later decimal an
error."""

MISSING = frozenset(
    " #N/A|#N/A N/A|#NA|-1.#IND|-1.#QNAN|-NaN|-nan|1.#IND|1.#QNAN|<NA>|N/A|NA|NULL|NaN|None|n/a|nan|null".strip().split(
        "|"
    )
) | {""}
"""The texts that stand for a missing value unless `data.missing_values` says which do: those of pandas."""

ZERO = re.compile(rb'(?:^|[,\t"\n\r])0\d+(?=[,\t"\r\n]|$)')
"""A cell such as 007, wherever it stands."""
CODE = re.compile(r"0\d+")


def csv_options(path: Path, settings: DataSettings, texts: Sequence[str]) -> dict[str, Any]:
    """How pandas is to read a CSV file, or a folder of them.

    Args:
        path: The file or the folder.
        settings: The section `data`.
        texts: Columns to be read as texts, whatever they look like.

    Returns:
        Options for the reader; none where there is no CSV file.

    Raises:
        ConfigError: For `data.missing_values` where there is no CSV file.
        DataError: For a file that is not UTF-8, a header that cannot be one or that names a column twice, and a line of
            another number of cells.
    """
    files = _files(path)
    if not files:
        if settings.missing_values is not None:
            fix = 'remove it: other files mark missing values themselves, and data.missing = "mean" fills them'
            raise ConfigError("it is for CSV files, and there is none", where="data.missing_values", fix=fix)
        return {}
    separator = SEPARATORS[files[0].suffix]
    for file in files:
        check_encoding(file)
    headers = {file: _header(file, separator) for file in files}
    for file, header in headers.items():
        check_lengths(file, separator, header)
    codes = {name for file in files for name in _codes(file, separator, headers[file], texts)}
    missing = MISSING if settings.missing_values is None else frozenset(settings.missing_values)
    there = {name for header in headers.values() for name in header}
    as_texts = partial(_text, missing=missing)
    options: dict[str, Any] = {"chunksize": MOST_ROWS, "sep": separator}
    if settings.missing_values is not None:
        options |= {"na_values": sorted(missing), "keep_default_na": False}
    converters = dict.fromkeys(sorted((codes | set(texts)) & there), as_texts)
    return options | ({"converters": converters} if converters else {})


def _files(path: Path) -> list[Path]:
    """The CSV files at a path; none where it holds other data too, such as pictures beside their labels."""
    if path.is_file():
        return [path] if path.suffix in SEPARATORS else []
    shown = [file for file in sorted(path.rglob("*")) if file.is_file() and not file.name.startswith(".")]
    data = [file for file in shown if file.suffix not in BESIDE]
    return data if all(file.suffix in SEPARATORS for file in data) else []


def _text(cell: str, missing: frozenset[str]) -> str | None:
    return None if cell in missing else cell


def _header(file: Path, separator: str) -> list[str]:
    """The names of the columns."""
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        names = next(filter(None, csv.reader(lines, delimiter=separator)), [])  # empty lines are left out
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"two columns are called {twice!r}", where=str(file), fix="rename one of them")
    if len(names) == 1 and (other := next((sign for sign in ";\t|," if sign in names[0]), None)):
        what = f"the columns are separated by {other!r}, not by {separator!r}"
        raise DataError(what, where=str(file), fix="save it as .csv with commas, or as .tsv with tabulators")
    if names and all(map(is_number, names)) and names != [str(place) for place in range(len(names))]:
        what = f"the first line holds numbers ({', '.join(names[:3])}, …), where the names of the columns should be"
        raise DataError(what, where=str(file), fix="put a line with names above it")
    return names


def _codes(file: Path, separator: str, header: Sequence[str], texts: Sequence[str]) -> list[str]:
    """The columns in which some number has a leading zero: 007 is no 7. A FedgmiWarning names them."""
    if not file.stat().st_size:
        return []
    with file.open("rb") as raw, mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if ZERO.search(content) is None:
            return []
    found: dict[str, str] = {}
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        for row in csv.reader(lines, delimiter=separator):
            for name, cell in zip(header, row, strict=False):
                if name not in found and cell[:1] == "0" and CODE.fullmatch(cell):
                    found[name] = cell
    told = {name: cell for name, cell in found.items() if name not in texts}
    if told:
        shown = ", ".join(f"{name!r} (such as {cell})" for name, cell in told.items())
        what = f"{file}: read as texts, since some values have leading zeros: column {shown}"
        warnings.warn(FedgmiWarning(what), stacklevel=2)
    return list(found)
