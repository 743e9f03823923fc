"""Rows, whose they are, and what they look like: the forms that all client functions work on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fedgmi import tree
from fedgmi.settings.run import TaskName

Missing = Literal["refuse", "mean", "indicator"]
"""What becomes of a missing value. "mean": the column's mean over all clients. "indicator": the mean, and a column of 0
and 1 that says where it stands; missing texts have such a column in the mean's place."""

Range = tuple[str, float, float]
"""Of a feature: its name, the least and the greatest value that it may have."""


@dataclass(frozen=True)
class Schema:
    """What every client's rows look like.

    Attributes:
        shape: The shape of one row of x: `(channels, height, width)` for pictures and `(features,)` for tables.
        n_classes: L, the number of labels. It is 0 where there are none, and where labels are no classes.
        kind: "image" or "tabular".
        classes: The labels as users know them. [L], or empty
        features: The names of a table's columns. A text column is there once per value, as `column=value`. Where
            missing values are marked, a column of 0 and 1, `column=(missing)`, says where: for a text beside its
            values, for numbers after all other columns.
        label_type: What labels are given as, and predictions come as, by NumPy's name: "int64", "bool", "str",
            "object" (texts as Python's objects), …. "" stands for "str" where `classes` names the labels, and for
            "int64" where they are the numbers from 0 to L − 1.
        missing: What becomes of missing values. Unless they are refused, they are NaN in x.
        task: What y is. Rows without labels have "classification" and no classes.
        ranges: (feature, least, greatest) for those whose values have been agreed to lie between: others are refused.
    """

    shape: tuple[int, ...]
    n_classes: int
    kind: Literal["image", "tabular"]
    classes: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    label_type: str = ""
    missing: Missing = "refuse"
    task: TaskName = "classification"
    ranges: tuple[Range, ...] = ()

    @property
    def labelled(self) -> bool:
        """Whether rows have a y."""
        return self.n_classes > 0 or self.task != "classification"

    @property
    def n_outputs(self) -> int:
        """How many numbers an expert gives for a row: L logits, or a Gaussian's mean and log scale, or a log risk."""
        return {"classification": self.n_classes, "regression": 2, "survival": 1}[self.task]

    @property
    def n_features(self) -> int:
        """D, how many numbers one row of x has."""
        return int(torch.Size(self.shape).numel())

    @property
    def colour(self) -> bool:
        """Whether rows are pictures of several channels, for which convolutions are the default."""
        return self.kind == "image" and self.shape[0] > 1


@dataclass(frozen=True, eq=False, repr=False)
class Client:
    """One client and its rows. Two are equal where name, x and y are.

    Attributes:
        name: It differs from client to client.
        x: The features; those of pictures are in [0, 1]. NaN stands for a missing value where the schema allows it.
            [n, *shape], float32
        y: The labels, or None where there are none: class numbers from 0 [n], int64; for regression the target in its
            own units [n], float32; for survival the time in its own units, and 1 for an event or 0 [n, 2], float32.
    """

    name: str
    x: Tensor
    y: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Client):
            return NotImplemented
        return self.name == other.name and _same(self.x, other.x) and _same(self.y, other.y)

    def __hash__(self) -> int:
        return hash((self.name, tuple(self.x.shape)))

    def __repr__(self) -> str:
        labels = "without labels" if self.y is None else "with labels"
        return f"Client({self.name!r}, {len(self)} row{'s' * (len(self) != 1)} {labels})"


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other or (one is not None and other is not None and _equal(one, other))


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same, missing values (NaN) included."""
    return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())


class Parts(NamedTuple):
    """What a federation is made of, before it is checked.

    Attributes:
        schema: What rows look like.
        clients: With their training rows.
        validation: The same clients with their rows for validation; empty where there are no such rows.
        held_out: The same clients with rows that training never sees; empty where there are no such rows.
        client_column: The column that names each row's client, where rows came as one table.
        label_column: The column of labels, likewise.
    """

    schema: Schema
    clients: tuple[Client, ...]
    validation: tuple[Client, ...] = ()
    held_out: tuple[Client, ...] = ()
    client_column: str | None = None
    label_column: str | None = None


@dataclass(frozen=True)
class Rows:
    """The rows of C clients end to end (a ragged batch). `pack` makes it.

    Attributes:
        x: The features. [R, *shape], float32
        y: The labels as `Client` has them, or None where some client has none. [R]
        client_index: The client of each row, as a number from 0 to C − 1, ascending. [R], int64
        counts: How many rows each client has. [C], int64
        ids: The clients' indices in the federation. [C]
        component: The component that each row came from. Only the oracle and the evaluation are given it. [R], int64
        cache: What a client may keep between two exchanges. Results never depend on it.
        by_content: Whether noise for a row comes from its numbers, and not from its place. So it is for rows that a
            fitted model is asked about: what is said of a row then does not depend on its neighbours.
        validation: The same clients' rows for validation, of which single clients may have none. None: nobody has any.
        apart: Whether the clients' messages are wanted each by itself, see `Step.apart`.
    """

    x: Tensor
    y: Tensor | None
    client_index: Tensor
    counts: Tensor
    ids: tuple[int, ...]
    component: Tensor | None = None
    cache: dict[str, Tensor] = field(default_factory=dict, compare=False)
    by_content: bool = False
    validation: Rows | None = None
    apart: bool = False

    @property
    def n_clients(self) -> int:
        """C, how many clients the rows come from."""
        return len(self.ids)

    def once(self, what: str, of: Iterable[Tensor], make: Callable[[], Tensor]) -> Tensor:
        """What is made of these rows and some tensors: made once, and again where the tensors are others.

        It goes by the tensors' numbers. Who sends others gets what is of these, whatever was kept before.

        Args:
            what: It, in a few words.
            of: The tensors.
            make: Makes it.
        """
        name = f"{what} {tree.digest(of)}"
        if name not in self.cache:
            for stale in [old for old in self.cache if old.rpartition(" ")[0] == what]:
                del self.cache[stale]
            self.cache[name] = make()
        return self.cache[name]

    def __len__(self) -> int:
        return len(self.x)

    @property
    def held(self) -> Rows:
        """The same clients' rows for validation; no row of any of them where there are none."""
        if self.validation is not None:
            return self.validation
        none = None if self.y is None else self.y[:0]
        counts = torch.zeros_like(self.counts)
        return Rows(self.x[:0], none, self.client_index[:0], counts, self.ids, by_content=self.by_content)

    def sum_by_client(self, values: Tensor) -> Tensor:
        """Sum over each client's rows, in their order, so that the result can be reproduced.

        Args:
            values: One entry a row. [R, …]

        Returns:
            One entry a client. [C, …]
        """
        out = values.new_zeros((self.n_clients, *values.shape[1:]))
        return out.index_add_(0, self.client_index, values)


