"""Tables in memory, those of pandas, Polars or Arrow: a federation from one, and later rows in the same columns.

narwhals tells what a table is and brings it to Arrow, so none of these libraries is imported that the user has not
imported. It takes a twentieth of a second to import, and so is imported when the first table comes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedgmi.data.missing import MARK, mark, marked_numbers, with_markers
from fedgmi.data.names import AS_TEXTS, names_in
from fedgmi.data.problems import Problems
from fedgmi.data.rows import Missing, Parts, Schema
from fedgmi.data.sources.arrays import is_number
from fedgmi.data.sources.columns import Kind, require
from fedgmi.data.sources.copies import copies, without_copies
from fedgmi.data.sources.labels import NO_LABELS
from fedgmi.data.sources.row_numbers import ENOUGH, is_row_number, warn_of_counter, without_row_numbers
from fedgmi.data.sources.sources import Split, client_with
from fedgmi.data.sources.tables import array_of
from fedgmi.data.sources.targets import read_labels, with_events
from fedgmi.data.sources.values import Values, encode_feature, missing_texts, number_block, one_hot, warn_of_numbers
from fedgmi.errors import DataError, nearest
from fedgmi.settings.run import TaskName

if TYPE_CHECKING:
    from narwhals.stable.v2 import DataFrame


def from_frame(
    frame: Any,
    client: str,
    label: str | None = None,
    features: Sequence[str] | None = None,
    missing: Missing = "refuse",
    task: TaskName = "classification",
    event: str | None = None,
) -> Parts:
    """What `Federation.from_frame` makes, before it is checked.

    Args:
        frame: A DataFrame of pandas or Polars, or a pyarrow Table.
        client: The column of the clients' names.
        label: The column of classes, or None.
        features: The columns to use; all others by default.
        missing: The rule for missing values.
        task: What labels are.
        event: For survival, the column of events; the label is then the time.

    Returns:
        The schema and the clients, in the order of their names. Each has its rows in the table's order.

    Raises:
        DataError: For what is no table, unknown columns, and all columns whose values cannot be used.
    """
    table, problems = _arrow(frame), Problems()
    client, label = _as_name(client), None if label is None else _as_name(label)
    event = None if event is None else _as_name(event)
    if (event is None) == (task == "survival"):
        fix = 'for task="survival" name the columns of times and of events: label=…, event=…'
        raise DataError(f"the task is {task}, and the column of events is {event!r}", where="event", fix=fix)
    x, columns = torch.empty(0, 0), tuple[str, ...]()
    with problems.noted():
        chosen = _chosen(table.column_names, client, label, features, event)
        if features is None:
            keep = "name it in features (of Federation.from_frame)"
            chosen = without_copies(table, chosen, client, label, event, keep=keep)
        x, columns = _features(table, chosen, missing, warn=features is None)
    labels = NO_LABELS
    if label is not None and label in table.column_names:
        with problems.noted():
            where = f"column {label!r}"
            values = _label_column(table, label)
            if event is not None and event in table.column_names:
                values = with_events(values, _label_column(table, event), where)
            labels = read_labels(task, [values], None, where=where, advice="choose another label")
    if client in table.column_names:
        with problems.noted():
            known, number, counts = np.unique(_clients(table, client), return_inverse=True, return_counts=True)
            names = names_in(known, where=f"column {client!r}")
    problems.tell()
    split = Split(x, torch.from_numpy(labels.numbers[0]) if labels.numbers else None)
    rows = np.split(np.argsort(number, kind="stable"), np.cumsum(counts)[:-1]) if len(names) else []
    made = tuple(client_with(str(name), split, part) for name, part in zip(names, rows, strict=True))
    schema = Schema(
        (len(columns),), len(labels.classes), "tabular", labels.classes, columns, labels.type, missing, task
    )
    one_column = label if event is None else None  # from which labels of a later table could be read
    return Parts(schema, made, client_column=client, label_column=one_column)


def encode(frame: Any, schema: Schema) -> Tensor:
    """Later rows in a federation's own columns.

    Args:
        frame: A DataFrame of pandas or Polars, or a pyarrow Table. Columns that the federation does not have are left
            out.
        schema: What the federation's rows look like, with the names of its columns.

    Returns:
        The rows, NaN where a value is missing and the schema's rule allows it. [n, features], float32

    Raises:
        DataError: For all columns that are missing or cannot be used, missing values that are refused, and a text that
            is in none of the federation's rows.

    Examples:
        >>> import pyarrow
        >>> schema = Schema((3,), 0, "tabular", features=("age", "sex=f", "sex=m"))
        >>> encode(pyarrow.table({"sex": ["m"], "age": [30]}), schema)
        tensor([[30.,  0.,  1.]])
    """
    table, problems = _arrow(frame), Problems()
    marked = marked_numbers(schema.features)
    made_of: dict[str, list[str]] = {}
    for feature in (feature for feature in schema.features if feature not in marked):
        with problems.noted():
            name = column_of(feature, table.column_names)
            shorter = [other for other in table.column_names if other != name and feature.startswith(f"{other}=")]
            if name is not None and shorter:
                what = f"columns {name!r} and {shorter[0]!r} could both be meant by the feature {feature!r}"
                raise DataError(what, where="X", fix="rename or drop the one that the federation did not have")
            name = name or _required(feature.partition("=")[0], table.column_names)
            made_of.setdefault(name, []).append(feature)
    columns: dict[str, npt.NDArray[np.float32]] = {}
    for name, own in made_of.items():
        with problems.noted():
            columns |= zip(own, _later(table, name, own, schema.missing).T, strict=True)
    if len(problems.found) > 1:  # two features of one column lack the same one
        problems.found = list({str(error): error for error in problems.found}.values())
    problems.tell()
    rows = np.stack([columns[feature] for feature in schema.features if feature not in marked], axis=1)
    return with_markers(torch.from_numpy(rows), schema.features)


def left_out(frame: Any, schema: Schema, known: Sequence[str | None] = ()) -> list[str]:
    """The columns of a later table that are no features, and that nobody expects.

    Args:
        frame: Anything; what is no table has no such columns.
        schema: What the federation's rows look like, with the names of its columns.
        known: Other columns of the federation's table, such as that of its clients.

    Returns:
        Their names, but for those in which a tool numbered the rows.

    Examples:
        >>> import pyarrow
        >>> schema = Schema((1,), 0, "tabular", features=("age",))
        >>> left_out(pyarrow.table({"age": [30], "ward": ["a"], "name": ["b"]}), schema, ["ward"])
        ['name']
    """
    columns = column_names(frame) if schema.features else ()
    used = {column_of(feature, columns) for feature in schema.features}
    return [name for name in columns if name not in used and name not in known and not is_row_number(name)]


def unknown_texts(frame: Any, schema: Schema) -> dict[str, dict[str, int]]:
    """The texts of a later table that are none of the federation's: they count as missing, where that is allowed.

    Args:
        frame: A DataFrame of pandas or Polars, or a pyarrow Table.
        schema: What the federation's rows look like, with the names of its columns.

    Returns:
        By column, how many rows have each such text, the most frequent first. Columns without such are left out.

    Examples:
        >>> import pyarrow
        >>> schema = Schema((2,), 0, "tabular", features=("sex=f", "sex=m"))
        >>> unknown_texts(pyarrow.table({"sex": ["m", "M", None, "M"]}), schema)
        {'sex': {'M': 2}}
    """
    table, known = _arrow(frame), dict[str, list[str]]()
    for feature in schema.features:
        name = column_of(feature, table.column_names)
        if name is not None and feature != name:
            known.setdefault(name, []).append(feature.removeprefix(f"{name}="))
    found: dict[str, dict[str, int]] = {}
    for name, texts in known.items():
        if texts != [MARK]:  # that marks gaps of numbers
            counts = Counter(_as_texts(_column(table, name, f"column {name!r}")[1]).tolist())
            strange = {text: n for text, n in counts.most_common() if text not in texts and text != MARK}
            found |= {name: strange} if strange else {}
    return found


def number_columns(frame: Any, columns: Sequence[str], where: str) -> npt.NDArray[np.float32]:
    """Columns of numbers, as the table has them.

    Args:
        frame: A DataFrame of pandas or Polars, or a pyarrow Table.
        columns: Which columns.
        where: Whose they are, for messages.

    Returns:
        The numbers, NaN where a value is missing. [n, D], float32

    Raises:
        DataError: For all columns that hold no numbers.
    """
    table, problems, blocks = _arrow(frame), Problems(), []
    for name in columns:
        with problems.noted():
            place = f"{where}, column {name!r}"
            kind, values = _column(table, name, place)
            if kind != "number":
                fix = "give Federation.from_frame one table with all clients, which encodes texts, or leave it out"
                raise DataError("it holds texts, not numbers", where=place, fix=fix)
            blocks.append(number_block(values, where=place, missing="mean"))
    problems.tell()
    return np.concatenate(blocks, axis=1)


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
    return _label_column(table, require(column, table.column_names, where="column"))


def same_column(frame: Any, values: Values, name: Any = None) -> str | None:
    """The column that holds given values, row by row: it is what they were taken from.

    Args:
        frame: A DataFrame of pandas or Polars, or a pyarrow Table.
        values: Two or more different ones. [n]
        name: What the values are called. It is the column of this name where there is one that holds them. Others count
            in tables of 50 rows or more, for in smaller ones two columns may be equal by chance.

    Returns:
        The column's name, or None.

    Examples:
        >>> import pyarrow
        >>> same_column(pyarrow.table({"age": [30, 40], "ward": ["a", "b"]}), np.array(["a", "b"]), "ward")
        'ward'
    """
    table = _arrow(frame)
    found = copies(table, values.tolist())
    by_value = found if len(table) >= ENOUGH else []
    return next((column for column in found if column == name), next(iter(by_value), None))


def with_columns(frame: Any, columns: Mapping[str, Values], drop: Sequence[str] = ()) -> Any:
    """A table with more columns, row by row as they come; the index of pandas plays no part.

    Args:
        frame: A DataFrame of pandas or Polars, or a pyarrow Table.
        columns: Values by name. [n] each
        drop: The names of columns to leave out.

    Returns:
        A pyarrow Table.

    Raises:
        DataError: For another number of rows.
    """
    import pyarrow

    table = _arrow(frame).drop_columns(list(drop))
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


def _chosen(
    columns: Sequence[str], client: str, label: str | None, features: Sequence[str] | None, event: str | None = None
) -> Sequence[str]:
    """The columns that features are made of."""
    for where, column in (("client", client), ("label", label), ("event", event)):
        if column is not None:
            require(column, columns, where=where)
    if label == client:
        what = f"column {label!r} is the client and the label: each client's answer would be its name"
        raise DataError(what, where="label", fix="choose another label, or another column of clients")
    taken = {client: "the clients' names", label: "the label", event: "the event"}
    if features is None:
        rest = [name for name in columns if name not in taken]
        features = without_row_numbers(rest, where="frame", keep="name it in features")
    problems, features = Problems(), [_as_name(name) for name in features]
    for name in features:
        with problems.noted():
            require(name, columns, where="features")
            if name in taken:
                raise DataError(f"column {name!r} is {taken[name]}", where="features", fix="leave it out")
            if features.count(name) > 1:
                raise DataError(f"column {name!r} is named twice", where="features", fix="name it once")
    problems.tell()
    if not features:
        raise DataError("no column is left", where="features", fix="name at least one")
    return features


def _as_name(column: Any) -> str:
    """A column's name as text: tables of pandas without a header number their columns."""
    return column if isinstance(column, str) else str(column)


