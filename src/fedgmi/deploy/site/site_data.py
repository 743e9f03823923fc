"""A site's own rows, in the columns and with the classes that the federation agreed on."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedgmi.data.encode import features, label_type, labels
from fedgmi.data.missing import RULE
from fedgmi.data.problems import Problems, Several
from fedgmi.data.rows import Client, Schema
from fedgmi.data.sources.arrays import is_missing
from fedgmi.data.sources.columns import Roles, find_roles, require
from fedgmi.data.sources.frames import column_of, unknown_texts
from fedgmi.data.sources.sources import Split, client_with, read_images
from fedgmi.data.sources.tables import all_values, batches, column_values, named_values, open_splits
from fedgmi.data.sources.targets import with_events
from fedgmi.data.validate import check_ranges
from fedgmi.deploy.settings import FederationSettings, SiteSettings
from fedgmi.deploy.site.content import content_of
from fedgmi.deploy.site.own_secret import secret_or_another
from fedgmi.errors import ConfigError, DataError, nearest
from fedgmi.settings.run import DataSettings

DECIDED = {
    "feature_columns": "rows.features say which",
    "standardise": "rows are brought to one scale by all sites",
    "task": "rows.task says what labels are",
    "missing": "rows.missing says what becomes of missing values",
}

NO_LABEL = "leave rows without a label out"
AGREED_RULE = ', or ask the coordinator for rows.missing = "mean" or "indicator" (not with [privacy])'


@dataclass(frozen=True)
class SiteRows:
    """What a site trains on and is tested with, in the rows' own units.

    Attributes:
        train: The rows to train on.
        held_out: The rows to test its predictor on; None where there are none.
        validation: The rows by which things are chosen; None where there are none.
        digest: Of all of them, hex. It changes whenever a row does, or its part.
        content: Of the rows of the file, hex, whichever part each is in (`content_of`).
        columns: Those that the features were made of.
        label: Where labels come from; None where the federation has none.
        ignored: The other columns and splits of the site's data.
        unknown: By column, texts that the federation does not have and how many rows have each. They are for the
            site's own eyes.
    """

    train: Client
    held_out: Client | None
    validation: Client | None
    digest: str
    content: str
    columns: tuple[str, ...]
    label: str | None
    ignored: tuple[str, ...]
    unknown: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def load_site(settings: SiteSettings, federation: FederationSettings, where: Path) -> SiteRows:
    """Read a site's rows.

    Columns stand in the federation's order. Texts are one-hot by its values, and labels are numbered by its classes,
    whichever of them the site has. Which rows are held out, and which are for validation, goes by the federation's
    seed, the site's name and the row itself (`parted`). Where noise hides rows, it goes by the site's secret, too: how
    many are held out is told, and whoever can repeat the hash could tell one row from another by it. No copy of the
    rows stays on the disk.

    Args:
        settings: site.toml. It names the rows and the fraction that is held out.
        federation: federation.toml. It says what rows look like.
        where: The folder of site.toml, to which the path of the rows is relative.

    Returns:
        The rows.

    Raises:
        DataError: Where rows are not what the federation agreed on: all that is wrong with columns, labels, ranges and
            missing values at once. It may quote rows: it is for the site alone.
        ConfigError: For settings that are not a site's to decide.
    """
    data, schema = _own_data(settings, where), federation.rows.as_schema()
    with tempfile.TemporaryDirectory(prefix="fedgmi-") as cache:
        splits = open_splits(data, cache, texts=_texts(data, schema))
        table = splits[data.train_split]
        x, columns, y, label, unknown = _read(table, data, schema)
        content = content_of(table)
    other_splits = [f"split {name!r}" for name in splits if name != data.train_split]
    ignored = (*other_splits, *(name for name in table.features if name not in (*columns, label, data.event_column)))
    key: tuple[int | str, ...] = (federation.seed, "site", settings.name, "held out")
    if federation.noisy:
        key = (*key, secret_or_another(where / settings.folder))
    train, held_out, validation = parted(x, y, settings.held_out, settings.validation, *key)
    if not len(train):
        raise DataError(
            f"none of its {len(x)} rows is left to train on: all of them fell to those that are held out",
            where=data.path,
            fix="set held_out and validation lower in site.toml, or to 0",
        )
    of = {"train": train, "held_out": held_out, "validation": validation}
    parts = {name: client_with(settings.name, Split(x, y), rows) for name, rows in of.items() if len(rows)}
    some = (parts["train"], parts.get("held_out"), parts.get("validation"))
    return SiteRows(*some, _digest(list(parts.values())), content, columns, label, ignored, unknown)


def parted(
    x: Tensor, y: Tensor | None, held_out: float, validation: float, *key: int | str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which rows train, which are held out, and which are for validation: each row by a keyed hash of itself.

    So a row that is added or removed moves no other. A row that stands m times over is hashed with 0, 1, …, m − 1: its
    copies are told apart, and the loss of one is the loss of the last. How many rows are held out is left to chance:
    a binomial number.

    Args:
        x: [n, *shape]
        y: [n], where there are labels.
        held_out: The chance of each row to be held out.
        validation: The chance of each other row to be for validation.
        key: Of the hash.

    Returns:
        Places of rows, in order: of those that train, are held out, are for validation.

    Examples:
        >>> x = torch.arange(10.0)[:, None]
        >>> [rows.tolist() for rows in parted(x, None, 0.3, 0.2, "key")]
        [[1, 2, 6, 7, 8], [0, 3, 4, 5, 9], []]
        >>> [rows.tolist() for rows in parted(x[1:], None, 0.3, 0.2, "key")]  # without the first row
        [[0, 1, 5, 6, 7], [2, 3, 4, 8], []]
    """
    keyed = hashlib.blake2b(repr(key).encode()).digest()
    leaves = [leaf.reshape(len(x), -1).numpy() for leaf in (x, y) if leaf is not None]
    draws, copies = np.empty(len(x)), Counter[bytes]()
    for place, row in enumerate(zip(*leaves, strict=True)):
        content = b"".join(part.tobytes() for part in row)
        named = content + copies[content].to_bytes(8, "big")
        draws[place] = int.from_bytes(hashlib.blake2b(named, key=keyed, digest_size=8).digest(), "big") / 2**64
        copies[content] += 1
    out, choosing = draws < held_out, draws < held_out + validation * (1 - held_out)
    return (~choosing).nonzero()[0], out.nonzero()[0], (choosing & ~out).nonzero()[0]