def pack(
    clients: Sequence[Client],
    ids: Sequence[int] | None = None,
    components: Sequence[Tensor] | None = None,
    device: torch.device | str = "cpu",
    *,
    by_content: bool = False,
    validation: Sequence[Client] = (),
) -> Rows:
    """Lay clients' rows end to end.

    Args:
        clients: All that the federation has.
        ids: Which of them to take, by index; all by default.
        components: For every client the component of each of its rows, where the truth may be seen. [n_i] each
        device: Where the rows go.
        by_content: See `Rows`.
        validation: All clients with their rows for validation; empty where there are none.

    Returns:
        The rows of the chosen clients, in the order of `ids`.

    Examples:
        >>> rows = pack([Client("a", torch.zeros(2, 1)), Client("b", torch.ones(1, 1))])
        >>> rows.client_index, rows.counts
        (tensor([0, 0, 1]), tensor([2, 1]))
    """
    chosen = tuple(range(len(clients))) if ids is None else tuple(ids)
    counts = torch.tensor([len(clients[i]) for i in chosen])
    labels = [clients[i].y for i in chosen]
    y = torch.cat([label for label in labels if label is not None]) if all(v is not None for v in labels) else None
    truth = torch.cat([components[i] for i in chosen]) if components is not None else None
    return Rows(
        x=torch.cat([clients[i].x for i in chosen]).to(device),
        y=None if y is None else y.to(device),
        client_index=torch.repeat_interleave(torch.arange(len(chosen)), counts).to(device),
        counts=counts.to(device),
        ids=chosen,
        component=None if truth is None else truth.to(device),
        by_content=by_content,
        validation=pack(validation, chosen, device=device) if validation else None,
    )


def blank_targets(schema: Schema, n: int) -> Tensor | None:
    """The y of n made-up rows, by which a program can be tried; None where rows have none.

    Args:
        schema: What rows look like.
        n: How many.

    Returns:
        Zeros, of the shape and type that y has.

    Examples:
        >>> blank_targets(Schema((2,), 0, "tabular", task="regression"), 3)
        tensor([0., 0., 0.])
    """
    if not schema.labelled:
        return None
    if schema.task == "classification":
        return torch.zeros(n, dtype=torch.long)
    return torch.zeros((n, 2) if schema.task == "survival" else (n,))


CHUNK_BYTES = 1 << 30
"""So many bytes of rows are worked on at once."""


def chunks(clients: Sequence[Client], ids: Iterable[int], max_bytes: int = CHUNK_BYTES) -> list[tuple[int, ...]]:
    """Put clients into groups whose rows fit in memory together.

    Args:
        clients: All that the federation has.
        ids: Which of them to take, by index.
        max_bytes: How many bytes the x of a group may take. A client with more than that is a group by itself.

    Returns:
        The groups, in the order of `ids`.

    Examples:
        >>> chunks([Client("a", torch.zeros(4, 1)), Client("b", torch.zeros(4, 1))], [0, 1], max_bytes=16)
        [(0,), (1,)]
    """
    groups: list[list[int]] = []
    room = 0
    for i in ids:
        size = clients[i].x.nbytes
        if not groups or size > room:
            groups.append([])
            room = max_bytes
        groups[-1].append(i)
        room -= size
    return [tuple(group) for group in groups]


def client_names(n: int) -> list[str]:
    """Names for clients that have none of their own. Their alphabetical order is the order of their numbers.

    Args:
        n: How many.

    Returns:
        The names.

    Examples:
        >>> client_names(2)
        ['client-00', 'client-01']
    """
    width = max(2, len(str(n - 1)))
    return [f"client-{i:0{width}d}" for i in range(n)]