def _features(table: Any, chosen: Sequence[str], missing: Missing, *, warn: bool) -> tuple[Tensor, tuple[str, ...]]:
    """x [n, features] of the chosen columns, and the features' names."""
    import pyarrow

    problems, numbers = Problems(), []
    blocks: list[npt.NDArray[np.float32]] = []
    columns: list[str] = []
    for name in chosen:
        with problems.noted():
            where = f"column {name!r}"
            kind, values = _column(table, name, where)
            if kind != "number" and not pyarrow.types.is_dictionary(table.column(name).type):
                warn_of_numbers(values, where=where, keep='where they are categories, say .astype("category")')
            [block], new = encode_feature(
                [values], kind, name, where=where, missing=missing, advice="leave it out of features"
            )
            if kind == "number":
                numbers.append(name)
                if warn:
                    warn_of_counter(values, where=where)
            blocks.append(block)
            columns += new
    problems.tell()
    for text in (name for name in chosen if name not in numbers):
        for other in (other for other in chosen if other.startswith(f"{text}=")):
            what = f"column {other!r} is called as if it were a value of the column of texts {text!r}"
            raise DataError(what, where="features", fix="rename one of them")
    [[x]], names = mark([[torch.from_numpy(np.concatenate(blocks, axis=1))]], columns, numbers, missing)
    reserved = [name for name in chosen if name.endswith(f"={MARK}")]
    if (reserved and missing != "refuse") or any(name.removesuffix(f"={MARK}") in chosen for name in reserved):
        what = f"a column is called {reserved[0]!r}, which is how missing values are marked"
        raise DataError(what, where="features", fix="rename it")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"two features would be called {twice!r}", where="features", fix="rename one of the columns")
    return x, names