@dataclass(frozen=True)
class Unlabelled:
    """Rows that a model is asked about.

    Attributes:
        x: NaN where a value is missing. [n, *shape]
        kept: Other columns that were wanted as they are, by name, and of pictures `file`.
        columns: Those that the features were made of.
        ignored: Those that nobody wants.
        unknown: As in `SiteRows`.
    """

    x: Tensor
    kept: dict[str, list[Any]]
    columns: tuple[str, ...]
    ignored: tuple[str, ...]
    unknown: Mapping[str, Mapping[str, int]]


def read_unlabelled(path: Path, schema: Schema, keep: Sequence[str] = ()) -> Unlabelled:
    """Rows that a model is asked about, labels not looked at.

    Args:
        path: A file, or a folder of pictures.
        schema: What rows look like, and the ranges that they were held to in training.
        keep: Other columns that are wanted as they are.

    Returns:
        The rows.

    Raises:
        DataError: Where rows are not what the schema says, all problems at once: columns, values, ranges.
    """
    data = DataSettings(path=str(path.expanduser().resolve()), test_split=None)
    problems = Problems()
    with tempfile.TemporaryDirectory(prefix="fedgmi-") as cache:
        table = open_splits(data, cache, texts=[*_texts(data, schema), *keep])[data.train_split]
        kept: dict[str, list[Any]] = {}
        unknown: dict[str, dict[str, int]] = {}
        for name in keep:
            with problems.noted():
                require(name, list(table.features), where="--keep")
                kept[name] = named_values(table, name).tolist()
        if schema.kind == "image":
            x, columns = _pictures(table, data, schema)
            kept |= {"file": [Path(cell["path"] or "").name for batch in batches(table, columns[0]) for cell in batch]}
        else:
            x, columns, unknown = _tabular(table, data, schema, problems)
    problems.tell()
    ignored = tuple(name for name in table.features if name not in (*columns, *keep))
    return Unlabelled(x, kept, columns, ignored, unknown)


