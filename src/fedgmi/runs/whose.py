"""Whose proportions are meant: a client's by name or place, or proportions that stand for one; one for all rows, or one
a row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fedgmi.data.names import names_in, place_of
from fedgmi.data.sources.arrays import by_row, missing_values
from fedgmi.errors import DataError
from fedgmi.runs.fitted import Fitted
from fedgmi.tree import Tree

Array = npt.NDArray[Any]
ADVICE = "For a new client give infer_weights(x) in its place, or with labels welcome(x, y)"


class Member(NamedTuple):
    """Whose rows they are.

    Attributes:
        weights: The client's proportions. [K]
        place: Its place in the federation; None for one that was not there.
        own: What one that was not there has of its own; None: nothing.
    """

    weights: Array
    place: int | None = None
    own: Tree | None = None


def member(model: Fitted, client: Any) -> Member:
    """Who is meant by one name, place or proportions.

    Args:
        model: With the clients that it was fitted to.
        client: A name, a place among the names where no name could be meant, or proportions [K] themselves.

    Returns:
        The client.

    Raises:
        DataError: For a client that was not in the federation, or numbers that are no proportions.
    """
    if isinstance(client, str | int | float | bool | np.number | np.bool_):
        place = place_of(client, model.names, advice=ADVICE)
        return Member(np.asarray(model.proportions[place].detach().cpu().numpy()), place)
    try:
        given = np.asarray(client, dtype=float)
    except (TypeError, ValueError) as error:
        what = f"a {type(client).__name__} is neither a client nor proportions"
        raise DataError(what, where="client", fix="give a name, a name for each row, or proportions") from error
    if given.shape != (model.n_components,) or not np.isclose(given.sum(), 1.0, atol=1e-4) or given.min() < 0:
        fix = f"give {model.n_components} shares of at least 0 that sum to 1, or the name of a client"
        raise DataError(f"{np.round(given, 4).tolist()} are no proportions", where="client", fix=fix)
    return Member(given, own=getattr(client, "own", None))


def by_client(model: Fitted, client: Any, n_rows: int) -> Iterator[tuple[Array, Member]]:
    """The rows of each client that is asked for, and whose they are.

    Args:
        model: With the clients that it was fitted to.
        client: As `member` takes it, or a name for each row. [n]
        n_rows: n.

    Yields:
        Which rows, by index, ascending, and their client.

    Raises:
        DataError: For a client that was not in the federation, for names of another number of rows, and for whole
            numbers that could be names or proportions.
    """
    names = _names_by_row(model, client, n_rows)
    if names is None:
        yield np.arange(n_rows), member(model, client)
        return
    first = {name: row for row, name in reversed(list(enumerate(names)))}
    places = {
        name: place_of(name, model.names, where=f"client, row {row}", advice=ADVICE) for name, row in first.items()
    }
    of_row = np.array([places[name] for name in names])
    for place in sorted(set(places.values())):
        yield np.flatnonzero(of_row == place), member(model, model.names[place])


def _names_by_row(model: Fitted, client: Any, n_rows: int) -> list[Any] | None:
    """A name for each row; None where one client, or proportions, are meant for all rows."""
    if isinstance(client, str) or hasattr(client, "identified"):
        return None
    given = by_row(client, "client")
    if given.dtype.kind in "MmScV":  # what names nobody, and is no proportions
        names_in(np.atleast_1d(given), where="client")
    named = "OUSiub" if n_rows == model.n_components else "OUSiubf"
    if given.ndim != 1 or given.dtype.kind not in named or (given.dtype.kind == "f" and len(given) != n_rows):
        return None
    gaps = missing_values(given)
    if gaps.any():
        row = int(gaps.argmax())
        raise DataError("the name is missing", where=f"client, row {row}", fix="leave out the rows of nobody")
    if given.dtype.kind in "iu" and len(given) == model.n_components and given.sum() == 1 and given.min() >= 0:
        if len(given) != n_rows:
            return None
        what = f"{given.tolist()} could be the names of {n_rows} clients, and proportions"
        raise DataError(what, where="client", fix="give names as texts, or proportions as floats")
    if len(given) != n_rows:
        fix = "give one name for all rows, or a name for each"
        raise DataError(f"there are {len(given)} names for {n_rows} rows", where="client", fix=fix)
    return list(given.tolist())
