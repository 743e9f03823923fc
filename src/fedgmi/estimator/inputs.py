"""What `fit` takes: a federation, clients one by one, or all rows with a name for each."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fedgmi.data.federation import Federation
from fedgmi.data.names import names_in
from fedgmi.data.rows import Missing
from fedgmi.data.sources.arrays import by_row, missing_values, numbers, plain_array
from fedgmi.data.sources.entries import is_pair
from fedgmi.data.sources.frames import column_names, same_column, with_columns
from fedgmi.data.sources.row_order import refuse_other_order
from fedgmi.data.sources.targets import targets
from fedgmi.errors import ConfigError, DataError, FedgmiWarning
from fedgmi.runs.config import Config
from fedgmi.settings.run import TaskName

WHERE = "FedGMI.fit"
HOW = "give a Federation, a list of (x, y), a dict of them by client, or all rows with groups="


def federation_of(
    X: Any, y: Any = None, groups: Any = None, missing: Missing = "refuse", task: TaskName = "classification"
) -> Federation:
    """The federation that is meant.

    Args:
        X: A federation; a list of (x, y) or x, one a client; a dict of such by client; or all rows [n, …] as a table or
            an array, with `groups`.
        y: With `groups`: the labels [n], the name of the table's column of labels, or None.
        groups: Each row's client [n], or the name of the table's column of clients.
        missing: The rule for missing values of all but a federation, which has its own.
        task: What labels are, of all but a federation.

    Returns:
        The federation.

    Raises:
        DataError: For what is none of these, or cannot be used.

    Warns:
        FedgmiWarning: Where a column of X holds what y or groups hold: it is the label or the client, and no feature.
    """
    if groups is not None:
        return _grouped(X, y, groups, missing, task)
    if y is not None:
        raise DataError("there are labels for all rows, and nobody says whose rows they are", where=WHERE, fix=HOW)
    if isinstance(X, Federation):
        return X
    if isinstance(X, Mapping):
        return Federation.from_arrays(X, missing=missing, task=task)
    if isinstance(X, Sequence) and not isinstance(X, str) and len(X) and all(map(_is_client, X)):
        return Federation.from_arrays(X, missing=missing, task=task)
    kind = "table" if column_names(X) else f"{type(X).__name__}"
    raise DataError(f"nobody says which client the rows of a {kind} belong to", where=WHERE, fix=HOW)


def check_missing(config: Config, federation: Federation) -> None:
    """Refuse a rule for missing values beside that of the federation.

    Raises:
        ConfigError: The settings say one, and the federation was made by another.
    """
    own = federation.schema.missing
    if "missing" in config.data.model_fields_set and config.data.missing != own:
        fix = f'say it where the federation is made: Federation.from_frame(..., missing="{config.data.missing}")'
        raise ConfigError(
            f'it is "{config.data.missing}", and the federation was made with "{own}"', where="data.missing", fix=fix
        )


def weights_of(given: Any, n_rows: int) -> npt.NDArray[np.float64] | None:
    """How much each row counts; None: all the same.

    Args:
        given: Numbers of at least 0, or None. [n]
        n_rows: n.

    Raises:
        DataError: For another number of weights, one that is below 0, missing or infinite, and where all are 0.
    """
    if given is None:
        return None
    where, fix = "sample_weight", "give a number of at least 0 for each row"
    plain = plain_array(given, where)
    numbers(plain, where)  # refuses what are none
    weights = plain.astype(float)
    if weights.shape != (n_rows,):
        raise DataError(f"the shape is {weights.shape} for {n_rows} rows", where=where, fix=fix)
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(wrong):
        raise DataError(f"it is {weights[wrong[0]]:g} at row {wrong[0]}", where=where, fix=fix)
    if not weights.any():
        raise DataError("all weights are 0", where=where, fix="give one row a weight above 0")
    return weights


def _is_client(entry: Any) -> bool:
    """(x, y), or rows: what a client may be in a list. A list of numbers is one row, and no client."""
    return isinstance(entry, tuple) or is_pair(entry) or bool(column_names(entry)) or np.ndim(entry) >= 2


def _grouped(X: Any, y: Any, groups: Any, missing: Missing, task: TaskName) -> Federation:
    if isinstance(X, Federation | Mapping):
        raise DataError("its clients have names already", where=f"{WHERE}, groups", fix="leave groups out")
    for what, value in (("y", y), ("groups", groups)):
        refuse_other_order(X, value, what, f"{WHERE}, {what}")
    columns = column_names(X)
    if not columns:
        for what, value in (("groups", groups), ("y", y)):
            if isinstance(value, str):
                fix = "give a table with that column, or an entry for each row"
                raise DataError(
                    f"rows without named columns have no column {value!r}", where=f"{WHERE}, {what}", fix=fix
                )
        return _from_arrays(X, y, _names(groups), missing, task)
    beside: dict[str, Any] = {}
    event = None
    if task == "survival" and (y is None or isinstance(y, str)):
        fix = "give y as times and events [n, 2], or Federation.from_frame(table, client, label=…, event=…)"
        raise DataError("a survival task needs times and events", where=f"{WHERE}, y", fix=fix)
    client, label = groups, y
    if not isinstance(groups, str):
        client = _taken_from(X, groups, "groups") or CLIENT
        beside |= {CLIENT: _names(groups)} if client == CLIENT else {}
    if task == "survival":
        label, event, new = _times_and_events(X, y)
        beside |= new
    elif y is not None and not isinstance(y, str):
        label = _taken_from(X, y, "y") or LABEL
        beside |= {LABEL: _flat(y, LABEL)} if label == LABEL else {}
    drop = _named_so([name for name in columns if name not in (client, label, event)], {"y": y, "groups": groups})
    frame = with_columns(X, beside, drop) if beside else X
    found = Federation.from_frame(frame, client, label, missing=missing, task=task, event=event)
    return replace(
        found,
        client_column=None if client == CLIENT else found.client_column,
        label_column=None if label == LABEL else found.label_column,
    )


CLIENT, LABEL, EVENT = "client (groups)", "label (y)", "event (y)"
"""Columns of our own beside a table's."""