def _read(
    table: Any, data: DataSettings, schema: Schema
) -> tuple[Tensor, tuple[str, ...], Tensor | None, str | None, dict[str, dict[str, int]]]:
    """x [n, *shape], the columns that it was made of, y [n] and its column, and unknown texts as in `SiteRows`.

    All that is wrong is told at once.
    """
    problems, columns = Problems(), tuple[str, ...]()
    x, y, label = torch.empty(0), None, None
    unknown: dict[str, dict[str, int]] = {}
    with problems.noted():
        if schema.kind == "image":
            x, columns = _pictures(table, data, schema)
        else:
            x, columns, unknown = _tabular(table, data, schema, problems)
    with problems.noted():
        if columns or schema.kind == "tabular":
            y, label = _labels(table, data, schema, columns)
    problems.tell()
    return x, columns, y, label, unknown


def _texts(data: DataSettings, schema: Schema) -> list[str | None]:
    """The columns of a CSV file that are texts, whatever they look like here: the federation says so."""
    columns = [feature.partition("=")[0] for feature in schema.features if "=" in feature]
    numbers = set(schema.features)
    return [data.label_column if label_type(schema) == "str" else None, *(set(columns) - numbers)]


def _own_data(settings: SiteSettings, where: Path) -> DataSettings:
    """The settings with a path that does not depend on where the process runs."""
    data, named = settings.data, f"settings of site {settings.name!r}"
    if "path" not in data.model_fields_set:
        fix = "set it to the file or folder with the site's rows, relative to the settings' file"
        raise ConfigError("data.path is missing", where=named, fix=fix)
    for key, reason in DECIDED.items():
        if getattr(data, key) != DataSettings.model_fields[key].default:
            raise ConfigError(f"data.{key} is the federation's to decide: {reason}", where=named, fix="remove it")
    return data.model_copy(update={"path": str((where / Path(data.path).expanduser()).resolve())})


def _pictures(table: Any, data: DataSettings, schema: Schema) -> tuple[Tensor, tuple[str, ...]]:
    """x [n, channels, height, width] of the federation's shape, and the column; grey becomes coloured, never back."""
    column = _roles(table, data).image
    if column is None:
        raise DataError(
            f"the federation's rows are pictures, and no column holds any; there are {', '.join(table.features)}",
            where=data.path,
            fix="give a folder of pictures, or Parquet with a column of them",
        )
    [x] = read_images(data, {data.train_split: table}, column)
    channels, height, width = schema.shape
    if x.shape[1] == 1:
        x = x.expand(-1, channels, -1, -1).contiguous()
    if tuple(x.shape[1:]) != schema.shape:
        found, expected = ("×".join(map(str, shape)) for shape in (x.shape[1:], schema.shape))
        fix = f"set data.size = {height} in site.toml" if height == width else "bring them to that size"
        raise DataError(
            f"pictures of {found}, and of {expected} in the federation (channels×height×width)",
            where=f"{data.path}, column {column!r}",
            fix=fix if x.shape[1] == channels else "convert them to grey",
        )
    return x, (column,)


def _tabular(
    table: Any, data: DataSettings, schema: Schema, problems: Problems
) -> tuple[Tensor, tuple[str, ...], dict[str, dict[str, int]]]:
    """x [n, features], the columns that it was made of, and unknown texts as in `SiteRows`. What is wrong is noted."""
    columns, known = _columns(table, data, schema, problems)
    x, unknown = _numbers(table, data, replace(known, ranges=()), columns, problems)  # by themselves: see `_numbers`
    with problems.noted():
        check_ranges(x, known, data.path)
    return x, columns, unknown


def _columns(table: Any, data: DataSettings, schema: Schema, problems: Problems) -> tuple[tuple[str, ...], Schema]:
    """The columns that features are made of, and the schema of those that are there. Columns that are not are noted."""
    there = list(table.features)
    found = {feature: column_of(feature, there) for feature in schema.features}
    lacking = dict.fromkeys(name.partition("=")[0] for name, column in found.items() if column is None)
    free = [column for column in there if column not in found.values()]
    for name in lacking:
        with problems.noted():
            guess = nearest(name, free)
            raise DataError(
                f"no column {name!r}, which the federation has; there are {', '.join(there)}",
                where=data.path,
                fix=f"rename {guess!r} to {name!r}"
                if guess
                else "add it; all sites have the federation's rows.features",
            )
    known = tuple(feature for feature, column in found.items() if column is not None)
    columns = tuple(dict.fromkeys(column for column in found.values() if column is not None))
    return columns, replace(schema, features=known, shape=(len(known),))


