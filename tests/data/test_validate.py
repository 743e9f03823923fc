"""Rows that no method can use are refused, with the client and the column named."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fedgmi.data.federation import Federation, check_federation
from fedgmi.data.rows import Client, Schema
from fedgmi.errors import DataError

TABLE = Schema((2,), 3, "tabular", features=("age", "weight"))
PICTURES = Schema((1, 2, 2), 3, "image")
GOOD = Client("anna", torch.zeros(4, 2), torch.tensor([0, 1, 2, 0]))


def table(x: Tensor | None = None, y: Tensor | None = GOOD.y) -> Federation:
    return Federation(TABLE, (GOOD, Client("bert", GOOD.x if x is None else x, y)))


def spoilt(value: float) -> Tensor:
    x = torch.zeros(4, 2)
    x[2:, 1] = value
    return x


@pytest.mark.parametrize(
    ("federation", "message"),
    [
        (
            table(spoilt(float("nan"))),
            r"client 'bert', column 'weight': 2 of 4 values are missing .NaN., the first at row 2.*fill or drop",
        ),
        (table(spoilt(float("inf"))), r"client 'bert', column 'weight'"),
        (table(y=torch.tensor([0.0, 1.0, 2.0, 0.5])), r"client 'bert', labels: labels are torch.float32, not int64"),
        (table(y=torch.tensor([0, 1, 2, 3])), r"client 'bert', labels: label 3 is out of range 0..2"),
        (table(y=torch.tensor([0, 1, 2, -1])), r"label -1 is out of range"),
        (table(y=torch.tensor([0, 1])), r"labels: the shape is \(2,\) for 4 rows"),
        (table(y=None), r"client 'bert': some clients have labels and others have none"),
        (
            table(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64)),
            r"client 'bert': it has no rows.*leave the client",
        ),
        (table(torch.zeros(4, 3)), r"client 'bert': rows have shape \(3,\), but the schema says \(2,\)"),
        (table(torch.zeros(4, 2).double()), r"x is torch.float64.*x.float\(\)"),
        (Federation(TABLE, ()), r"there is no client"),
        (Federation(TABLE, (GOOD, GOOD)), r"client 'anna': two clients have this name"),
        (replace(table(), held_out=(GOOD,)), r"federation \(held-out\).*first difference: 1 instead of 2"),
        (
            replace(table(), validation=(GOOD, Client("bert", spoilt(float("nan")), GOOD.y))),
            r"client 'bert' \(validation\), column 'weight'",
        ),
        (Federation(PICTURES, (Client("c", torch.full((1, 1, 2, 2), 255.0)),)), r"outside 0..1.*divide by 255"),
        (
            Federation(PICTURES, (Client("c", torch.tensor([[[[0, 1], [float("nan"), 0]]]])),)),
            r"client 'c', column \(0, 1, 0\): 1 of 1 values",
        ),
    ],
)
def test_refused(federation: Federation, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_federation(federation)


@pytest.mark.parametrize(
    "client",
    [
        GOOD,
        Client("one row", torch.zeros(1, 2), torch.tensor([2])),
        Client("one class", torch.zeros(3, 2), torch.tensor([1, 1, 1])),
        Client("no labels", torch.zeros(3, 2)),
    ],
)
def test_accepted(client: Client) -> None:
    check_federation(Federation(TABLE, (client,), validation=(client,), held_out=(client,)))


def test_single_clients_may_have_no_rows_for_validation() -> None:
    """`with_validation` leaves a single row to training, and such a federation can be fitted."""
    federation = Federation(TABLE, (GOOD, replace(GOOD, name="one row", x=GOOD.x[:1], y=GOOD.y[:1])))
    chosen = federation.with_validation(0.25)
    assert [len(client) for client in chosen.validation] == [1, 0]
    check_federation(chosen)
    with pytest.raises(DataError, match=r"'one row' \(held-out\): it has no rows"):
        check_federation(replace(chosen, held_out=chosen.validation))
