"""A federation: clients, their rows, and what all of them have in common (the schema)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fedgmi import tree
from fedgmi.data import build, encode, split
from fedgmi.data.far import tamed
from fedgmi.data.missing import check_rule
from fedgmi.data.names import place_of
from fedgmi.data.rows import Client, Missing, Parts, Schema
from fedgmi.data.sources import frames
from fedgmi.data.sources.by_column import VALIDATION_SHARE
from fedgmi.data.standardise import Standardisation, feature_sums, standardisation
from fedgmi.data.validate import check_parts, check_scalable, check_task
from fedgmi.errors import ConfigError
from fedgmi.settings.run import TaskName
from fedgmi.tree import Tree


@dataclass(frozen=True, repr=False)
class Federation:
    """Clients and their rows. `from_arrays`, `from_frame` and `from_dataset` make one from your own rows.

    It behaves as a collection of clients: `len`, iteration, `in`, and `federation["ward 3"]`.

    Attributes:
        schema: What all clients' rows look like.
        clients: With their training rows.
        validation: The same clients with their rows for validation; empty where there are no such rows.
        held_out: The same clients with rows that training never sees; empty where there are no such rows.
        client_column: The column that names each row's client, where rows came as one table.
        label_column: The column of labels, likewise.

    Examples:
        >>> rows = [[1.5, 0.0], [2.5, 1.0]]
        >>> federation = Federation.from_arrays([(rows, ["cat", "dog"]), (rows, ["cat", "cat"])], names=["anna", "bo"])
        >>> federation
        Federation(2 clients, 4 rows of 2 features, 2 classes)
        >>> [client.name for client in federation], "anna" in federation, federation["bo"]
        (['anna', 'bo'], True, Client('bo', 2 rows with labels))
        >>> federation.labels("bo").tolist(), len(federation.subset(["bo"]))
        (['cat', 'cat'], 1)
    """

    schema: Schema
    clients: tuple[Client, ...]
    validation: tuple[Client, ...] = ()
    held_out: tuple[Client, ...] = ()
    client_column: str | None = None
    label_column: str | None = None

    def __len__(self) -> int:
        return len(self.clients)

    def __iter__(self) -> Iterator[Client]:
        return iter(self.clients)

    def __contains__(self, name: object) -> bool:
        return (name.name if isinstance(name, Client) else str(name)) in self.names and not isinstance(name, bool)

    def __getitem__(self, name: str | int) -> Client:
        """A client with its training rows: by name, or by place where no name could be meant."""
        return self.clients[place_of(name, self.names)]

    def __repr__(self) -> str:
        rows, classes = sum(map(len, self.clients)), self.schema.n_classes
        kind = "×".join(map(str, self.schema.shape)) + " pixels" if self.schema.kind == "image" else ""
        kind = kind or _count(self.schema.n_features, "feature")
        beside = {"for validation": self.validation, "held out": self.held_out}
        more = "".join(f", {sum(map(len, group))} {what}" for what, group in beside.items() if group)
        labels = _count(classes, "class") if classes else "no labels"
        labels = labels if self.schema.task == "classification" else f"a target for {self.schema.task}"
        return f"Federation({_count(len(self), 'client')}, {_count(rows, 'row')} of {kind}, {labels}{more})"

    @property
    def names(self) -> tuple[str, ...]:
        """The clients' names, in their order."""
        return tuple(client.name for client in self.clients)

    def labels(self, name: str | int) -> npt.NDArray[Any]:
        """A client's labels as they were given; `federation[name].y` has them as class numbers.

        Args:
            name: The client's.

        Returns:
            The labels. [n]

        Raises:
            DataError: For a client that is not there.
        """
        y = self[name].y
        if y is None or self.schema.task != "classification":
            return np.array([]) if y is None else np.asarray(y.numpy())
        found: npt.NDArray[Any] = encode.classes(self.schema)[y.numpy()]
        return found

    def subset(self, names: Iterable[str | int]) -> Federation:
        """Some of the clients, with all their rows.

        Args:
            names: Of the clients, in the order in which they are wanted.

        Returns:
            A federation of them. Classes and columns mean what they meant.

        Raises:
            DataError: For a client that is not there, or is named twice, and for none.
        """
        chosen = [names] if isinstance(names, str) else list(names)
        return Federation(*split.subset(self._parts(), [place_of(name, self.names) for name in chosen]))

    def split(
        self, share: float = 0.25, *, over: Literal["rows", "clients"] = "rows", seed: int = 0
    ) -> tuple[Federation, Federation]:
        """Two federations: one to train on, and one to evaluate on.

        Args:
            share: Of the rows or the clients, for the second one.
            over: "rows" splits every client's training rows. Rows for validation and held-out rows stay with the first
                federation, and a client with a single row is in the first one alone. "clients" puts clients with all
                their rows here or there.
            seed: Of the draw.

        Returns:
            The first and the second.

        Raises:
            ConfigError: For a share outside (0, 1), or something else to split.
            DataError: Where there is nothing to split.

        Examples:
            >>> federation = Federation.from_arrays([[[0.0], [1.0], [2.0], [3.0]], [[4.0], [5.0]]])
            >>> train, test = federation.split(0.5)
            >>> test
            Federation(2 clients, 3 rows of 1 feature, no labels)
        """
        how = {"rows": split.split_rows, "clients": split.split_clients}
        if over not in how:
            raise ConfigError(f"over is {over!r}", where="split", fix='say over="rows" or over="clients"')
        here, there = how[over](self._parts(), share, seed)
        return Federation(*here), Federation(*there)

    def with_validation(self, share: float = 0.1, *, seed: int = 0) -> Federation:
        """The same federation, some of every client's training rows set aside for validation.

        They choose rates and rounds, and how much of its own each client gets.

        Args:
            share: Of each client's rows. A client with a single row keeps it for training.
            seed: Of the draw.

        Returns:
            A federation with rows for validation.

        Raises:
            ConfigError: For a share outside (0, 1).
            DataError: Where no client has two rows, and where there are rows for validation already.

        Examples:
            >>> federation = Federation.from_arrays([[[0.0], [1.0], [2.0], [3.0]], [[4.0], [5.0]]])
            >>> [len(client) for client in federation.with_validation(0.25).validation]
            [1, 1]
        """
        return Federation(*split.set_aside(self._parts(), share, seed))

    @classmethod
    def from_arrays(
        cls,
        clients: Sequence[Any] | Mapping[Any, Any],
        *,
        names: Sequence[str] | None = None,
        validation: Sequence[Any] | Mapping[Any, Any] | None = None,
        held_out: Sequence[Any] | Mapping[Any, Any] | None = None,
        missing: Missing = "refuse",
        task: TaskName = "classification",
    ) -> Federation:
        """A federation of arrays or tensors.

        Args:
            clients: An entry (x, y), [x, y] or x for each client, in a list or in a dict by their names. x is a table
                [n, features], or pictures [n, height, width] or [n, channels, height, width] with values in [0, 1].
                Where the tables have names for their columns, as those of pandas, Polars and Arrow do, columns are
                brought to the order of the first client's by name. y holds classes as whole numbers or texts [n]. They
                are numbered over all clients, and come back from predictions as they were given.
            names: The clients' names; "client-00", "client-01", … by default.
            validation: Rows for validation, as `clients` and in the same order. Single clients may have
                none: (x[:0], y[:0]).
            held_out: Rows that training never sees, as `clients` and in the same order.
            missing: What becomes of missing values (NaN, None, masked ones): "refuse", "mean" or "indicator"; see
                docs/tables.md. Missing labels are refused always.
            task: What y is: "classification", or "regression", by which it holds numbers to predict, or "survival", by
                which it holds times and events [n, 2]; see docs/tasks.md.

        Returns:
            The federation.

        Raises:
            DataError: For rows that cannot be used: no client, shapes or columns that differ, missing values, labels
                for some clients alone, …. It names all clients and columns where something is wrong.
            ConfigError: For a rule or a task that there is not.

        Examples:
            >>> rows = [[1.5, 0.0], [2.5, 1.0]]
            >>> federation = Federation.from_arrays([(rows, ["cat", "dog"]), (rows, ["cat", "cat"])])
            >>> federation.names, federation.schema.classes, federation.clients[0].y
            (('client-00', 'client-01'), ('cat', 'dog'), tensor([0, 1]))
        """
        check_rule(missing)
        beside = {"validation": validation, "held_out": held_out}
        task = check_task(task)
        return _checked(cls(*build.from_arrays(clients, names=names, **beside, missing=missing, task=task)))

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        client: str,
        label: str | None = None,
        features: Sequence[str] | None = None,
        *,
        missing: Missing = "refuse",
        task: TaskName = "classification",
        event: str | None = None,
    ) -> Federation:
        """A federation from one table with a column that names each row's client.

        Numbers and truth values become one column each. Texts and categories become one column `name=value` per value.

        Args:
            frame: A DataFrame of pandas or Polars, or a pyarrow Table.
            client: The column of the clients' names.
            label: The column of classes, or None.
            features: The columns to use; by default all others, but for those in which a tool numbered the rows.
            missing: What becomes of missing values: "refuse", "mean" or "indicator"; see docs/tables.md. Missing labels
                and clients are refused always.
            task: What the label is: "classification", "regression" or "survival"; see docs/tasks.md.
            event: For survival, the column that holds 1 where the time, the label, ended in an event, and 0 elsewhere.

        Returns:
            The federation. Its clients are in the order of their names.

        Raises:
            DataError: For unknown columns, missing values, and columns that hold neither numbers nor texts. It names
                all of them.
            ConfigError: For a rule that there is not.

        Examples:
            >>> import pyarrow
            >>> columns = {"ward": ["a", "b", "a"], "age": [30, 40, 50], "sex": ["f", "m", "m"]}
            >>> federation = Federation.from_frame(pyarrow.table(columns), client="ward")
            >>> federation.schema.features, federation.clients[0].x.tolist()
            (('age', 'sex=f', 'sex=m'), [[30.0, 1.0, 0.0], [50.0, 0.0, 1.0]])
        """
        check_rule(missing)
        return _checked(cls(*frames.from_frame(frame, client, label, features, missing, check_task(task), event)))

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
        min_rows: int | None = None,
        validation_share: float = VALIDATION_SHARE,
        seed: int = 0,
        **data: Any,
    ) -> Federation:
        """A federation from a data set of tables or pictures, split as the scenario `by-column` splits it.

        Clients are the values of one column that have 20 rows or more. Held out are each client's rows of the test
        split, or a fifth of its rows where there are none. A tenth is for validation, and the rest is for training.

        Args:
            path: A local folder or file, or the name of a data set on the Hugging Face hub.
            client: The column that names each row's client.
            label: The column of classes. By default it is a column of class labels, or one with a name such as `label`.
            features: A table's columns; by default all other numbers and texts.
            n_clients: How many clients to choose by the seed; all by default.
            rows_per_client: At most so many training rows a client; all by default.
            held_out_rows: So many rows of each client are held out in place of a fifth, but half of them at most.
            min_rows: So many rows of the train split make a value a client; 20 by default.
            validation_share: The part of each client's rows of the train split that is for validation, one row at
                least; 0: there are no rows for validation.
            seed: The choice of clients and the split of their rows follow from it.
            data: Further settings of the section `data`, such as `missing`, `train_split` or `max_rows`.

        Returns:
            The federation. Its clients are in the order of their names.

        Raises:
            DataError: For a data set, a column or rows that cannot be used.
            ConfigError: For an option that the section `data` does not have, and a value that cannot be.
        """
        parts = build.from_dataset(
            path,
            client,
            label,
            features,
            n_clients=n_clients,
            rows_per_client=rows_per_client,
            held_out_rows=held_out_rows,
            min_rows=min_rows,
            validation_share=validation_share,
            seed=seed,
            data=data,
        )
        return _checked(cls(*parts))

    def standardisation(self) -> Standardisation:
        """The scale on which a table's numbers have mean 0 and deviation 1 over all clients' training rows.

        Each client contributes sums alone; see `fedgmi.data.standardise`.

        Returns:
            The scale.

        Raises:
            DataError: For pictures, which are in [0, 1] already.
        """
        check_scalable(self.schema)
        sums: Tree = {}
        for client in self.clients:
            sums = tree.add(sums, feature_sums(tamed(client.x), gaps=self.schema.missing != "refuse"))
        return standardisation(sums, self.schema.features)

    def _parts(self) -> Parts:
        return Parts(self.schema, self.clients, self.validation, self.held_out, self.client_column, self.label_column)


def check_federation(federation: Federation) -> None:
    """Refuse a federation with rows that no method can use.

    Args:
        federation: Any.

    Raises:
        DataError: It names the client and the column.

    Examples:
        >>> import torch
        >>> schema = Schema(shape=(2,), n_classes=2, kind="tabular", features=("age", "weight"))
        >>> bad = Client("anna", torch.tensor([[1.0, float("nan")]]), torch.tensor([0]))
        >>> check_federation(Federation(schema, (bad,)))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        fedgmi.errors.DataError: client 'anna', column 'weight': 1 of 1 values are missing (NaN), the first at ...
    """
    check_parts(federation._parts())


def _count(n: int, what: str) -> str:
    many = f"{what}es" if what.endswith("s") else f"{what}s"
    return f"{n} {what if n == 1 else many}"


def _checked(federation: Federation) -> Federation:
    check_federation(federation)
    return federation
