"""Data sets in memory: scikit-learn's digits, or anything that `datasets` loads, through one code path."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from fedgmi.data.missing import mark
from fedgmi.data.problems import Problems
from fedgmi.data.rows import Client, Schema
from fedgmi.data.sources.columns import Kind, Roles, find_roles, kind_of, require
from fedgmi.data.sources.copies import without_copies
from fedgmi.data.sources.labels import NO_LABELS, Labels
from fedgmi.data.sources.row_numbers import warn_of_counter
from fedgmi.data.sources.tables import all_values, batches, column_values, named_values, open_splits
from fedgmi.data.sources.targets import read_labels, with_events
from fedgmi.data.sources.values import encode_feature
from fedgmi.data.validate import warn_of_range
from fedgmi.errors import DataError
from fedgmi.settings.effects import refuse_without_effect
from fedgmi.settings.run import DataSettings

OF_PICTURES = "these rows are pictures, which have no missing values"


@dataclass(frozen=True)
class Split:
    """Rows of a data set.

    Attributes:
        x: The features. [n, *shape], float32
        y: The labels as `Client` has them, or None. [n]
        columns: The values of the column that names each row's client, by its name, where it was asked for.
    """

    x: Tensor
    y: Tensor | None
    columns: dict[str, list[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Source:
    """A data set in memory, before anybody holds a part of it.

    Attributes:
        name: Its path, as the settings have it.
        schema: What its rows look like.
        train: The rows of its train split.
        test: Those of its test split, where it has one.
        label_column: The column that labels come from, where they come from one.
    """

    name: str
    schema: Schema
    train: Split
    test: Split | None = None
    label_column: str | None = None


def load_source(settings: DataSettings, *, extra_column: str | None = None) -> Source:
    """Load a data set.

    Pictures become [channels, height, width] with values in [0, 1]. They are cropped, resized and inverted in this
    order. Tables become [features]: numbers stay as they are, and texts become one column each. Labels become class
    numbers from 0 to L − 1. Decoded pictures are kept for the next time in the folder of `cache_folder`.

    Args:
        settings: The section `data`. Its `path` is "digits" (scikit-learn's), a local folder or file, or the name of a
            data set on the Hugging Face hub. Of each split the first `max_rows` are kept.
        extra_column: The column that names each row's client, where there is to be one.

    Returns:
        The data set.

    Raises:
        DataError: For a data set, a split, a column or values that cannot be used.
        ConfigError: For settings that contradict each other.

    Examples:
        >>> source = load_source(DataSettings(path="digits"))
        >>> source.train.x.shape, source.schema.n_classes, source.test
        (torch.Size([1797, 1, 8, 8]), 10, None)
    """
    if settings.path != "digits":
        return _from_tables(settings, open_splits(settings, texts=(extra_column,)), extra_column)
    if extra_column is not None:
        raise DataError(
            f"the digits have no column {extra_column!r}",
            where="scenario.client_column",
            fix="choose a data set that says whose row it is, such as FEMNIST with its writer_id",
        )
    return _digits(settings)


def _digits(settings: DataSettings) -> Source:
    from fedgmi.data.sources.digits import read_digits
    from fedgmi.data.sources.images import crop_and_resize  # and Pillow with it: tables do without

    columns = {"image_column": settings.image_column, "label_column": settings.label_column}
    for key, column in (columns | {"feature_columns": settings.feature_columns}).items():
        if column is not None:
            raise DataError(
                f"the digits have no columns, and so no column {column!r}",
                where=f"data.{key}",
                fix="leave it out, or set data.path",
            )
    why = "the digits are pictures of ten classes"
    refuse_without_effect(settings, "data", ["task", "event_column"], why, fix="leave it out, or set data.path")
    why = "the digits have no splits"
    refuse_without_effect(settings, "data", ["train_split", *(["test_split"] if settings.test_split else [])], why)
    refuse_without_effect(settings, "data", ["missing", "missing_values"], OF_PICTURES)
    rows = slice(settings.max_rows)
    pictures, classes = read_digits()
    x = torch.from_numpy(pictures[rows]).float().unsqueeze(1) / 16
    x = crop_and_resize(x, crop=settings.crop, size=settings.size)
    x = 1 - x if settings.invert else x
    schema = Schema(tuple(x.shape[1:]), 10, "image", tuple(str(c) for c in range(10)), label_type="int64")
    return Source("digits", schema, Split(x, torch.from_numpy(classes[rows]).long()))


def _from_tables(settings: DataSettings, tables: dict[str, Any], extra: str | None) -> Source:
    first, problems = next(iter(tables.values())), Problems()
    roles = find_roles(first.features, settings, extra)
    for name, table in tables.items():
        for column in roles.all:
            with problems.noted():
                require(column, list(table.features), where=f"{settings.path}, split {name!r}")
    problems.tell()
    kind: Literal["image", "tabular"] = "image" if roles.image is not None else "tabular"
    features: tuple[str, ...] = ()
    xs: list[Tensor] = []
    labels = NO_LABELS
    clients: list[dict[str, list[Any]]] = [{} for _ in tables]
    with problems.noted():
        if roles.image is None:
            why = "these rows are a table, not pictures"
            refuse_without_effect(settings, "data", ["invert", "crop", "size"], why)
            xs, features = _table(settings, tables, _telling_nothing(settings, first, roles, extra))
        else:
            refuse_without_effect(settings, "data", ["missing", "missing_values"], OF_PICTURES)
            xs = read_images(settings, tables, roles.image, cached=True)
    with problems.noted():
        labels = _labels(settings, tables, roles)
    with problems.noted():
        if extra is not None:
            fix = "drop the rows that belong to no client"
            values = [all_values(table, extra, where=settings.path, fix=fix) for table in tables.values()]
            clients = [{extra: found.tolist()} for found in values]
    problems.tell()
    ys = map(torch.from_numpy, labels.numbers) if roles.label is not None else (None for _ in tables)
    splits = [Split(x, y, columns) for x, y, columns in zip(xs, ys, clients, strict=True)]
    schema = Schema(
        tuple(xs[0].shape[1:]),
        len(labels.classes),
        kind,
        labels.classes,
        features,
        labels.type,
        settings.missing,
        settings.task,
    )
    return Source(settings.path, schema, splits[0], splits[1] if len(splits) > 1 else None, roles.label)


def read_images(settings: DataSettings, tables: dict[str, Any], column: str, *, cached: bool = False) -> list[Tensor]:
    """Read the pictures of a column, and crop, resize and invert them as the settings say.

    Args:
        settings: The section `data`.
        tables: The splits, by name.
        column: The column of pictures.
        cached: Whether to look for them in the cache of decoded pictures, and to leave a copy there.

    Returns:
        The pictures of each split. [n, channels, height, width]

    Raises:
        DataError: For pictures that are missing, cannot be read, or differ in size.
    """
    from fedgmi.data.sources.images import decode_images  # and Pillow with it: tables do without
    from fedgmi.data.sources.picture_cache import cache_folder, decode_once

    folder, xs = cache_folder() if cached else None, []
    for name, table in tables.items():
        where = f"{settings.path}, split {name!r}, column {column!r}"
        decode = partial(decode_images, crop=settings.crop, size=settings.size, where=where)
        cells = partial(batches, table, column)
        done = {"crop": settings.crop, "size": settings.size}
        xs.append(decode(cells()) if folder is None else decode_once(folder, cells, decode, **done))
    if len({x.shape[2:] for x in xs}) > 1:
        sizes = ", ".join("×".join(str(n) for n in x.shape[2:]) for x in xs)
        raise DataError(
            f"the splits' pictures differ in size ({sizes})",
            where=f"{settings.path}, column {column!r}",
            fix="set data.size to bring them to one size",
        )
    for x, name in zip(xs, tables, strict=True):
        warn_of_range([x], f"{settings.path}, split {name!r}, column {column!r}")
    channels = max(x.shape[1] for x in xs)
    xs = [x.expand(-1, channels, -1, -1) for x in xs]
    return [1 - x for x in xs] if settings.invert else xs


def _telling_nothing(settings: DataSettings, table: Any, roles: Roles, extra: str | None) -> Roles:
    """The roles without features that are the label or the client in other words, unless the settings name them."""
    if settings.feature_columns is not None:
        return roles
    names = [name for name in dict.fromkeys((*roles.features, roles.label, roles.event, extra)) if name is not None]
    rows = table.select_columns(names).with_format("arrow")[:]
    keep = "name the features in data.feature_columns"
    kept = without_copies(rows, roles.features, extra, roles.label, roles.event, keep=keep, where=settings.path)
    if not kept:
        fix = "add columns, or name those that may be used in data.feature_columns"
        raise DataError("every column tells the label or the client", where=settings.path, fix=fix)
    return replace(roles, features=tuple(kept))


def _table(settings: DataSettings, tables: dict[str, Any], roles: Roles) -> tuple[list[Tensor], tuple[str, ...]]:
    """x [n, features] of each split, and the features' names."""
    parts: list[list[Any]] = [[] for _ in tables]
    names: list[str] = []
    numbers: list[str] = []
    problems = Problems()
    for column in roles.features:
        with problems.noted():
            where = f"{settings.path}, column {column!r}"
            kinds = {kind_of(table.features[column]) for table in tables.values()}
            if len(kinds - {"empty"}) > 1:
                fix = "give it one type in all splits"
                raise DataError(f"it holds {' and '.join(sorted(kinds))} in different splits", where=where, fix=fix)
            kind: Kind = next(iter(kinds - {"empty"}), "empty")
            values = [named_values(table, column) for table in tables.values()]
            if kind == "number":
                numbers.append(column)
                if settings.feature_columns is None:
                    warn_of_counter(values[0], where=where)
            encoded, new = encode_feature(values, kind, column, where=where, missing=settings.missing)
            names += new
            for part, block in zip(parts, encoded, strict=True):
                part.append(block)
    problems.tell()
    [xs], features = mark(
        [[torch.from_numpy(np.concatenate(part, axis=1)) for part in parts]], names, numbers, settings.missing
    )
    return xs, features


def _labels(settings: DataSettings, tables: dict[str, Any], roles: Roles) -> Labels:
    """The labels of each split, and the classes; none of both without labels."""
    if roles.label is None:
        return NO_LABELS
    feature = next(iter(tables.values())).features[roles.label]
    values = [column_values(table, roles.label) for table in tables.values()]
    names = feature.names if kind_of(feature) == "class" else None
    if roles.event is not None and names is None:
        values = [
            with_events(time, column_values(table, roles.event), f"{settings.path}, split {name!r}")
            for time, (name, table) in zip(values, tables.items(), strict=True)
        ]
    return read_labels(settings.task, values, names, where=f"{settings.path}, column {roles.label!r}")


def client_with(name: str, split: Split, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Client:
    """A client that holds some rows of a split.

    Args:
        name: The client's.
        split: All rows.
        rows: Which of them are the client's, by index. [n]

    Returns:
        The client, with its rows in the order of `rows`.
    """
    index = torch.from_numpy(rows)
    return Client(name, split.x[index], None if split.y is None else split.y[index])
