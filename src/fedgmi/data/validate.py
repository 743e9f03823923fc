"""Refuse rows that no method can use, before anything is trained on them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from fedgmi.data.missing import RULE
from fedgmi.data.problems import Problems
from fedgmi.data.rows import Client, Parts, Schema
from fedgmi.errors import DataError, FedgmiWarning, unknown
from fedgmi.settings.run import TASKS, TaskName

VALIDATION = " (validation)"
"""After the names of clients, where their rows for validation are meant."""


def check_parts(parts: Parts) -> None:
    """Refuse clients whose rows cannot be used. A client with one row, with rows of one class, or without rows for
    validation, is fine.

    Args:
        parts: All that the federation is made of.

    Raises:
        DataError: For no clients, two of one name, other clients in validation or held-out rows, labels for some
            clients alone, and rows or labels that no method can take. It names every client and column.
    """
    if not parts.clients:
        raise DataError("there is no client", where="federation", fix="give it at least one")
    names = tuple(client.name for client in parts.clients)
    repeated = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if repeated is not None:
        raise DataError("two clients have this name", where=f"client {repeated!r}", fix="give each client its own")
    labelled = parts.clients[0].y is not None
    groups = {"": parts.clients, VALIDATION: parts.validation, " (held-out)": parts.held_out}
    problems, empty = Problems(), {client.name for client in parts.clients if not len(client)}
    for group, clients in groups.items():
        _check_names(group, clients, names)
        for client in clients:
            if group and client.name in empty:
                continue  # it is told once
            if group == VALIDATION and not len(client) and (client.y is not None) == labelled:
                continue
            with problems.noted():
                _check_client(client, parts.schema, labelled, f"client {client.name!r}{group}")
    problems.tell()


def check_task(task: str) -> TaskName:
    """Refuse a task that there is not.

    Raises:
        ConfigError: It names those that there are.
    """
    if task not in TASKS:
        raise unknown("task", str(task), TASKS, "task")
    return task


def check_learnable(schema: Schema, clients: Sequence[Client]) -> None:
    """Refuse targets from which nothing can be learnt. Rows that a fitted model is asked about may have such.

    A FedgmiWarning names the clients of which that is true, where others have what is to be learnt.

    Args:
        schema: What rows look like.
        clients: With their training rows.

    Raises:
        DataError: For a target that is the same everywhere, and for times of which none ended in an event.
    """
    if schema.task == "classification":
        return
    without = [client.name for client in clients if teaches_nothing(schema, client)]
    if len(without) == len(clients):
        y = torch.cat([client.y for client in clients if client.y is not None])
        if schema.task == "survival" or bool((y == y[0]).all()):
            raise nothing_to_learn(schema.task, len(y), float(y.flatten()[0]))
    if without:
        few = ", ".join(map(repr, without[:5])) + (", …" if len(without) > 5 else "")
        what, so = TEACHES_NOTHING[schema.task]
        whose = f"{what} the training rows of {len(without)} of {len(clients)} clients ({few})"
        warnings.warn(FedgmiWarning(f"{whose}: {so}"), stacklevel=3)


TEACHES_NOTHING = {
    "regression": ("one target in all", "a model of their own alone predicts that number everywhere"),
    "survival": (
        "no event in",
        "such rows say how long nothing happened, and not to whom it would. A model of their own alone learns no order",
    ),
}
"""Of a client that can be among others: what its rows have, and what follows."""


def teaches_nothing(schema: Schema, client: Client) -> bool:
    """Whether a client's own rows say nothing of how the target depends on x: no event, or one target in several rows.

    Args:
        schema: Which task it is.
        client: With its training rows.

    Returns:
        Whether it is so; False for classes, where rows of one class are as good as others.
    """
    if client.y is None or schema.task == "classification":
        return False
    if schema.task == "survival":
        return not bool(client.y[:, 1].any())
    return len(client) > 1 and bool((client.y == client.y[0]).all())


def nothing_to_learn(task: str, n_rows: int, value: float = 0.0, *, nearly: bool = False) -> DataError:
    """The error for targets of a whole federation from which nothing can be learnt.

    Args:
        task: "regression" or "survival".
        n_rows: How many training rows there are.
        value: The target of all of them, with regression.
        nearly: Whether that is known from sums alone, as far as 32 bits tell.

    Returns:
        The error, to be raised.
    """
    what, fix = (
        f"there is no event in any of {n_rows} training rows",
        "choose another column of events, or swap 0 and 1",
    )
    if task == "regression":
        what, fix = (
            f"the target is {value:g} in all {n_rows} training rows" + ", as far as 32 bits tell" * nearly,
            "choose another column: there is nothing to predict" + ", or give larger numbers, in another unit" * nearly,
        )
    return DataError(what, where="federation, labels", fix=fix)


def _check_client(client: Client, schema: Schema, labelled: bool, where: str) -> None:
    check_features(client.x, schema, where)
    if client.y is None and schema.task != "classification":
        fix = "give (x, y), or name the column of targets; rows without labels have no task"
        raise DataError(f"there are no targets, and the task is {schema.task}", where=where, fix=fix)
    if (client.y is not None) != labelled:
        raise DataError(
            "some clients have labels and others have none", where=where, fix="give labels for all, or for none"
        )
    if client.y is not None:
        check_labels(client.y, len(client), schema, where)


def check_features(x: Tensor, schema: Schema, where: str) -> None:
    """Refuse features that no method can take.

    Args:
        x: The features, which should be finite, and those of pictures in [0, 1]. [n, *shape], float32, n ≥ 1
        schema: What rows should look like.
        where: Whose they are, for the message.

    Raises:
        DataError: For no rows, another shape or type, and values that are infinite, outside [0, 1], or missing
            where the schema refuses that. It names all columns that have such values.
    """
    if not len(x):
        raise DataError("it has no rows", where=where, fix="give at least one, or leave the client out")
    if tuple(x.shape[1:]) != schema.shape:
        raise DataError(
            f"rows have shape {tuple(x.shape[1:])}, but the schema says {schema.shape}",
            where=where,
            fix="bring all clients' rows to one shape",
        )
    if x.dtype != torch.float32:
        raise DataError(f"x is {x.dtype}", where=where, fix="convert it with x.float()")
    problems = Problems()
    for column in (~torch.isfinite(x)).flatten(1).any(0).nonzero().flatten().tolist():
        with problems.noted():
            _check_column(x.flatten(1)[:, column], schema, f"{where}, column {_column_name(schema, column)}")
    problems.tell()
    if schema.kind == "image" and (x.min() < 0 or x.max() > 1):
        raise DataError(
            f"pictures have values from {x.min():g} to {x.max():g}, outside 0..1", where=where, fix=_range_fix(x)
        )


def check_ranges(x: Tensor, schema: Schema, where: str) -> None:
    """Refuse values outside the ranges that were agreed on, in training and ever after.

    Args:
        x: The features, NaN where a value is missing. [n, D]
        schema: Its ranges, and the names of the features. Ranges of others are not looked at.
        where: Whose they are, for the message.

    Raises:
        DataError: It names all columns that have such values, each with how many there are and the first.

    Examples:
        >>> age = Schema((1,), 0, "tabular", features=("age",), ranges=(("age", 0, 120),))
        >>> check_ranges(torch.tensor([[35.0], [420.0]]), age, "rows.csv")
        Traceback (most recent call last):
        fedgmi.errors.DataError: rows.csv, column 'age': 1 value is outside the federation's range [0, 120], the first \
420 at row 1. Likely fix: correct or drop these rows; is the column in the federation's unit?
    """
    problems = Problems()
    for name, *limits in schema.ranges:
        if name not in schema.features:
            continue
        values = x[:, schema.features.index(name)]
        least, greatest = x.new_tensor(limits)  # at the precision of the rows
        outside = ((values < least) | (values > greatest)).nonzero().flatten()
        with problems.noted():
            if len(outside):
                row, several = int(outside[0]), len(outside) > 1
                raise DataError(
                    f"{len(outside)} value{'s are' if several else ' is'} outside the federation's range "
                    f"[{limits[0]:g}, {limits[1]:g}], the first {values[row]:g} at row {row}",
                    where=f"{where}, column {name!r}",
                    fix="correct or drop these rows; is the column in the federation's unit?",
                )
    problems.tell()


def check_labels(y: Tensor, n_rows: int, schema: Schema, where: str) -> None:
    """Refuse labels that no method can take.

    Args:
        y: Class numbers from 0 to L − 1 [n], int64; targets [n], float32.
        n_rows: n, how many rows of x there are.
        schema: How many classes L there should be.
        where: Whose they are, for the message.

    Raises:
        DataError: For another shape or type, and numbers out of range.
    """
    where = f"{where}, labels"
    if schema.task != "classification":
        _check_targets(y, (n_rows, 2) if schema.task == "survival" else (n_rows,), where)
        return
    if tuple(y.shape) != (n_rows,):
        raise DataError(f"the shape is {tuple(y.shape)} for {n_rows} rows", where=where, fix="give one label per row")
    if y.dtype != torch.int64:
        raise DataError(
            f"labels are {y.dtype}, not int64", where=where, fix="number the classes and convert with y.long()"
        )
    outside = y[(y < 0) | (y >= schema.n_classes)]
    if len(outside):
        raise DataError(
            f"label {int(outside[0])} is out of range 0..{schema.n_classes - 1}",
            where=where,
            fix="number the classes from 0, or correct schema.n_classes",
        )


def _check_targets(y: Tensor, shape: tuple[int, ...], where: str) -> None:
    """Refuse targets of another shape or type, or that are not finite."""
    if tuple(y.shape) != shape:
        one = "one target per row" if len(shape) == 1 else "a time and an event per row"
        raise DataError(f"the shape is {tuple(y.shape)} for {shape[0]} rows", where=where, fix=f"give {one}")
    if y.dtype != torch.float32:
        raise DataError(f"targets are {y.dtype}, not float32", where=where, fix="convert them with y.float()")
    if not bool(y.isfinite().all()):
        bad = (~y.isfinite()).nonzero()
        raise DataError(
            f"{len(bad)} targets are not finite, the first at row {int(bad[0, 0])}", where=where, fix="drop these rows"
        )


def check_scalable(schema: Schema) -> None:
    """Refuse to standardise pictures.

    Args:
        schema: What rows look like.

    Raises:
        DataError: For pictures, which are in [0, 1] already.
    """
    if schema.kind == "image":
        raise DataError(
            "pictures are in [0, 1] already", where="data.standardise", fix='leave it "auto", or set it to false'
        )


def _check_names(group: str, clients: Sequence[Client], names: tuple[str, ...]) -> None:
    found = tuple(client.name for client in clients)
    if found and found != names:
        odd = next((a for a, b in zip(found, names, strict=False) if a != b), f"{len(found)} instead of {len(names)}")
        raise DataError(
            f"the clients are not the training clients in the same order (first difference: {odd})",
            where=f"federation{group}",
            fix="give every client its rows under the same name",
        )


def _check_column(values: Tensor, schema: Schema, where: str) -> None:
    """Refuse a column's values, some of which are not finite. [n]"""
    missing, infinite = values.isnan(), values.isinf()
    n = len(values)
    if missing.any() and (schema.missing == "refuse" or schema.kind == "image"):
        rule = "" if schema.kind == "image" else RULE
        raise DataError(
            f"{int(missing.sum())} of {n} values are missing (NaN), the first at row {int(missing.nonzero()[0])}",
            where=where,
            fix=f"fill or drop these rows{rule}",
        )
    if infinite.any():
        raise DataError(
            f"{int(infinite.sum())} of {n} values are infinite, or too large for 32 bits, the first at row "
            f"{int(infinite.nonzero()[0])}",
            where=where,
            fix="correct or drop these rows, or leave the column out",
        )


