"""Which client is meant: by its name first, by its place only where no name could be meant."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fedgmi.errors import DataError, nearest, sentence

WHOLE = re.compile(r"[+-]?\d+")

AS_TEXTS = "turn them into texts, such as frame[column].astype(str)"
NO_NAMES: tuple[tuple[str, tuple[type, ...], str, str], ...] = (
    ("M", (datetime.date, datetime.time, np.datetime64), "a date or time", AS_TEXTS),
    ("m", (datetime.timedelta, np.timedelta64), "a duration", AS_TEXTS),
    ("S", (bytes,), "bytes", 'decode them, with name.decode() or numpy.char.decode(names, "utf-8")'),
    ("c", (complex, np.complexfloating), "a complex number", "give a text or a whole number"),
    ("V", (np.void,), "a record", "give a text or a whole number"),
)
"""What names nobody, by the kind of an array and by type, and what to do about it."""


def client_name(value: Any, *, where: str = "names") -> str:
    """A client's name as text: names are texts everywhere, and 3 means the client "3".

    Whole numbers are often decimals in tables (3.0), where a column once had gaps. They mean the same client.

    Args:
        value: A text, a whole number, or anything else with a text of its own.
        where: Where it was given, for the message.

    Returns:
        The name.

    Raises:
        DataError: For truth values, fractions, dates, bytes and nothing, which name nobody.

    Examples:
        >>> client_name(3), client_name(3.0), client_name("ward 3")
        ('3', '3', 'ward 3')
    """
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    for _, types, what, fix in NO_NAMES:
        if isinstance(value, types):
            raise DataError(f"{str(value)[:40]} is {what}, and no name of a client", where=where, fix=fix)
    if value is None or isinstance(value, bool | np.bool_ | float | np.floating):
        raise DataError(f"{value!r} is no name of a client", where=where, fix="give a text or a whole number")
    return str(value)


def names_in(values: npt.NDArray[Any], *, where: str = "names") -> npt.NDArray[np.str_]:
    """The names in a column, as `client_name` has them.

    Args:
        values: A name for each row. [n]
        where: Where they were given, for the message.

    Returns:
        The names. [n]

    Raises:
        DataError: For what names nobody, and for a number and a text that would be one name.

    Examples:
        >>> names_in(np.array([101.0, 7.0])).tolist()
        ['101', '7']
    """
    if values.dtype.kind in "iuU":
        return values.astype(str)
    for kind, _, what, fix in NO_NAMES:
        if values.dtype.kind == kind:
            first = f"; the first is {values.flat[0]!s:.40}" if values.size else ""
            raise DataError(f"a name is {what}{first}", where=where, fix=fix)
    names = [client_name(name, where=where) for name in values.tolist()]
    texts = {name for name, value in zip(names, values.tolist(), strict=True) if isinstance(value, str)}
    for name, value in zip(names, values.tolist(), strict=True):
        if name in texts and not isinstance(value, str):
            what, fix = f"two clients have this name, {value!r} and {name!r}", "give each client its own"
            raise DataError(what, where=f"{where}, client {name!r}", fix=f"{fix}, or all names one type")
    return np.array(names, str)


def place_of(client: Any, names: Sequence[str], *, where: str = "client", advice: str = "") -> int:
    """The place of a client among the names.

    A whole number is a name where there is such a name. It is a place, from 0, only where no client's name is a whole
    number: among the sites 105, 3 and 20, nobody can tell what 2 means.

    Args:
        client: A name or a place.
        names: Of all clients, in their order.
        where: Where it was given, for the message.
        advice: What else might be done about a client that is not there.

    Returns:
        The place, from 0.

    Raises:
        DataError: For a client that is not there, and for what could be meant in two ways.

    Examples:
        >>> place_of("b", ["a", "b"]), place_of(1, ["a", "b"]), place_of(1, ["1", "0"])
        (1, 1, 0)
    """
    name = client_name(client, where=where)
    if name in names:
        return names.index(name)
    if isinstance(client, int | np.integer):
        if any(WHOLE.fullmatch(other) for other in names):
            what = f"no client is called {name}, and the clients' names are numbers, so that it is no place either"
            raise DataError(what, where=where, fix=_known(name, names, advice))
        if 0 <= client < len(names):
            return int(client)
        fix = f"give a name, or a place from 0 to {len(names) - 1}"
        raise DataError(f"there is no client {client}", where=where, fix=fix)
    raise DataError(
        f"no client of that name was in the federation: {name!r}", where=where, fix=_known(name, names, advice)
    )


def _known(name: str, names: Sequence[str], advice: str) -> str:
    guess = nearest(name, names)
    more = ", …" if len(names) > 10 else ""
    known = f"did you mean {guess!r}?" if guess else f"known: {', '.join(names[:10])}{more}"
    return f"{sentence(known)} {advice}" if advice else known