def _numbers(
    table: Any, data: DataSettings, schema: Schema, columns: Sequence[str], problems: Problems
) -> tuple[Tensor, dict[str, dict[str, int]]]:
    """x [n, features] in the federation's order, and by column the texts that the federation does not have.

    What is wrong is noted; what can be read is given all the same.
    """
    import pyarrow

    frame = pyarrow.table({column: named_values(table, column) for column in columns})
    if not columns:
        return torch.empty(len(table), 0), {}
    with problems.noted(), _inside(data.path):
        return features(frame, schema), unknown_texts(frame, schema)
    single = [torch.full((len(table), 1), torch.nan)] * schema.n_features  # for the ranges of the other columns
    for place, feature in enumerate(schema.features):
        with suppress(DataError):
            single[place] = features(frame, replace(schema, features=(feature,), shape=(1,), missing="mean"))
    return torch.cat(single, 1), {}


def _labels(table: Any, data: DataSettings, schema: Schema, columns: Sequence[str]) -> tuple[Tensor | None, str | None]:
    """y [n] by the federation's classes, and the column; none of both where the federation has no labels."""
    if not schema.labelled:
        return None, None
    taken: dict[str, Any] = {} if schema.kind == "image" else {"feature_columns": list(columns), "image_column": None}
    roles = _roles(table, data.model_copy(update=taken | {"task": schema.task}))
    label = roles.label
    if label is None and schema.kind == "image" and schema.n_classes:
        # `datasets` takes folders for classes only where there are two or more, and a site may have rows of one alone
        folders = [Path(cell["path"] or "").parent.name for batch in batches(table, columns[0]) for cell in batch]
        if set(folders) <= set(schema.classes):
            return labels(np.array(folders), schema, len(table)), "the folder's name"
    if label is None:
        has = f"{schema.n_classes} classes" if schema.n_classes else f"a target for {schema.task}"
        what = f"no column holds labels, and the federation has {has}"
        by_folder = (
            ", or put the pictures into a folder per class" if schema.kind == "image" and schema.n_classes else ""
        )
        fix = f"name the column with data.label_column in site.toml{by_folder}"
        raise DataError(what, where=data.path, fix=fix)
    where = f"{data.path}, column {label!r}"
    if roles.event is not None:
        values = all_values(table, label, where=data.path, fix=NO_LABEL)
        return torch.from_numpy(with_events(values, column_values(table, roles.event), where)), label
    return _own_labels(table, data.path, label, schema), label


def _own_labels(table: Any, path: str, label: str, schema: Schema) -> Tensor:
    """y [n]. Labels that are missing and labels that the federation does not have are told together."""
    where, problems = f"{path}, column {label!r}", Problems()
    with problems.noted():
        return labels(all_values(table, label, where=path, fix=NO_LABEL), schema, len(table), where=where)
    values = named_values(table, label).tolist()
    there = [value for value in values if not is_missing(value)]
    if there and len(there) < len(values) and schema.n_classes:  # a stand-in for those that lack, so that rows count on
        known = next((value for value in there if str(value) in schema.classes), None)
        with problems.noted():
            stand_in = there[0] if known is None else known
            filled = np.array([stand_in if is_missing(value) else value for value in values])
            labels(filled, schema, len(table), where=where)
    problems.tell()
    raise AssertionError("a problem was noted")


def _roles(table: Any, data: DataSettings) -> Roles:
    """What each column is for. A column that is not there is a matter of two files, and both are named."""
    try:
        return find_roles(table.features, data, None)
    except DataError as error:
        if not error.where.startswith("data."):
            raise
        raise DataError(error.what, where=f"{data.path}, {error.where} of site.toml", fix=error.fix) from error


@contextmanager
def _inside(path: str) -> Iterator[None]:
    """Errors about a column name the file too."""
    try:
        yield
    except Several as error:
        raise Several([_within(path, each) for each in error.found]) from error
    except DataError as error:
        raise _within(path, error) from error


def _within(path: str, error: DataError) -> DataError:
    return DataError(error.what, where=f"{path}, {error.where}", fix=error.fix.replace(RULE, AGREED_RULE))


def _digest(parts: Sequence[Client]) -> str:
    """A hash of rows and labels, in their order."""
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        for leaf in (part.x, part.y):
            if leaf is not None:
                found.update(repr((tuple(leaf.shape), str(leaf.dtype))).encode())
                found.update(leaf.contiguous().numpy().data)
    return found.hexdigest()
