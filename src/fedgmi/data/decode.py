"""From a model's columns back to those of the table that it was fitted to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fedgmi.data.missing import MARK, marked_numbers
from fedgmi.data.rows import Schema

Values = npt.NDArray[Any]


def value_columns(schema: Schema, scale: tuple[Values, Values] | None = None) -> dict[str, list[int]]:
    """The features that stand for the values of one text or category, by the column's name.

    Args:
        schema: What rows look like.
        scale: Mean and deviation of the features, where rows are standardised. Those of 0 and 1 alone are left as they
            are, so a number that has "=" in its name is told from them. [D] each

    Returns:
        Places among the features, by column. Empty for pictures.

    Examples:
        >>> value_columns(Schema((3,), 0, "tabular", features=("age", "sex=f", "sex=m")))
        {'sex': [1, 2]}
    """
    found: dict[str, list[int]] = {}
    marked = marked_numbers(schema.features)
    for place, feature in enumerate(schema.features):
        column, named, _ = feature.partition("=")
        if named and feature not in marked and (scale is None or (scale[0][place] == 0 and scale[1][place] == 1)):
            found.setdefault(column, []).append(place)
    return found


def input_columns(schema: Schema, scale: tuple[Values, Values] | None = None) -> tuple[str, ...]:
    """The columns as the user's table had them; () where rows came without names.

    Args:
        schema: What rows look like.
        scale: See `value_columns`.

    Returns:
        Names, in the order of the features.

    Examples:
        >>> input_columns(Schema((3,), 0, "tabular", features=("age", "sex=f", "sex=m")))
        ('age', 'sex')
    """
    unmarked = [name for name in schema.features if name not in marked_numbers(schema.features)]
    if unmarked == [f"x{place}" for place in range(len(unmarked))]:
        return ()
    owner = {place: column for column, places in value_columns(schema, scale).items() for place in places}
    marked = marked_numbers(schema.features)
    names = (owner.get(place, name) for place, name in enumerate(schema.features) if name not in marked)
    return tuple(dict.fromkeys(names))


def one_value(rows: Values, values: Mapping[str, list[int]], marks: Sequence[int] = ()) -> Values:
    """Rows in which each text or category has the one value that it is nearest to.

    Args:
        rows: [n, D]
        values: As `value_columns` gives them.
        marks: The columns that say where a number is missing: they become 0 or 1.

    Returns:
        [n, D]

    Examples:
        >>> one_value(np.array([[30.0, 0.2, 0.9]]), {"sex": [1, 2]}).tolist()
        [[30.0, 0.0, 1.0]]
    """
    found = rows.copy()
    for places in values.values():
        found[:, places] = np.eye(len(places), dtype=rows.dtype)[rows[:, places].argmax(1)]
    found[:, list(marks)] = np.round(found[:, list(marks)]).clip(0, 1)
    return found


def table_of(rows: Values, schema: Schema, values: Mapping[str, list[int]]) -> Any:
    """Rows as a table with the columns that the federation's table had: numbers, and texts.

    Args:
        rows: As `one_value` leaves them. [n, D]
        schema: What rows look like.
        values: As `value_columns` gives them.

    Returns:
        A DataFrame of pandas, or a table of Arrow where pandas is not installed.
    """
    columns: dict[str, Any] = {}
    owner = {place: column for column, places in values.items() for place in places}
    marked = marked_numbers(schema.features)
    for place, feature in enumerate(schema.features):
        if feature in marked:
            continue
        if place not in owner:
            columns[feature] = rows[:, place]
        elif owner[place] not in columns:
            column, places = owner[place], values[owner[place]]
            texts = np.array([schema.features[own].removeprefix(f"{column}=") for own in places], dtype=object)
            texts[texts == MARK] = None
            columns[column] = texts[rows[:, places].argmax(1)]
    try:
        import pandas
    except ImportError:
        import pyarrow

        return pyarrow.table(columns)
    return pandas.DataFrame(columns)