def _later(table: Any, name: str, own: Sequence[str], missing: Missing) -> npt.NDArray[np.float32]:
    """The features of one column of a later table."""
    where = f"column {name!r}"
    kind, values = _column(table, name, where)
    if list(own) == [name]:
        if kind != "number":
            values = _numbers_in_texts(values, where)
        return number_block(values, where=where, missing=missing)
    known = [feature.removeprefix(f"{name}=") for feature in own]
    return one_hot(_as_texts(values), known, where, missing)


def _as_texts(values: Values) -> Values:
    """Texts, those of whole decimals without the point: categories of numbers may come as numbers of either kind."""
    if values.dtype.kind == "f":
        plain = [MARK if v != v else str(int(v)) if v.is_integer() else str(v) for v in values.tolist()]
        return np.array(plain, dtype=str)
    return np.where(missing_texts(values), MARK, values).astype(str)


def _required(column: str, columns: Sequence[str]) -> str:
    """Refuse a later table that lacks a column."""
    guess = nearest(column, columns)
    raise DataError(
        f"no column {column!r}; there are {', '.join(columns) or 'none'}",
        where="X",
        fix=f"rename {guess!r} to {column!r}" if guess else "give all the columns that the federation had",
    )


def _numbers_in_texts(values: Values, where: str) -> Values:
    """Refuse texts where the federation has numbers; a column without any value may be of any type."""
    gaps = missing_texts(values)
    if gaps.all() and len(values):
        return np.full(len(values), np.nan)
    row = next((i for i, text in enumerate(values) if not gaps[i] and not is_number(text)), int(np.argmin(gaps)))
    what = f"it holds texts, but numbers in the federation; the first text is {values[row]!r} at row {row}"
    raise DataError(what, where=where, fix="give numbers")