def _range_fix(x: Tensor) -> str:
    """How pictures, or what was taken for them, come into [0, 1]."""
    least, greatest = float(x.min()), float(x.max())
    whole = bool((x == x.round()).all())
    if least < 0 and least >= -1 and greatest <= 1:
        return "add 1 and divide by 2, as pictures in [-1, 1] need"
    if least >= 0 and greatest <= 255 and whole:
        return "divide by 255"
    if least >= 0 and greatest <= 65535 and whole:
        return "divide by the greatest value that a pixel can have: 4095 with 12 bits, 65535 with 16"
    series = "if these are no pictures but series or tables, give each row as one vector: x.reshape(len(x), -1)"
    return f"bring pictures to 0..1; {series}"


DARK = 1 / 16
"""No pixel of any picture is brighter than this: they were scaled twice, or 12 bits were stored as 16."""


def warn_of_range(pictures: Sequence[Tensor], where: str) -> None:
    """Warn of pictures that are all but black.

    Args:
        pictures: With values in [0, 1]. [n, channels, height, width] each
        where: Where they come from.
    """
    there = [x for x in pictures if x.numel()]
    greatest = max((float(x.max()) for x in there), default=1.0)
    if greatest <= DARK:
        why = "Were they divided twice, or stored with fewer bits?"
        warnings.warn(FedgmiWarning(f"{where}: no pixel is brighter than {greatest:.3g} of 1. {why}"), stacklevel=3)


def _column_name(schema: Schema, column: int) -> str:
    if schema.features:
        return repr(schema.features[column])
    place = torch.unravel_index(torch.tensor(column), schema.shape)
    return str(tuple(int(i) for i in place))
