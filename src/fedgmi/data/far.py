"""Values of a table that lie far from all others: mostly another unit, or a code for something missing.

They are told (`warn_of_far_values`), and they have no say in the federation's scale (`tamed`): one value a million
deviations out in one client's rows would make the deviation of its column huge, and the column nearly constant for all.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from fedgmi.data.rows import Client, Schema
from fedgmi.errors import FedgmiWarning

FAR = 1000.0
"""Deviations from the median. Of nine real tables the furthest value is 246 out (landmine detection)."""
BOUND = 100.0
"""Standardised values are brought to this bound where they are beyond it. Of nine real tables the furthest is at 37."""
MOST, OF_MOST = 0.95, 1.96
"""The share of a client's values that says how wide they lie, and how many deviations that is of a normal one."""
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


def tamed(x: Tensor) -> Tensor:
    """One client's rows as the federation's scale is made of them: its median in the place of each far value.

    Column by column, with m the median: a value is far where |x − m| ≥ 1000 · q/1.96. Here q is the distance from m
    that 95 % of the client's values do not exceed, and never that of its furthest value. Where q is 0, no value is far.
    The client decides this alone: nothing more is sent.

    Args:
        x: Rows of one client, NaN where a value is missing. [n, *shape]

    Returns:
        The rows; what is not far keeps its bits. [n, *shape]

    Examples:
        >>> tamed(torch.tensor([[1.0], [2.0], [3.0], [1e6]])).flatten().tolist()
        [1.0, 2.0, 3.0, 2.0]
    """
    if not len(x):
        return x
    flat = x.flatten(1)
    middle = flat.nanmedian(0).values
    distance = (flat - middle).abs().double()
    last = (~distance.isnan()).sum(0).sub(1).clamp(min=0)
    most = distance.sort(0).values.gather(0, (MOST * last).long()[None])[0]  # NaN is sorted to the end
    far = (most > 0) & (distance >= FAR / OF_MOST * most)
    return torch.where(far, middle, flat).view_as(x)