def _opened(x: Any) -> DataFrame[Any] | None:
    """The table as narwhals sees it; None for what is no table."""
    import narwhals.stable.v2 as nw

    try:
        found = nw.from_native(x, eager_only=True, pass_through=True)
    except nw.exceptions.DuplicateError as error:
        raise _twice([str(name) for name in getattr(x, "column_names", x.columns)]) from error
    if nw.dependencies.is_polars_lazyframe(x):
        raise DataError("this is a LazyFrame, whose rows are not there yet", where="frame", fix="call .collect()")
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
    except (ValueError, TypeError, NotImplementedError) as error:  # as pyarrow's are
        reason = str(error.args[-1]).rstrip(".")
        raise DataError(f"a column cannot be read ({reason})", where="frame", fix="give it one type") from error
    if len(set(table.column_names)) < len(table.column_names):
        raise _twice(table.column_names)
    return table


def _twice(names: Sequence[str]) -> DataError:
    twice = next(name for name in names if names.count(name) > 1)
    return DataError(f"two columns are called {twice!r}", where="frame", fix="rename one of them")


def _column(table: Any, name: str, where: str) -> tuple[Kind, Values]:
    """What a column holds, and its values. Categories count as texts, whatever they are made of."""
    import pyarrow

    values, types = table.column(name), pyarrow.types
    kind: Kind = "text"
    if types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
        kind = "text"
    elif any(test(values.type) for test in (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal)):
        kind = "number"
    elif types.is_null(values.type):
        return "text", np.full(len(values), None, dtype=object)
    if kind == "text":
        if types.is_temporal(values.type):
            fix = "turn them into numbers, such as days since one of them, or leave the column out"
            raise DataError(f"it holds dates or times ({values.type})", where=where, fix=fix)
        if not any(test(values.type) for test in (types.is_string, types.is_large_string, types.is_string_view)):
            if not types.is_dictionary(table.column(name).type):
                what = f"it holds {values.type}, neither numbers nor texts"
                raise DataError(what, where=where, fix="convert it, or leave it out")
            values = _whole(values).cast(pyarrow.string())
    return kind, array_of(values)


def _whole(values: Any) -> Any:
    """Categories of decimals as whole numbers where all of them are."""
    import pyarrow

    if not pyarrow.types.is_floating(values.type):
        return values
    try:
        return values.cast(pyarrow.int64())
    except pyarrow.ArrowInvalid:
        return values


def _label_column(table: Any, name: str) -> Values:
    """Labels as they are; categories are what they are made of."""
    import pyarrow

    values, types = table.column(name), pyarrow.types
    if types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if types.is_temporal(values.type) or types.is_nested(values.type):
        what = f"it holds {values.type}, neither numbers nor texts"
        raise DataError(what, where=f"column {name!r}", fix="choose another label")
    found = array_of(values)
    return found.astype(bool) if types.is_boolean(values.type) and not values.null_count else found


def _clients(table: Any, name: str) -> Values:
    """Each row's client."""
    import pyarrow

    where, type_ = f"column {name!r}", table.column(name).type
    if pyarrow.types.is_temporal(type_):
        raise DataError(f"it holds dates or times ({type_}), and no names of clients", where=where, fix=AS_TEXTS)
    kind, values = _column(table, name, where)
    gaps = np.isnan(values) if values.dtype.kind == "f" else missing_texts(values)
    if gaps.any():
        what = f"{int(gaps.sum())} values are missing, the first at row {int(gaps.argmax())}"
        raise DataError(what, where=where, fix="drop the rows that belong to no client")
    return values if kind == "number" and values.dtype.kind != "O" else values.astype(str)
