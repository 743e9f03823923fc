"""Rows that a fitted model meets later: checked against what it was fitted on, in its own units and class numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedgmi.data.missing import marked_numbers, with_markers
from fedgmi.data.rows import Schema
from fedgmi.data.sources.arrays import by_row, channels_last, numbers, plain_array
from fedgmi.data.sources.frames import column_names, encode
from fedgmi.data.sources.labels import label_names, label_values
from fedgmi.data.sources.targets import targets
from fedgmi.data.validate import check_features, check_labels, check_ranges
from fedgmi.errors import DataError


def features(x: Any, schema: Schema, *, where: str = "x") -> Tensor:
    """Later rows as a model takes them.

    A DataFrame of pandas or Polars or a pyarrow Table is encoded as the federation's rows were. Pictures with one
    channel may come without that axis. A single row still needs its leading axis.

    Args:
        x: A table, an array, masked or not, a tensor, or nested lists. Where missing numbers are marked, an array may
            come with the columns that mark them or without. [n, *shape]
        schema: What the federation's rows look like.
        where: What x is called in messages.

    Returns:
        The rows. Where missing values are not refused, they are NaN. [n, *shape], float32

    Raises:
        DataError: For another shape, no rows, values that no model can take, or values outside the schema's ranges.

    Examples:
        >>> features([[1, 2]], Schema((2,), 0, "tabular"))
        tensor([[1., 2.]])
    """
    if schema.features and column_names(x):
        rows = encode(x, schema)
    else:
        rows = torch.from_numpy(numbers(plain_array(x, where), where))
    shape = tuple(rows.shape)
    if rows.ndim == len(schema.shape) and schema.kind == "image" and schema.shape[0] == 1:
        rows = rows.unsqueeze(1)
    if rows.ndim == 2 and rows.shape[1] == schema.n_features - len(marked_numbers(schema.features)):
        rows = with_markers(rows, schema.features)
    if tuple(rows.shape[1:]) != schema.shape or rows.ndim != len(schema.shape) + 1:
        expected = "×".join(["n", *map(str, schema.shape)])
        if marked_numbers(schema.features):
            own = len(marked_numbers(schema.features))
            expected = f"n×{schema.n_features - own}, or {expected} with the {own} that mark missing values"
        found = "×".join(map(str, shape)) or "that of a single number"
        fix = f"give rows of shape {expected}, as the federation's were"
        if schema.kind == "image" and shape[1:] == (*schema.shape[1:], schema.shape[0]):
            fix = channels_last(shape)
        raise DataError(f"the shape is {found}", where=where, fix=fix)
    check_features(rows, schema, where)
    check_ranges(rows, schema, where)
    return rows


def labels(y: Any, schema: Schema, n_rows: int, *, where: str = "y") -> Tensor:
    """Later labels as class numbers, or targets as numbers.

    Args:
        y: Labels as the federation's were given. The same whole number may come in another type. [n], or [n, 1]
        schema: What the federation's rows look like.
        n_rows: n, how many rows of x there are.
        where: What y is called in messages.

    Returns:
        The class numbers [n], int64; targets [n], float32.

    Raises:
        DataError: For another shape, a label that is missing or that the federation does not have, or a federation
            without labels.

    Examples:
        >>> labels(["dog", "cat"], Schema((2,), 2, "tabular", classes=("cat", "dog")), 2)
        tensor([1, 0])
    """
    if not schema.labelled:
        raise DataError("the federation had no labels", where=where, fix="leave y out")
    values = by_row(y, where)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if schema.task != "classification":
        found = torch.from_numpy(targets(schema.task, values, where=where))
        check_labels(found, n_rows, schema, where)
        return found
    if values.shape != (n_rows,):
        raise DataError(f"the shape is {values.shape} for {n_rows} rows", where=where, fix="give one label per row")
    values = label_values(values, where=where, advice="give labels as the federation's were")
    if (values.dtype.kind == "b") != (label_type(schema) == "bool"):  # 0 and 1 beside False and True
        other = values.astype(np.int64) if values.dtype.kind == "b" else values
        truth = other.dtype.kind in "iuf" and bool(((other == 0) | (other == 1)).all())
        values = other.astype(bool) if label_type(schema) == "bool" and truth else other
    lookup = {name: number for number, name in enumerate(_names(schema))}
    names = label_names(values)
    strange = [row for row, name in enumerate(names) if name not in lookup]
    if strange:
        row, fix = strange[0], "leave these rows out, or make the federation anew with them"
        if label_type(schema) == "str" and {names[row] for row in strange} <= {str(k) for k in range(len(lookup))}:
            fix = "if these are the numbers behind the classes' names, give model.classes_[y]"
        others = f" ({len(strange)} such rows)" if len(strange) > 1 else ""
        raise DataError(
            f"label {names[row]!r} at row {row} is not among the federation's: {', '.join(lookup)}{others}",
            where=where,
            fix=fix,
        )
    return torch.tensor([lookup[name] for name in names])


def classes(schema: Schema) -> npt.NDArray[Any]:
    """The labels as users know them.

    Args:
        schema: What the federation's rows look like.

    Returns:
        `numpy.unique` of the labels as they were given, in values and type. Where a data set names its classes, these
        names in its order. [L]

    Examples:
        >>> classes(Schema((2,), 2, "tabular", classes=("3", "5"), label_type="int64"))
        array([3, 5])
        >>> classes(Schema((2,), 2, "tabular", classes=("03", "3")))
        array(['03', '3'], dtype='<U2')
    """
    if not schema.n_classes:
        return np.empty(0, dtype=np.int64)
    kind, names = label_type(schema), _names(schema)
    if kind in ("str", "object"):
        return np.array(names, dtype=kind)
    if kind == "bool":
        return np.array([name == "True" for name in names])
    return np.array([int(name) for name in names], dtype=kind)


def label_type(schema: Schema) -> str:
    """What labels come back as; see `Schema.label_type`."""
    return schema.label_type or ("str" if schema.classes else "int64")


def _names(schema: Schema) -> tuple[str, ...]:
    return schema.classes or tuple(str(number) for number in range(schema.n_classes))
