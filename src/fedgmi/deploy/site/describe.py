"""`fedgmi site describe`: what a site's rows look like, as the section `[rows]` that a coordinator can merge.

The file goes to the coordinator, so that it tells no single row. A text that fewer than `least` rows have stays at the
site, and so does the range of a column, unless it is asked for: the least and the greatest value are two patients'.
A range that is asked for is wider by a tenth at both ends, and its ends are round numbers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedgmi.data.sources.columns import find_roles, kind_of
from fedgmi.data.sources.sources import read_images
from fedgmi.data.sources.tables import batches, named_values, open_splits
from fedgmi.deploy.settings import RowSettings, SiteSettings, read
from fedgmi.deploy.site.describe_columns import Finder, classes, columns
from fedgmi.settings import toml
from fedgmi.settings.explain import checked
from fedgmi.settings.run import DataSettings, TaskName

LEAST = 5
"""A text of fewer rows is not told: as with the cells of the codebook, a client keeps silent about them."""


@dataclass(frozen=True)
class Described:
    """What was found.

    Attributes:
        rows: What the coordinator is proposed.
        n_rows: How many rows there are.
        notes: What was decided on the way, for the site's eyes: they name what stays at the site.
    """

    rows: RowSettings
    n_rows: int
    notes: tuple[str, ...]


def describe(
    file: Path,
    *,
    label: str | None = None,
    event: str | None = None,
    task: TaskName = "classification",
    least: int = LEAST,
    ranges: bool = False,
) -> Described:
    """Look at a site's own rows; nothing is connected to.

    Args:
        file: A file or folder of rows, or a site.toml that says where they are.
        label: The column of labels. None: the one that site.toml names, or that is called like labels.
        event: For survival, the column of events.
        task: What labels are. It is never guessed.
        least: A text or a class of fewer rows is not told.
        ranges: Whether to tell in which range numbers are.

    Returns:
        What was found.

    Raises:
        DataError: For rows that cannot be read, and a column that is not there.
        ConfigError: For a site.toml that cannot be.
    """
    data = _data(file)
    named = {"label_column": label, "event_column": event, "task": task}
    data = data.model_copy(update={key: value for key, value in named.items() if value is not None})
    with tempfile.TemporaryDirectory(prefix="fedgmi-") as cache:
        table = open_splits(data, cache)[data.train_split]
        finder = Finder(table, data, least, ranges)
        found = _pictures(finder) if _has_pictures(table) else columns(finder)
    return Described(checked(RowSettings, found | {"task": task}, str(file)), len(table), tuple(finder.notes))


def _data(file: Path) -> DataSettings:
    """Where the rows are."""
    if file.suffix != ".toml":
        return DataSettings(path=str(file.expanduser().resolve()))
    data = read(SiteSettings, file).data
    return data.model_copy(update={"path": str((file.parent / Path(data.path).expanduser()).resolve())})


def _has_pictures(table: Any) -> bool:
    return any(kind_of(feature) == "image" for feature in table.features.values())


def _pictures(of: Finder) -> dict[str, Any]:
    roles = find_roles(of.table.features, of.data, None)
    assert roles.image is not None
    [x] = read_images(of.data, {of.data.train_split: of.table}, roles.image)
    found: dict[str, Any] = {"kind": "image", "shape": list(x.shape[1:])}
    if roles.label is not None:
        return found | classes(of, named_values(of.table, roles.label).tolist(), roles.label)
    # `datasets` takes folders for classes only where there are two or more
    folders = [Path(cell["path"] or "").parent for batch in batches(of.table, roles.image) for cell in batch]
    own = {folder.name for folder in folders if folder != Path(of.data.path) and folder.name}
    return found | ({"classes": sorted(own)} if own and Path(of.data.path).name not in own else {})


def to_toml(rows: RowSettings, *, about: str) -> str:
    """The section `[rows]`, as federation.toml has it.

    Args:
        rows: What to write. What is as by default is left out.
        about: A line above it.

    Returns:
        The text.
    """
    table = rows.model_dump(exclude_defaults=True) | {"kind": rows.kind}
    listed = {key: list(value) if isinstance(value, tuple) else value for key, value in table.items()}
    ordered = {key: listed[key] for key in RowSettings.model_fields if key in listed}
    return f"# {about}\n{toml.dumps({'rows': ordered})}"


def lines(found: Described) -> Iterator[str]:
    """What the site is told: first what stays with it, then what its file tells."""
    yield f"{found.n_rows:,} rows"
    yield from found.notes
    rows = found.rows
    tells = "names of columns, texts and classes"
    if rows.ranges:
        tells += ", and about how far the least and the greatest values of columns go"
    yield f"the file tells {tells}; no row, and no count of rows"
