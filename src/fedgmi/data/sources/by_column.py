"""Clients as the data give them: by writer, by hospital, by device."""

from __future__ import annotations

import re
import warnings

import numpy as np
import numpy.typing as npt

from fedgmi.data.names import names_in
from fedgmi.data.rows import Client, Parts
from fedgmi.data.sources.sources import Source, Split, client_with
from fedgmi.errors import DataError, FedgmiWarning
from fedgmi.randomness import numpy_generator

DECIMAL = re.compile(r"\d+\.0")
"""A whole number as decimals are written."""
MIN_ROWS = 20
"""A value of the column is a client where it has so many rows or more, unless the settings say otherwise."""
VALIDATION_SHARE = 0.1


def split_by_column(
    source: Source,
    column: str,
    *,
    n_clients: int | None = None,
    rows_per_client: int | None = None,
    held_out_rows: int | None = None,
    min_rows: int | None = None,
    validation_share: float = VALIDATION_SHARE,
    seed: int = 0,
) -> Parts:
    """Make clients of the values of a column that have 20 rows or more in the train split.

    Of each client's rows of the train split a tenth is for validation. Held out are its rows of the test split. Where
    the data have no test split, or the client no rows in it, a fifth of its rows of the train split is held out.
    Training has the rest. So the test rows are always those that the data's authors chose, and without rows for
    validation the training rows are as well.

    Args:
        source: A data set with this column among its split's.
        column: It names each row's client.
        n_clients: How many of the values to choose by the seed; all by default.
        rows_per_client: At most so many training rows a client; all by default.
        held_out_rows: At most so many rows of the test split are held out, drawn by the seed. Of the train split, so
            many in place of a fifth, but half of a client's rows at most.
        min_rows: So many rows of the train split make a value a client; None: 20.
        validation_share: The part of each client's rows of the train split that is for validation, one row at least
            where another is left to train on; 0: there are no rows for validation.
        seed: The choice of clients and the split of their rows follow from it.

    Returns:
        The schema and the clients, in the order of their names. A FedgmiWarning says what is left out of the data.

    Raises:
        DataError: Where too few values have so many rows.
    """
    min_rows = MIN_ROWS if min_rows is None else min_rows
    row_names = _names(source.train, column)
    test_names = _names(source.test, column) if source.test is not None else row_names[:0]
    names, counts = np.unique(row_names, return_counts=True)
    large = names[counts >= min_rows]
    wanted = n_clients or max(1, len(large))
    if len(large) < wanted:
        raise DataError(
            f"{wanted} client{'s are' if wanted > 1 else ' is'} asked for, but {len(large)} of {len(names)} "
            f"values have {min_rows} rows or more",
            where=f"scenario.client_column {column!r}",
            fix=f"set scenario.n_clients to {len(large)} or less" if len(large) else _fewer(min_rows),
        )
    chosen = np.sort(numpy_generator(seed, "by-column", "clients").choice(large, wanted, replace=False))
    made: tuple[list[Client], list[Client], list[Client]] = ([], [], [])
    untested: list[str] = []
    for name in chosen.tolist():
        rows = numpy_generator(seed, "by-column", "rows", name).permutation(np.flatnonzero(row_names == name))
        tested = numpy_generator(seed, "by-column", "test rows", name).permutation(np.flatnonzero(test_names == name))
        n_held_out = 0 if len(tested) else min(held_out_rows or max(1, len(rows) // 5), len(rows) // 2)
        n_validation = max(1, int(len(rows) * validation_share)) if validation_share else 0
        n_validation = min(n_validation, len(rows) - n_held_out - 1)  # a last row is for training
        later, for_choice, train = np.split(rows, [n_held_out, n_held_out + n_validation])
        untested += [name] if source.test is not None and not len(tested) else []
        for clients, part in zip(made[:2], (train[:rows_per_client], for_choice), strict=True):
            clients.append(client_with(name, source.train, part))
        held = client_with(name, source.train, later)
        if source.test is not None and len(tested):
            held = client_with(name, source.test, np.sort(tested[:held_out_rows]))
        made[2].append(held)
    kept = sum(len(client) for group in made for client in group)
    _tell(source, row_names, test_names, chosen, kept, untested, min_rows)
    training, validation, held_out = (tuple(group) for group in made)
    validation = validation if any(map(len, validation)) else ()
    return Parts(source.schema, training, validation, held_out, column, source.label_column)


def _fewer(min_rows: int) -> str:
    return "choose another column" + (", or set scenario.min_rows to a smaller number" if min_rows > 1 else "")


def _names(split: Split, column: str) -> npt.NDArray[np.str_]:
    """Each row's client, as text."""
    names = names_in(np.array(split.columns[column]), where=f"column {column!r}")
    if all(DECIMAL.fullmatch(name) for name in set(names.tolist())):  # a text file's, where a gap once made decimals
        names = np.array([name.removesuffix(".0") for name in names.tolist()], str)
    return names


def _tell(
    source: Source,
    row_names: npt.NDArray[np.str_],
    test_names: npt.NDArray[np.str_],
    chosen: npt.NDArray[np.str_],
    kept: int,
    untested: list[str],
    min_rows: int,
) -> None:
    """Say what is left out of the data, and whose held-out rows are no test rows."""
    there, told = len(source.train) + (0 if source.test is None else len(source.test)), []
    names, counts = np.unique(row_names, return_counts=True)
    large = names[counts >= min_rows]
    if kept < there:
        mine = sum(int(np.isin(group, chosen).sum()) for group in (row_names, test_names))
        causes = [
            (len(names) - len(large), f"clients with fewer than {min_rows} rows"),
            (len(large) - len(chosen), "clients beyond scenario.n_clients"),
            (len(np.setdiff1d(test_names, names)), "clients in the test split alone"),
            (mine - kept, "rows beyond rows_per_client or held_out_rows"),
        ]
        why = ", ".join(f"{what}: {n}" for n, what in causes if n)
        told.append(f"{kept} of {there} rows are used, of {len(chosen)} clients. Left out are {why}")
    if untested:
        few = ", ".join(untested[:5]) + (", …" if len(untested) > 5 else "")
        told.append(f"no test rows for {len(untested)} clients ({few}): some of their train split are held out")
    for what in told:
        warnings.warn(FedgmiWarning(f"{source.name}: {what}"), stacklevel=4)
