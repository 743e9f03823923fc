"""Rows that a fitted model meets later: checked against what it was fitted on, in its own units and class numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedgmi.data.rows import Schema
from fedgmi.data.sources.frames import column_names, encode
from fedgmi.data.validate import check_features
from fedgmi.errors import DataError


def features(x: Any, schema: Schema, *, where: str = "x") -> Tensor:
    """Later rows as a model takes them.

    A DataFrame of pandas or Polars or a pyarrow Table is encoded as the federation's rows were. Pictures with one
    channel may come without that axis. A single row still needs its leading axis.

    Args:
        x: A table, an array, a tensor, or nested lists. [n, *shape]
        schema: What the federation's rows look like.
        where: What x is called in messages.

    Returns:
        The rows. [n, *shape], float32

    Raises:
        DataError: For another shape, no rows, or values that no model can take.

    Examples:
        >>> features([[1, 2]], Schema((2,), 0, "tabular"))
        tensor([[1., 2.]])
    """
    x = encode(x, schema) if schema.features and column_names(x) else x
    array = x if isinstance(x, Tensor) else torch.as_tensor(_numbers(x, where))
    rows = array.float()
    if rows.ndim == len(schema.shape) and schema.kind == "image" and schema.shape[0] == 1:
        rows = rows.unsqueeze(1)
    if tuple(rows.shape[1:]) != schema.shape or rows.ndim != len(schema.shape) + 1:
        expected = "×".join(["n", *map(str, schema.shape)])
        found = "×".join(map(str, array.shape)) or "that of a single number"
        raise DataError(
            f"the shape is {found}", where=where, fix=f"give rows of shape {expected}, as the federation's were"
        )
    check_features(rows, schema, where)
    return rows


def labels(y: Any, schema: Schema, n_rows: int, *, where: str = "y") -> Tensor:
    """Later labels as class numbers.

    Args:
        y: Labels as the federation's were given: whole numbers or texts. [n]
        schema: What the federation's rows look like.
        n_rows: n, how many rows of x there are.
        where: What y is called in messages.

    Returns:
        The class numbers. [n], int64

    Raises:
        DataError: For another shape, a label that the federation does not have, or a federation without labels.

    Examples:
        >>> labels(["dog", "cat"], Schema((2,), 2, "tabular", classes=("cat", "dog")), 2)
        tensor([1, 0])
    """
    if not schema.n_classes:
        raise DataError("the federation had no labels", where=where, fix="leave y out")
    values = np.asarray(y)
    if values.shape != (n_rows,):
        raise DataError(f"the shape is {values.shape} for {n_rows} rows", where=where, fix="give one label per row")
    known = classes(schema)
    lookup = {str(value): number for number, value in enumerate(known.tolist())}
    whole = values.astype(np.int64) if values.dtype.kind == "f" and bool((values == np.round(values)).all()) else values
    names = [str(value) for value in whole.tolist()]
    strange = next((row for row, name in enumerate(names) if name not in lookup), None)
    if strange is not None:
        raise DataError(
            f"label {names[strange]!r} at row {strange} is not among the federation's: {', '.join(lookup)}",
            where=where,
            fix="leave these rows out, or make the federation anew with them",
        )
    return torch.tensor([lookup[name] for name in names])


def classes(schema: Schema) -> npt.NDArray[Any]:
    """The labels as users know them.

    Args:
        schema: What the federation's rows look like.

    Returns:
        Whole numbers where all labels are whole numbers, texts otherwise. [L]

    Examples:
        >>> classes(Schema((2,), 2, "tabular", classes=("3", "5"))).tolist()
        [3, 5]
    """
    names = schema.classes or tuple(str(number) for number in range(schema.n_classes))
    whole = all(name.lstrip("-").isdigit() for name in names)
    return np.array([int(name) for name in names] if whole else names)


def _numbers(x: Any, where: str) -> npt.NDArray[Any]:
    array = np.asarray(x)
    if array.dtype.kind not in "fiub":
        fix = "encode it as the federation's rows were; Federation.from_frame does that for a table"
        raise DataError(f"it holds {array.dtype}, not numbers", where=where, fix=fix)
    return array
