"""Tables in memory, pandas' or Arrow's: a federation from one, and later rows in the same columns."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedgmi.data.rows import Parts, Schema
from fedgmi.data.sources.columns import Kind, Values, encode_feature, encode_labels, require
from fedgmi.data.sources.sources import Split, client_with
from fedgmi.data.sources.tables import array_of
from fedgmi.errors import DataError


def from_frame(frame: Any, client: str, label: str | None = None, features: Sequence[str] | None = None) -> Parts:
    """`Federation.from_frame`, before it is checked."""
    table = _arrow(frame)
    for where, column in (("client", client), ("label", label)):
        if column is not None:
            require(column, table.column_names, where=where)
    taken = {client: "the clients' names", label: "the label"}
    if features is None:
        features = [name for name in table.column_names if name not in taken]
    for name in features:
        require(name, table.column_names, where="features")
        if name in taken:
            raise DataError(f"column {name!r} is {taken[name]}", where="features", fix="leave it out")
    if not features:
        raise DataError("no column is left", where="features", fix="name at least one")
    blocks, columns = [], []
    for name in features:
        kind, values = _column(table, name)
        [block], new = encode_feature([values], kind, name, where=f"column {name!r}", advice="leave it out of features")
        blocks.append(block)
        columns += new
    y: Values | None = None
    classes: tuple[str, ...] = ()
    if label is not None:
        advice = "choose another label"
        [y], classes = encode_labels([_column(table, label)[1]], None, where=f"column {label!r}", advice=advice)
    split = Split(torch.from_numpy(np.concatenate(blocks, axis=1)), None if y is None else torch.from_numpy(y))
    names, owner, counts = np.unique(_column(table, client)[1], return_inverse=True, return_counts=True)
    rows = np.split(np.argsort(owner, kind="stable"), np.cumsum(counts)[:-1]) if len(names) else []
    made = tuple(client_with(str(name), split, part) for name, part in zip(names, rows, strict=True))
    return Parts(Schema((len(columns),), len(classes), "tabular", classes, tuple(columns)), made)


def encode(frame: Any, schema: Schema) -> Tensor:
    """Later rows in a federation's own columns: x [n, features], float32. Other columns are left out.

    Raises DataError for a column that is missing, and for a text that was in nobody's rows.

    >>> import pyarrow
    >>> schema = Schema((3,), 0, "tabular", features=("age", "sex=f", "sex=m"))
    >>> encode(pyarrow.table({"sex": ["m"], "age": [30]}), schema)
    tensor([[30.,  0.,  1.]])
    """
    table = _arrow(frame)
    columns = table.column_names
    owners = [
        column_of(feature, columns) or require(feature.partition("=")[0], columns, where="features")
        for feature in schema.features
    ]
    blocks = []
    for name in dict.fromkeys(owners):
        (kind, values), where = _column(table, name), f"column {name!r}"
        mine = [feature for feature, owner in zip(schema.features, owners, strict=True) if owner == name]
        if mine != [name]:
            blocks.append(_one_hot(values.astype(str), [feature.removeprefix(f"{name}=") for feature in mine], where))
        elif kind == "number":
            blocks += encode_feature([values], kind, name, where=where, advice="leave them out")[0]
        else:
            row = next((i for i, text in enumerate(values) if not _is_number(text)), 0)
            what = f"it holds texts, and numbers in the federation; the first is {values[row]!r} at row {row}"
            raise DataError(what, where=where, fix="give numbers")
    return torch.from_numpy(np.concatenate(blocks, axis=1))


def _one_hot(values: Values, known: Sequence[str], where: str) -> npt.NDArray[np.float32]:
    """[n, len(known)], with a 1 for each row's text."""
    block = np.stack([values == text for text in known], axis=1)
    strange = np.flatnonzero(~block.any(1))
    if len(strange):
        raise DataError(
            f"{str(values[strange[0]])!r} at row {strange[0]} is not among the federation's values: {', '.join(known)}",
            where=where,
            fix="leave these rows out, or make the federation anew with them",
        )
    return block.astype(np.float32)


def column_names(x: Any) -> tuple[str, ...]:
    """The names of a table's columns; () where it is none, but an array or a tensor."""
    for package, kind, names in (("pandas", "DataFrame", "columns"), ("pyarrow", "Table", "column_names")):
        if package in sys.modules and isinstance(x, getattr(sys.modules[package], kind)):
            return tuple(str(name) for name in getattr(x, names))
    return ()


def column_of(feature: str, columns: Sequence[str]) -> str | None:
    """The column that a feature came from: its name, or what stands before `=value`; None where it is not there.

    >>> column_of("sex=f", ["age", "sex"])
    'sex'
    """
    return max((name for name in columns if feature == name or feature.startswith(f"{name}=")), key=len, default=None)


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def _arrow(frame: Any) -> Any:
    """The frame as a pyarrow Table; pandas is not imported for it."""
    import pyarrow

    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(frame, pandas.DataFrame):
        try:
            frame = pyarrow.Table.from_pandas(frame, preserve_index=False)
        except (ValueError, TypeError) as error:
            reason = str(error.args[-1]).rstrip(".")
            raise DataError(f"a column cannot be read ({reason})", where="frame", fix="give it one type") from error
    if not isinstance(frame, pyarrow.Table):
        raise DataError(f"a {type(frame).__name__}", where="frame", fix="give a pandas DataFrame or a pyarrow Table")
    names = frame.column_names
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"two columns are called {twice!r}", where="frame", fix="rename one of them")
    return frame


def _column(table: Any, name: str) -> tuple[Kind, Values]:
    """What a column holds, and its values; categories count as texts, whatever they are made of."""
    import pyarrow

    values, types = table.column(name), pyarrow.types
    kind: Kind = "text"
    if types.is_dictionary(values.type):
        values = values.cast(values.type.value_type).cast(pyarrow.string())
    elif any(test(values.type) for test in (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal)):
        kind = "number"
    elif not (types.is_string(values.type) or types.is_large_string(values.type) or types.is_string_view(values.type)):
        raise DataError(
            f"it holds {values.type}, neither numbers nor texts",
            where=f"column {name!r}",
            fix="convert it, or leave it out",
        )
    return kind, array_of(values, where=f"column {name!r}")