def _times_and_events(X: Any, y: Any) -> tuple[str, str, dict[str, Any]]:
    """The table's columns of times and of events, and those of our own that are put beside it for want of such.

    The table's are taken where y names them. Others that hold the same are found by `Federation.from_frame`.
    """
    both = _flat(y, "y", 2)
    targets("survival", both, where=f"{WHERE}, y")  # refuses what is none
    named, beside, found = column_names(y) or (None, None), dict[str, Any](), list[str]()
    for values, name, own in zip(both.T, named, (LABEL, EVENT), strict=True):
        found.append(name if name is not None and same_column(X, values, name) == name else own)
        beside |= {own: values} if found[-1] == own else {}
    return found[0], found[1], beside


def _from_arrays(X: Any, y: Any, groups: Any, missing: Missing, task: TaskName) -> Federation:
    """Rows by client, clients in the order of their names, each with its rows in their order."""
    rows = plain_array(X, WHERE)
    labels = None if y is None else _flat(y, "y", 2 if task == "survival" else 1)
    for what, values in (("groups", groups), ("y", labels)):
        if values is not None and len(values) != len(rows):
            fix = f"give one entry of {what} for each row"
            raise DataError(f"{len(values)} of {what} for {len(rows)} rows", where=WHERE, fix=fix)
    known, number = np.unique(groups, return_inverse=True)
    clients = []
    for place in range(len(known)):
        mine = np.flatnonzero(number == place)
        clients.append(rows[mine] if labels is None else (rows[mine], labels[mine]))
    return Federation.from_arrays(
        clients, names=names_in(known, where=f"{WHERE}, groups").tolist(), missing=missing, task=task
    )


def _names(groups: Any) -> Any:
    """Each row's client: a name as text, or a number, by which clients are in order. [n]"""
    found = _flat(groups, "groups")
    gaps = missing_values(found)
    if gaps.any():
        what = f"{int(gaps.sum())} names are missing, the first at row {int(gaps.argmax())}"
        raise DataError(what, where=f"{WHERE}, groups", fix="drop the rows that belong to no client")
    return found if found.dtype.kind in "iuf" else names_in(found, where=f"{WHERE}, groups")


def _taken_from(X: Any, values: Any, what: str) -> str | None:
    """The table's column that y or groups were taken from: as a feature it would tell the answer."""
    name = getattr(values, "name", None)
    column = same_column(X, _flat(values, what), name)
    if column is not None and column != name:
        role = "label" if what == "y" else "client"
        told = f"column {column!r} holds what {what} holds. It is the {role}, and no feature"
        warnings.warn(FedgmiWarning(f"{told}. Likely fix: give {what}={column!r}"), stacklevel=5)
    return column


def _named_so(columns: Sequence[str], given: Mapping[str, Any]) -> list[str]:
    """The table's columns from which y or groups were made, as their names tell: `table.outcome == "ill"`."""
    found: list[str] = []
    for what, values in given.items():
        for name in column_names(values) or (getattr(values, "name", None),):
            if isinstance(name, str) and name in columns and name not in found:
                found.append(name)
                role = "label" if what == "y" else "client"
                told = f"{what} is called {name!r}, as a column is: that column tells the {role}, and is no feature"
                warnings.warn(FedgmiWarning(f"{told}. To use it all the same, rename {what}"), stacklevel=5)
    return found


def _flat(values: Any, what: str, width: int = 1) -> Any:
    """One entry a row, as an array; where two a row are meant, both."""
    found = by_row(values, f"{WHERE}, {what}")
    if found.ndim == 2 and found.shape[1] == width > 1:
        return found
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.ndim != 1:
        fix = "give one entry for each row"
        raise DataError(f"{what} has the shape {found.shape}", where=WHERE, fix=fix)
    return found
