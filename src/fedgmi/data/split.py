"""Parts of a federation: some of its clients, or some of every client's rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Real

import numpy as np
import torch

from fedgmi.data.rows import Client, Parts
from fedgmi.errors import ConfigError, DataError
from fedgmi.randomness import numpy_generator


def subset(parts: Parts, places: Iterable[int]) -> Parts:
    """Some of the clients, with all their rows.

    Args:
        parts: Those of a federation.
        places: Which clients, in the order in which they are wanted.

    Returns:
        Their parts. The schema stays: classes and columns mean what they meant.

    Raises:
        DataError: For no client, or one that is named twice.
    """
    chosen = list(places)
    if not chosen:
        raise DataError("no client is left", where="subset", fix="name at least one")
    if len(set(chosen)) < len(chosen):
        twice = next(place for place in chosen if chosen.count(place) > 1)
        raise DataError("it is named twice", where=f"client {parts.clients[twice].name!r}", fix="name it once")
    groups = (parts.clients, parts.validation, parts.held_out)
    clients, validation, held_out = (tuple(group[place] for place in chosen) if group else () for group in groups)
    return parts._replace(clients=clients, validation=validation, held_out=held_out)


def split_clients(parts: Parts, share: float, seed: int) -> tuple[Parts, Parts]:
    """All rows of some clients here, those of the others there. Who goes where does not depend on the clients' order.

    Args:
        parts: Those of a federation of two clients or more.
        share: Of the clients, for the second part; each part gets one at least.
        seed: Of the draw.

    Returns:
        The first part and the second.

    Raises:
        ConfigError: For a share outside (0, 1).
        DataError: For a single client.
    """
    names = sorted(client.name for client in parts.clients)
    if len(names) < 2:
        raise DataError("one client cannot be split in two", where="split", fix='split its rows, with over="rows"')
    taken = set(numpy_generator(seed, "split", "clients").permutation(names)[: _size(share, len(names))].tolist())
    there = [place for place, client in enumerate(parts.clients) if client.name in taken]
    here = [place for place in range(len(names)) if place not in there]
    return subset(parts, here), subset(parts, there)


def drawn(client: Client, share: float, *key: int | str, fewest: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Which of a client's rows stay, and which are taken. Both are in their order.

    Args:
        client: Whose.
        share: Of its rows.
        key: Of the draw; the client's name is added.
        fewest: Of a client with fewer rows none is taken.

    Returns:
        Places of rows. [n − m], [m]

    Raises:
        ConfigError: For a share outside (0, 1).
    """
    n = _size(share, len(client)) if len(client) >= fewest else 0
    order = numpy_generator(*key, client.name).permutation(len(client))
    return np.sort(order[n:]), np.sort(order[:n])


def split_rows(parts: Parts, share: float, seed: int) -> tuple[Parts, Parts]:
    """Some of every client's training rows here, the others there. Rows keep their order.

    Args:
        parts: Those of a federation. Rows for validation and held-out rows stay with the first part.
        share: Of each client's rows, for the second part. A client with a single row keeps it, and is not in the
            second part.
        seed: Of the draw, client by client.

    Returns:
        The first part and the second.

    Raises:
        ConfigError: For a share outside (0, 1).
        DataError: Where no client has two rows.
    """
    here, there = [], []
    for client in parts.clients:
        stay, taken = drawn(client, share, seed, "split", "rows")
        here.append(rows_of(client, stay))
        there += [rows_of(client, taken)] if len(taken) else []
    if not there:
        raise DataError("no client has two rows", where="split", fix='split the clients, with over="clients"')
    return parts._replace(clients=tuple(here)), parts._replace(clients=tuple(there), validation=(), held_out=())


def set_aside(parts: Parts, share: float, seed: int) -> Parts:
    """Some of every client's training rows become rows for validation.

    Args:
        parts: Those of a federation without rows for validation.
        share: Of each client's rows. A client with a single row keeps it.
        seed: Of the draw, client by client.

    Returns:
        The parts with rows for validation.

    Raises:
        ConfigError: For a share outside (0, 1).
        DataError: Where no client has two rows, and where there are rows for validation already.
    """
    if parts.validation:
        raise DataError("the federation has rows for validation", where="with_validation", fix="take it as it is")
    here, there = split_rows(parts, share, seed)
    taken = {client.name: client for client in there.clients}
    return here._replace(validation=tuple(taken.get(client.name, rows_of(client, [])) for client in here.clients))


def _size(share: float, total: int) -> int:
    number = isinstance(share, Real) and not isinstance(share, bool | np.bool_)
    if not number or not 0 < share < 1:
        found = f"{share:g}" if number else repr(share)
        raise ConfigError(f"share is {found}", where="split", fix="give a share between 0 and 1, such as 0.25")
    return min(max(1, round(share * total)), total - 1)


def rows_of(client: Client, rows: Sequence[int] | np.ndarray) -> Client:
    """The client with some of its rows alone."""
    index = torch.as_tensor(rows, dtype=torch.int64)
    return Client(client.name, client.x[index], None if client.y is None else client.y[index])
