"""What sums over a site's rows can be, by arithmetic alone; a deployment asks it before they are used.

    counts     Σ_x of something between 0 and 1: 0 or more, and no more than there are rows
    moments    Σ v and Σ v² over n rows: (Σ v)² ≤ n·Σ v², and within n times the values' range
    scatter    Σ v vᵀ − Σ v Σ vᵀ/n has no direction below zero
    cells      the mean of a convex cell's points lies in the cell

So a site may still lie as far as a site with other rows could, and no further. Sums are of float32 numbers, so there is
some slack. A `Check` gives the reason in words, or None.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedgmi.data.far import BOUND
from fedgmi.data.rows import Schema
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import Check
from fedgmi.tree import Tree

SLACK = 1e-3  # relative, of sums in float32

Range = tuple[float, float]


def either(*checks: Check | None) -> Check:
    """The first reason that one of the checks has."""

    def check(server: Tree, message: Message, client: int, rows: int) -> str | None:
        reasons = (one(server, message, client, rows) for one in checks if one is not None)
        return next((why for why in reasons if why is not None), None)

    return check


def range_of(schema: Schema) -> Range:
    """Where values lie once rows are as methods see them: pictures in [0, 1], columns within the bound of far ones."""
    return (0.0, 1.0) if schema.kind == "image" else (-BOUND, BOUND)


def wrong_counts(what: str, counts: Tensor, rows: float, *, all_rows: bool = False) -> str | None:
    """What is wrong with sums of something that is between 0 and 1 for a row, and 1 in all at most.

    Args:
        what: In words: "its word counts".
        counts: The sums. [...]
        rows: How many rows the site has.
        all_rows: Whether each row is among them.

    Examples:
        >>> wrong_counts("its counts", torch.tensor([3.0, -1.0]), 10)
        'its counts are -1 somewhere, expected 0 or more'
        >>> wrong_counts("its counts", torch.tensor([3.0, 8.0]), 10)
        'its counts are of 11 rows, and the site has 10'
    """
    least, total = float(counts.min()) if counts.numel() else 0.0, float(counts.double().sum())
    if least < -SLACK:
        return f"{what} are {least:.6g} somewhere, expected 0 or more"
    if total > rows * (1 + SLACK) + SLACK or (all_rows and total < rows * (1 - SLACK) - SLACK):
        return f"{what} are of {total:.10g} rows, and the site has {rows}"
    return None


def wrong_rows(server: Tree, message: Message, client: int, rows: int) -> str | None:
    """What is wrong with the sum `rows` of a site that counts its rows, all of them, in one number or by cluster."""
    return wrong_counts("its rows", message.sums["rows"], rows, all_rows=True)


def wrong_held(server: Tree, message: Message, client: int, rows: int) -> str | None:
    """What is wrong with the sum `rows` of a site's validation rows, whose number is its own."""
    count = float(message.sums["rows"])
    return f"its validation rows are {count:g}" if count < 0 or count != round(count) else None


def wrong_moments(
    what: str, count: Tensor, first: Tensor, second: Tensor, limits: tuple[Tensor, Tensor] | None = None
) -> str | None:
    """What is wrong with Σ v and Σ v² over n rows.

    Args:
        what: In words: "its features".
        count: n. Of the form of `first`, or one for all.
        first: Σ v. [...]
        second: Σ v². [...]
        limits: The least and the greatest v; None: any.

    Examples:
        >>> n, of = torch.tensor(4.0), lambda *values: torch.tensor(values)
        >>> wrong_moments("its features", n, of(8.0), of(12.0))
        'its features have Σx = 8 and Σx² = 12 over 4 rows, which no rows have'
    """
    count, first, second = count.double().expand_as(first), first.double(), second.double()
    size = count.abs() * second.abs() + first.square()
    bad = (second < -SLACK * size.clamp(min=1.0)) | (first.square() > count * second + SLACK * size + 1e-9)
    if limits is not None:
        least, greatest = (limit.double() for limit in limits)
        room = SLACK * count * torch.maximum(least.abs(), greatest.abs()) + 1e-9
        most = count * torch.maximum(least.square(), greatest.square())
        bad |= (first < count * least - room) | (first > count * greatest + room) | (second > most * (1 + SLACK) + 1e-9)
    if not bool(bad.any()):
        return None
    i = int(bad.flatten().nonzero()[0])
    numbers = (float(leaf.flatten()[i]) for leaf in (first, second, count))
    return "{} have Σx = {:.6g} and Σx² = {:.6g} over {:.6g} rows, which no rows have".format(what, *numbers)


def wrong_scatter(what: str, count: Tensor, first: Tensor, outer: Tensor) -> str | None:
    """What is wrong with Σ v [..., d] and Σ v vᵀ [..., d, d] over n rows [...].

    Examples:
        >>> two = torch.tensor(2.0), torch.zeros(2), torch.tensor([[1.0, 5.0], [5.0, 1.0]])
        >>> wrong_scatter("its points", *two)
        'its points have products that no rows have'
    """
    count, first, outer = count.double(), first.double(), outer.double()
    mean = first / count.clamp(min=1e-6)[..., None]
    scatter = outer - first[..., :, None] * mean[..., None, :]
    size = outer.diagonal(dim1=-2, dim2=-1).abs().sum(-1)
    uneven = float((outer - outer.mT).abs().max()) > SLACK * float(size.max()) + 1e-9
    least = torch.linalg.eigvalsh((scatter + scatter.mT) / 2)[..., 0]
    if uneven or bool((least < -SLACK * size - 1e-6).any()):
        return f"{what} have products that no rows have"
    return None


