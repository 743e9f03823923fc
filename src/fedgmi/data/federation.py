"""A federation: clients, their rows, and what all of them have in common (the schema)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fedgmi import tree
from fedgmi.data import build
from fedgmi.data.rows import Client, Parts, Schema, rescale
from fedgmi.data.sources import frames
from fedgmi.data.standardise import Standardisation, feature_sums, standardisation
from fedgmi.data.validate import check_parts
from fedgmi.errors import DataError
from fedgmi.tree import Tree


@dataclass(frozen=True)
class Federation:
    """Clients with their training rows; validation and held-out rows under the same names.

    `from_arrays`, `from_frame` and `from_dataset` make one from your own rows, and check them.
    """

    schema: Schema
    clients: tuple[Client, ...]
    validation: tuple[Client, ...] = ()
    held_out: tuple[Client, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(client.name for client in self.clients)

    @classmethod
    def from_arrays(
        cls,
        clients: Sequence[Any],
        *,
        names: Sequence[str] | None = None,
        validation: Sequence[Any] | None = None,
        held_out: Sequence[Any] | None = None,
    ) -> Federation:
        """A federation of arrays or tensors, one entry (x, y) or x per client.

        x: a table [n, features], or pictures [n, height, width] or [n, channels, height, width] in [0, 1] · y [n]:
        classes as whole numbers or texts; they are numbered over all clients, and `schema.classes` names them
        · names: "client-00", … by default · validation, held_out: as `clients`, in the same order.
        Raises DataError where rows cannot be used: no client, shapes that differ, NaN, labels for some alone, ….

        >>> rows = [[1.5, 0.0], [2.5, 1.0]]
        >>> federation = Federation.from_arrays([(rows, ["cat", "dog"]), (rows, ["cat", "cat"])])
        >>> federation.names, federation.schema.classes, federation.clients[0].y
        (('client-00', 'client-01'), ('cat', 'dog'), tensor([0, 1]))
        """
        return _checked(cls(*build.from_arrays(clients, names=names, validation=validation, held_out=held_out)))

    @classmethod
    def from_frame(
        cls, frame: Any, client: str, label: str | None = None, features: Sequence[str] | None = None
    ) -> Federation:
        """A federation from one table that says whose row a row is: a pandas DataFrame or a pyarrow Table.

        Numbers and truth values become one column each, texts and categories one column `name=value` per value.
        client: the column of clients' names · label: the column of classes, or None · features: the columns to use;
        all others by default. Raises DataError for unknown columns, missing values, and columns of another kind.

        >>> import pyarrow
        >>> columns = {"ward": ["a", "b", "a"], "age": [30, 40, 50], "sex": ["f", "m", "m"]}
        >>> federation = Federation.from_frame(pyarrow.table(columns), client="ward")
        >>> federation.schema.features, federation.clients[0].x.tolist()
        (('age', 'sex=f', 'sex=m'), [[30.0, 1.0, 0.0], [50.0, 0.0, 1.0]])
        """
        return _checked(cls(*frames.from_frame(frame, client, label, features)))

    @classmethod
    def from_dataset(
        cls,
        path: str,
        client: str,
        label: str | None = None,
        features: Sequence[str] | None = None,
        *,
        n_clients: int | None = None,
        rows_per_client: int | None = None,
        held_out_rows: int | None = None,
        seed: int = 0,
        **data: Any,
    ) -> Federation:
        """A federation from a local folder or file, or a Hugging Face hub id: tables or pictures.

        The way of the `by-column` scenario: clients are the values of the column `client` with 20 rows or more; a
        fifth of each client's rows is held out and a tenth is for validation. label, features: columns; by default a
        column that is or is called a label, and all other numbers and texts. n_clients: a seeded choice of so many;
        rows_per_client: training rows, at most; both all by default · data: further settings of the section `data`,
        such as train_split, image_column or max_rows.
        """
        parts = build.from_dataset(
            path,
            client,
            label,
            features,
            n_clients=n_clients,
            rows_per_client=rows_per_client,
            held_out_rows=held_out_rows,
            seed=seed,
            data=data,
        )
        return _checked(cls(*parts))

    def standardisation(self) -> Standardisation:
        """What brings a table's numbers to mean 0 and deviation 1 over all clients' training rows.

        Each client contributes sums alone; see `fedgmi.data.standardise`. Raises DataError for pictures.
        """
        if self.schema.kind == "image":
            raise DataError(
                "pictures are in [0, 1] already", where="data.standardise", fix='leave it "auto", or set it to false'
            )
        sums: Tree = {}
        for client in self.clients:
            sums = tree.add(sums, feature_sums(client.x))
        return standardisation(sums, self.schema.features)

    def rescaled(self, scale: Standardisation) -> Federation:
        """All rows on that scale: training, validation and held-out ones."""
        groups = (self.clients, self.validation, self.held_out)
        return Federation(self.schema, *(rescale(clients, scale) for clients in groups))


def check_federation(federation: Federation) -> None:
    """Refuse a federation with rows that no method can use.

    Raises:
        DataError: It names the client and the column.

    Examples:
        >>> import torch
        >>> schema = Schema(shape=(2,), n_classes=2, kind="tabular", features=("age", "weight"))
        >>> bad = Client("anna", torch.tensor([[1.0, float("nan")]]), torch.tensor([0]))
        >>> check_federation(Federation(schema, (bad,)))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        fedgmi.errors.DataError: client 'anna', column 'weight': 1 of 1 rows are NaN or infinite. Likely fix: ...
    """
    check_parts(Parts(federation.schema, federation.clients, federation.validation, federation.held_out))


def _checked(federation: Federation) -> Federation:
    check_federation(federation)
    return federation
