"""A digest of the rows of a site's file, by which runs are counted: no setting of the coordinator's changes it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from fedgmi.data.sources.arrays import is_missing
from fedgmi.data.sources.columns import kind_of
from fedgmi.data.sources.row_numbers import is_row_number
from fedgmi.data.sources.tables import batches, column_values, named_values

Codes = npt.NDArray[np.uint64]
TRUTH = {"true": 1.0, "false": 0.0}


def content_of(table: Any) -> str:
    """A digest of a table's rows as a multiset.

    It goes by all columns of the file, whichever of them the federation uses. So it does not change with the seed,
    with which rows are held out, with `[rows]` of federation.toml, or with the order of rows and columns. A number is
    the same number where the federation has its column read as texts. Columns that a tool wrote to number rows are
    left out.

    Args:
        table: A `datasets.Dataset` of n rows.

    Returns:
        16 bytes, hex.
    """
    names = sorted(name for name in table.features if not is_row_number(name))
    codes = np.stack([_codes(table, name) for name in names], axis=1) if names else np.zeros((len(table), 0), np.uint64)
    rows = codes[np.lexsort(codes.T)] if names else codes
    found = hashlib.blake2b(repr((names, len(table))).encode(), digest_size=16)
    found.update(rows.astype("<u8").tobytes())
    return found.hexdigest()


def _codes(table: Any, name: str) -> Codes:
    """64 bits for each cell: of a number its own, else a hash. [n]"""
    kind = kind_of(table.features[name])
    if kind == "image":
        from fedgmi.data.sources.picture_cache import file_of  # and Pillow with it: tables do without

        return _each((cell for batch in batches(table, name) for cell in batch), lambda cell: _hashed(file_of(cell)))
    if kind == "number":
        values = column_values(table, name)
        if values.dtype.kind in "iufb":
            return _bits(values.astype(np.float64))
    if kind == "class":
        return _each(named_values(table, name).tolist(), _cell)
    return _each((cell for batch in batches(table, name) for cell in batch), _cell)


def _each(cells: Iterable[Any], code: Callable[[Any], int]) -> Codes:
    return np.array([code(cell) for cell in cells], dtype=np.uint64)


def _cell(value: Any) -> int:
    """The code of a cell that may be anything. A text that is a number counts as that number."""
    if is_missing(value) or value == "":
        return _number(np.nan)
    text = str(value).strip()
    if text.lower() in TRUTH:
        return _number(TRUTH[text.lower()])
    with suppress(ValueError):
        return _number(float(text))
    return _hashed(text.encode())


def _number(value: float) -> int:
    return int(_bits(np.array([value]))[0])


def _bits(values: npt.NDArray[np.float64]) -> Codes:
    """Their own bits; one pattern for all values that are missing, and one for both zeros."""
    plain: Codes = np.where(np.isnan(values), np.nan, values + 0.0).view(np.uint64)
    return plain


def _hashed(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
