"""Rows of one federation as a model of another takes them: columns and labels by name, never by place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from fedgmi.data import decode, encode
from fedgmi.data.federation import Federation
from fedgmi.data.rows import Client, Schema
from fedgmi.errors import DataError
from fedgmi.runs.whose import Array


class Labelled(NamedTuple):
    """Rows in the model's columns, and their labels.

    Attributes:
        x: [n, *shape]
        y: Class numbers of the model, or targets; None: there are none. [n]
    """

    x: Array
    y: Array | None


class Asked(NamedTuple):
    """A client to evaluate.

    Attributes:
        name: Its name.
        rows: Those that count.
        other: Its training rows, where those that count are held out.
    """

    name: str
    rows: Labelled
    other: Labelled | None = None


def rows_in(federation: Federation, schema: Schema, scale: tuple[Array, Array] | None) -> Iterator[Asked]:
    """The rows to evaluate on: held-out ones where there are any, else all that clients have.

    Args:
        federation: Any with the model's columns and labels.
        schema: The model's.
        scale: The model's; see `decode.value_columns`.

    Yields:
        Client by client.

    Raises:
        DataError: For columns or labels that the model does not have, and for those of another task.
    """
    if schema.labelled and federation.schema.labelled and federation.schema.task != schema.task:
        what = f"the federation's task is {federation.schema.task}, and the model's is {schema.task}"
        fix = f'give a federation of task="{schema.task}", or fit a model to this one'
        raise DataError(what, where="federation", fix=fix)
    places = _columns(federation.schema, schema, scale)
    classes = encode.classes(federation.schema) if federation.schema.n_classes else None

    def read(client: Client) -> Labelled:
        x, where = client.x.numpy(), f"client {client.name!r}"
        if places is not None:
            x = np.concatenate([x, np.zeros((len(x), 1), x.dtype)], axis=1)[:, places]
        y = None
        if client.y is not None and schema.task != "classification" and federation.schema.task == schema.task:
            y = client.y.numpy()
        elif client.y is not None and classes is not None and schema.n_classes:
            y = encode.labels(classes[client.y.numpy()], schema, len(x), where=where).numpy()
        return Labelled(x, y)

    if not federation.held_out:
        yield from (Asked(client.name, read(client)) for client in federation.clients)
        return
    for client, held in zip(federation.clients, federation.held_out, strict=True):
        yield Asked(held.name, read(held), read(client))


def _columns(found: Schema, wanted: Schema, scale: tuple[Array, Array] | None) -> list[int] | None:
    """Where the model's features are among the federation's; −1: a value that no row there has. None: all in order."""
    if found.shape != wanted.shape and not (found.features and wanted.features):
        what = f"rows have shape {found.shape}, and the model's have {wanted.shape}"
        raise DataError(what, where="federation", fix="give a federation with the columns of the one that was fitted")
    if found.features == wanted.features:
        return None
    values = {place for places in decode.value_columns(wanted, scale).values() for place in places}
    known = {feature: place for place, feature in enumerate(found.features)}
    for feature in found.features:
        if feature not in wanted.features:
            raise DataError(
                f"the model has no feature {feature!r}",
                where="federation",
                fix="leave it out, or these rows, or fit the model anew with them",
            )
    for place, feature in enumerate(wanted.features):
        if feature not in known and place not in values:
            raise DataError(f"there is no feature {feature!r}", where="federation", fix="give all the model's columns")
    return [known.get(feature, -1) for feature in wanted.features]