def wrong_features(limits: Range | None, *, gaps: bool = False) -> Check:
    """Of Σ x, Σ x² and n of features, or n of each feature where values may be missing: whether rows can be so.

    Args:
        limits: The least and the greatest value; None: any.
        gaps: Whether values may be missing.
    """

    def check(server: Tree, message: Message, client: int, rows: int) -> str | None:
        first, second, count = (message.sums[name] for name in ("sum", "squares", "count"))
        if float(count.max()) > rows or float(count.min()) < (0 if gaps else rows):
            return f"its features are of {float(count.max()):.10g} rows, and the site has {rows}"
        ends = None if limits is None else (first.new_tensor(limits[0]), first.new_tensor(limits[1]))
        return wrong_moments("its features", count, first, second, ends)

    return check


def wrong_targets(server: Tree, message: Message, client: int, rows: int) -> str | None:
    """What is wrong with sums of targets that are no classes."""
    sums = message.sums
    if float(sums["target count"]) != rows:
        return f"its targets are of {float(sums['target count']):.10g} rows, and the site has {rows}"
    if "target events" in sums:
        return wrong_counts("its events", sums["target events"], rows)
    return wrong_moments("its targets", sums["target count"], sums["target sum"], sums["target squares"])


def projected_range(matrix: Tensor, mean: Tensor, std: Tensor, limits: Range) -> tuple[Tensor, Tensor]:
    """The least and the greatest of ((x − mean)/std)·matrix where all x are within limits. [d], float64

    Examples:
        >>> low, high = projected_range(torch.eye(1), torch.tensor([0.5]), torch.tensor([0.25]), (0.0, 1.0))
        >>> low.tolist(), high.tolist()
        ([-2.0], [2.0])
    """
    mean, std, matrix = mean.double(), std.double(), matrix.double()
    ends = [((limit - mean) / std)[:, None] * matrix for limit in limits]
    return torch.minimum(*ends).sum(0), torch.maximum(*ends).sum(0)


def wrong_spread(what: str, sums: Tree, rows: int, limits: tuple[Tensor, Tensor]) -> str | None:
    """What is wrong with `sum`, `outer` and `count` of projected points. limits: of each dimension."""
    if float(sums["count"]) != rows:
        return f"{what} are of {float(sums['count']):.10g} rows, and the site has {rows}"
    squares = sums["outer"].diagonal()
    why = wrong_moments(what, sums["count"], sums["sum"], squares, limits)
    return why or wrong_scatter(what, sums["count"], sums["sum"], sums["outer"])


def wrong_cells(message: Message, centres: Tensor, rows: int, limits: tuple[Tensor, Tensor], fewest: int) -> str | None:
    """What is wrong with a site's sums and counts by k-means cell.

    Args:
        message: The site's: `sums` [J, d] and `counts` [J].
        centres: By which rows were told apart. [J, d]
        rows: How many the site has.
        limits: The least and greatest of each dimension. [d] each
        fewest: Rows of a cell that is told.

    Returns:
        The reason in words; None where nothing is wrong.
    """
    counts, sums = message.sums["counts"].double(), message.sums["sums"].double()
    why = wrong_counts("its counts of cells", counts, rows)
    if why is not None:
        return why
    if bool((counts != counts.round()).any()) or bool(((counts > 0) & (counts < fewest)).any()):
        return f"its counts of cells are no whole numbers of {fewest} rows or more"
    there = counts > 0
    if bool((sums[~there] != 0).any()):
        return "it has sums of cells without rows"
    means, room = sums[there] / counts[there][:, None], SLACK * (1 + limits[1] - limits[0])
    if bool(((means < limits[0] - room) | (means > limits[1] + room)).any()):
        return "its sums of cells are outside the features' range"
    distance = torch.cdist(means, centres.double())
    own = distance.gather(1, there.nonzero())[:, 0]
    if bool((own > distance.min(1).values * (1 + SLACK) + SLACK * means.norm(dim=1) + 1e-6).any()):
        return "its sums of cells belong to other cells"
    return None


def wrong_clients(message: Message) -> str | None:
    """A site is one client, or none where it has no such rows."""
    told = message.sums.get("clients")
    if told is None or float(told) in (0.0, 1.0):
        return None
    return f"it counts for {float(told):.6g} clients, expected 1"


def wrong_noisy(epsilon: float, histogram: Tensor, rows: int) -> str | None:
    """What noise of this ε cannot make of a histogram of so many rows: the chance of more is below e⁻⁵⁰ a count.

    Args:
        epsilon: Of the geometric noise.
        histogram: Counts as they were released. [1, W]
        rows: How many the site has.

    Examples:
        >>> wrong_noisy(1.0, torch.tensor([[60, -20, 3]]), 40)
        >>> wrong_noisy(1.0, torch.tensor([[1000, 0, 0]]), 40)
        'its histogram has a count of 1000, and noise of ε = 1 makes at most 90 of 40 rows'
    """
    room = int(50 / epsilon)
    counts = histogram.long()
    for count in (int(counts.max()), int(counts.min())):
        if not -room <= count <= rows + room:
            most = rows + room if count > 0 else -room
            return (
                f"its histogram has a count of {count}, and noise of ε = {epsilon:g} makes at "
                f"{'most' if count > 0 else 'least'} {most} of {rows} rows"
            )
    total, spread = int(counts.sum()), (2 * counts.numel()) ** 0.5 / epsilon
    if abs(total - rows) > room + 10 * spread:
        return f"its histogram counts {total} rows, and the site has {rows}; noise of ε = {epsilon:g} makes no such sum"
    return None
