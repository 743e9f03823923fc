"""Tables in memory, those of pandas, Polars or Arrow: a federation from one, and later rows in the same columns.

narwhals tells what a table is and brings it to Arrow, so none of these libraries is imported that the user has not
imported. It takes a twentieth of a second to import, and so is imported when the first table comes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedgmi.data.rows import Parts, Schema
from fedgmi.data.sources.columns import Kind, require
from fedgmi.data.sources.sources import Split, client_with
from fedgmi.data.sources.tables import array_of
from fedgmi.data.sources.values import Values, encode_feature, encode_labels
from fedgmi.errors import DataError

if TYPE_CHECKING:
    from narwhals.stable.v2 import DataFrame


def from_frame(frame: Any, client: str, label: str | None = None, features: Sequence[str] | None = None) -> Parts:
    """What `Federation.from_frame` makes, before it is checked.

    Args:
        frame: A DataFrame of pandas or Polars, or a pyarrow Table.
        client: The column of the clients' names.
        label: The column of classes, or None.
        features: The columns to use; all others by default.

    Returns:
        The schema and the clients, in the order of their names. Each has its rows in the table's order.

    Raises:
        DataError: For what is no table, unknown columns, and columns whose values cannot be used.
    """
    table = _arrow(frame)
    blocks: list[npt.NDArray[np.float32]] = []
    columns: list[str] = []
    for name in _chosen(table.column_names, client, label, features):
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
    names, number, counts = np.unique(_column(table, client)[1], return_inverse=True, return_counts=True)
    rows = np.split(np.argsort(number, kind="stable"), np.cumsum(counts)[:-1]) if len(names) else []
    made = tuple(client_with(str(name), split, part) for name, part in zip(names, rows, strict=True))
    schema = Schema((len(columns),), len(classes), "tabular", classes, tuple(columns))
    return Parts(schema, made, client_column=client, label_column=label)


def encode(frame: Any, schema: Schema) -> Tensor:
    """Later rows in a federation's own columns.

    Args:
        frame: A DataFrame of pandas or Polars, or a pyarrow Table. Columns that the federation does not have are left
            out.
        schema: What the federation's rows look like, with the names of its columns.

    Returns:
        The rows. [n, features], float32

    Raises:
        DataError: For a column that is missing, missing values, and a text that is in none of the federation's rows.

    Examples:
        >>> import pyarrow
        >>> schema = Schema((3,), 0, "tabular", features=("age", "sex=f", "sex=m"))
        >>> encode(pyarrow.table({"sex": ["m"], "age": [30]}), schema)
        tensor([[30.,  0.,  1.]])
    """
    table = _arrow(frame)
    columns = table.column_names
    made_of: dict[str, list[str]] = {}
    for feature in schema.features:
        name = column_of(feature, columns) or require(feature.partition("=")[0], columns, where="features")
        made_of.setdefault(name, []).append(feature)
    blocks = []
    for name, own in made_of.items():
        (kind, values), where = _column(table, name), f"column {name!r}"
        if own != [name]:
            blocks.append(_one_hot(values.astype(str), [feature.removeprefix(f"{name}=") for feature in own], where))
        elif kind == "number":
            blocks += encode_feature([values], kind, name, where=where, advice="leave them out")[0]
        else:
            row = next((i for i, text in enumerate(values) if not _is_number(text)), 0)
            what = f"it holds texts, but numbers in the federation; the first text is {values[row]!r} at row {row}"
            raise DataError(what, where=where, fix="give numbers")
    return torch.from_numpy(np.concatenate(blocks, axis=1))


def values_of(frame: Any, column: str) -> Values:
    """A column's values, as `from_frame` reads them: those of clients' names, or labels.

    Args:
        frame: A DataFrame of pandas or Polars, or a pyarrow Table.
        column: Its name.

    Returns:
        The values. [n]

    Raises:
        DataError: Where there is no such column, or it cannot be used.
    """
    table = _arrow(frame)
    return _column(table, require(column, table.column_names, where="column"))[1]


def with_columns(frame: Any, columns: Mapping[str, Values]) -> Any:
    """A table with more columns, row by row as they come; the index of pandas plays no part.

    Args:
        frame: A DataFrame of pandas or Polars, or a pyarrow Table.
        columns: Values by name. [n] each

    Returns:
        A pyarrow Table.

    Raises:
        DataError: For another number of rows.
    """
    import pyarrow

    table = _arrow(frame)
    for name, values in columns.items():
        if len(values) != len(table):
            what = f"there are {len(values)} entries for {len(table)} rows"
            raise DataError(what, where=name, fix="give one entry for each row")
        table = table.append_column(name, pyarrow.array(values.tolist() if values.dtype.kind == "O" else values))
    return table


def column_names(x: Any) -> tuple[str, ...]:
    """The names of a table's columns.

    Args:
        x: Anything.

    Returns:
        The names, as texts; () where x is no table but an array, a tensor or a list.

    Raises:
        DataError: For a table in which two columns have one name.
    """
    frame = _opened(x)
    return () if frame is None else tuple(str(name) for name in frame.columns)


def column_of(feature: str, columns: Sequence[str]) -> str | None:
    """The column that a feature was made of: the one of its name, or of what stands before `=value`.

    Args:
        feature: A name in `Schema.features`.
        columns: The names of a table's columns.

    Returns:
        One of `columns`, the longest that fits, or None.

    Examples:
        >>> column_of("sex=f", ["age", "sex"])
        'sex'
    """
    return max((name for name in columns if feature == name or feature.startswith(f"{name}=")), key=len, default=None)


def _chosen(columns: Sequence[str], client: str, label: str | None, features: Sequence[str] | None) -> Sequence[str]:
    """The columns that features are made of."""
    for where, column in (("client", client), ("label", label)):
        if column is not None:
            require(column, columns, where=where)
    taken = {client: "the clients' names", label: "the label"}
    if features is None:
        features = [name for name in columns if name not in taken]
    for name in features:
        require(name, columns, where="features")
        if name in taken:
            raise DataError(f"column {name!r} is {taken[name]}", where="features", fix="leave it out")
    if not features:
        raise DataError("no column is left", where="features", fix="name at least one")
    return features


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


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def _opened(x: Any) -> DataFrame[Any] | None:
    """The table as narwhals sees it; None for what is no table."""
    import narwhals.stable.v2 as nw

    try:
        found = nw.from_native(x, eager_only=True, pass_through=True)
    except nw.exceptions.DuplicateError as error:
        raise _twice([str(name) for name in getattr(x, "column_names", x.columns)]) from error
    return found if isinstance(found, nw.DataFrame) else None


def _arrow(frame: Any) -> Any:
    """The table as one of pyarrow. The index of pandas is no column."""
    import narwhals.stable.v2 as nw

    opened = _opened(frame)
    if opened is None:
        fix = "give a DataFrame of pandas or Polars, or a pyarrow Table"
        raise DataError(f"this is a {type(frame).__name__}, not a table in memory", where="frame", fix=fix)
    try:
        table = nw.maybe_reset_index(opened).to_arrow()
    except (ValueError, TypeError) as error:  # as pyarrow's are
        reason = str(error.args[-1]).rstrip(".")
        raise DataError(f"a column cannot be read ({reason})", where="frame", fix="give it one type") from error
    if len(set(table.column_names)) < len(table.column_names):
        raise _twice(table.column_names)
    return table


def _twice(names: Sequence[str]) -> DataError:
    twice = next(name for name in names if names.count(name) > 1)
    return DataError(f"two columns are called {twice!r}", where="frame", fix="rename one of them")


def _column(table: Any, name: str) -> tuple[Kind, Values]:
    """What a column holds, and its values. Categories count as texts, whatever they are made of."""
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
