"""Cells that the federation's rule for missing values fills: how many there are, and what a site is told of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from fedgmi.data.missing import MARK
from fedgmi.data.rows import Schema
from fedgmi.data.sources.frames import column_of
from fedgmi.report.formats import listed, plural

MOST_NAMES = 12  # texts listed by name


def filled(x: Tensor, schema: Schema, columns: Sequence[str]) -> dict[str, int]:
    """In how many rows a column's value is missing.

    Args:
        x: Rows, NaN where a value is missing. [n, D]
        schema: The names of the features, and the rule.
        columns: Those that the features were made of.

    Returns:
        By column; columns without such rows are left out.

    Examples:
        >>> import torch
        >>> schema = Schema((2,), 0, "tabular", features=("age", "age=(missing)"), missing="indicator")
        >>> filled(torch.tensor([[float("nan"), 1.0], [35.0, 0.0]]), schema, ["age"])
        {'age': 1}
    """
    found: dict[str, int] = {}
    if schema.missing == "refuse":
        return found
    for place, feature in enumerate(schema.features):
        marker = feature.endswith(f"={MARK}")
        gaps = int((x[:, place] == 1 if marker else x[:, place].isnan()).sum())
        column = column_of(feature, columns) or feature
        found[column] = max(gaps, found.get(column, 0))
    return {column: gaps for column, gaps in found.items() if gaps}


def filled_words(
    x: Tensor, schema: Schema, columns: Sequence[str], unknown: Mapping[str, Mapping[str, int]]
) -> Iterator[str]:
    """Which columns have cells that are filled, for the site's own terminal.

    Args:
        x: Rows, NaN where a value is missing. [n, D]
        schema: The names of the features, and the rule.
        columns: Those that the features were made of.
        unknown: By column, texts that the federation does not have and how many rows have each.

    Yields:
        A line for each column, and below it one of its unknown texts, which are among the cells.

    Examples:
        >>> import torch
        >>> schema = Schema((1,), 0, "tabular", features=("age",), missing="mean")
        >>> list(filled_words(torch.tensor([[float("nan")], [35.0]]), schema, ["age"], {}))
        ["age is missing in 1 of 2 rows (50%): filled by the federation's rule, mean"]
    """
    for column, gaps in filled(x, schema, columns).items():
        share = f"{gaps:,} of {len(x):,} rows ({gaps / len(x):.0%})"
        yield f"{column} is missing in {share}: filled by the federation's rule, {schema.missing}"
        if column in unknown:
            yield f"of these: {unknown_words(column, unknown[column])}"


def unknown_words(column: str, texts: Mapping[str, int]) -> str:
    """Which texts of a column the federation does not have.

    Args:
        column: Its name.
        texts: How many rows have each.

    Returns:
        A sentence.

    Examples:
        >>> unknown_words("ward", {"Ost": 1, "West": 3})
        "ward holds 'Ost' (1 row) and 'West' (3 rows), which the federation does not have: they count as missing"
    """
    named = [f"{text!r} ({plural(n, 'row')})" for text, n in texts.items()]
    what, count = ("it", "counts") if len(named) == 1 else ("they", "count")
    return f"{column} holds {listed(named, MOST_NAMES)}, which the federation does not have: {what} {count} as missing"
