"""Values of a table that lie far from all others: mostly another unit, or a code for something missing."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch

from fedgmi.data.rows import Client, Schema
from fedgmi.errors import FedgmiWarning

FAR = 1000.0
"""Deviations from the median. Of nine real tables the furthest value is 246 out (landmine detection)."""
TO_DEVIATION = 1.4826
"""What a normal distribution's deviation is, in medians of distances from its median."""


def warn_of_far_values(schema: Schema, clients: Sequence[Client]) -> None:
    """Warn of values that are `FAR` deviations or more from their column's median, over all clients' training rows.

    The deviation is 1.4826 times the median distance from the median, on which such values have no influence. Columns
    that hold one value in half of their rows or more have none, and are not judged; nor are pictures.

    Args:
        schema: What rows look like.
        clients: With their training rows.

    Warns:
        FedgmiWarning: One line. It names the furthest value's client and column, and counts the others.
    """
    if schema.kind != "tabular" or not clients:
        return
    x = torch.cat([client.x for client in clients])  # [R, D]
    middle = x.nanmedian(0).values
    distance = (x - middle).abs()
    deviation = TO_DEVIATION * distance.nanmedian(0).values
    out = torch.where(deviation > 0, distance / deviation, 0.0).nan_to_num(0.0)
    n_far = int((out >= FAR).sum())
    if not n_far:
        return
    row, column = divmod(int(out.argmax()), x.shape[1])
    owner = torch.repeat_interleave(torch.arange(len(clients)), torch.tensor([len(client) for client in clients]))
    name = schema.features[column] if schema.features else f"x{column}"
    others = f", and {n_far - 1:,} more values are {FAR:,.0f} or more out" if n_far > 1 else ""
    what = f"client {clients[int(owner[row])].name!r}, column {name!r}: {float(x[row, column]):g} is "
    what += f"{float(out[row, column]):,.0f} deviations from the median {float(middle[column]):g}{others}"
    fix = "check units and codes for missing values, or take the column's logarithm"
    warnings.warn(FedgmiWarning(f"{what}. Likely fix: {fix}"), stacklevel=2)
