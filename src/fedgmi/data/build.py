"""What a federation is made of, from the user's own arrays or from a data set. `sources.frames` does tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch

from fedgmi.data.missing import mark, no_rule_for_pictures
from fedgmi.data.names import client_name
from fedgmi.data.rows import Client, Missing, Parts, Schema, client_names
from fedgmi.data.sources.by_column import split_by_column
from fedgmi.data.sources.entries import Entry, by_name, read
from fedgmi.data.sources.labels import NO_LABELS, Labels
from fedgmi.data.sources.sources import load_source
from fedgmi.data.sources.targets import read_labels
from fedgmi.data.validate import warn_of_range
from fedgmi.errors import unknown
from fedgmi.settings.explain import checked
from fedgmi.settings.run import DataSettings, ScenarioSettings, TaskName


def from_arrays(
    clients: Sequence[Any] | Mapping[Any, Any],
    *,
    names: Sequence[str] | None = None,
    validation: Sequence[Any] | Mapping[Any, Any] | None = None,
    held_out: Sequence[Any] | Mapping[Any, Any] | None = None,
    missing: Missing = "refuse",
    task: TaskName = "classification",
) -> Parts:
    """What `Federation.from_arrays` makes, before it is checked.

    Args:
        clients: An entry (x, y) or x for each client, in a list or in a dict by the clients' names.
        names: The clients' names; "client-00", "client-01", … by default.
        validation: Rows for validation, as `clients` and in the same order.
        held_out: Rows that training never sees, as `clients` and in the same order.
        missing: The rule for missing values.
        task: What labels are.

    Returns:
        The schema and the clients. Classes are numbered over all of them.

    Raises:
        DataError: For entries that cannot be read as rows.
    """
    given, own = by_name(clients, None if names is None else [client_name(name) for name in names], "")
    chosen = client_names(len(given)) if own is None else own
    groups = [read(given, chosen, "", task=task)]
    first = groups[0][0] if groups[0] else None
    for rows, group in ((validation, " (validation)"), (held_out, " (held-out)")):
        groups.append([] if rows is None else read(by_name(rows, chosen, group)[0], chosen, group, first, task))
    ys = [entry.y for group in groups for entry in group if entry.y is not None]
    labels = read_labels(task, ys, None, where="labels", advice="give classes") if ys else NO_LABELS
    schema, groups = _marked(_schema(first, labels, missing, task), groups)
    numbered = map(torch.from_numpy, labels.numbers)
    training, for_choice, later = (
        tuple(Client(entry.name, entry.x, None if entry.y is None else next(numbered)) for entry in group)
        for group in groups
    )
    if schema.kind == "image" and groups[0]:
        warn_of_range([entry.x for entry in groups[0]], "pictures of all clients")
    return Parts(schema, training, for_choice, later)


def from_dataset(
    path: str,
    client: str,
    label: str | None,
    features: Sequence[str] | None,
    *,
    n_clients: int | None,
    rows_per_client: int | None,
    held_out_rows: int | None,
    min_rows: int | None,
    validation_share: float,
    seed: int,
    data: Mapping[str, Any],
) -> Parts:
    """What `Federation.from_dataset` makes, before it is checked.

    Args:
        path: A local folder or file, or the name of a data set on the Hugging Face hub.
        client: The column that names each row's client.
        label: The column of classes, or None to look for one.
        features: A table's columns, or None for all.
        n_clients: How many clients to choose, or None for all.
        rows_per_client: At most so many training rows a client, or None for all.
        held_out_rows: So many rows of each client are held out, or None for a fifth.
        min_rows: So many rows of the train split make a value a client, or None for 20.
        validation_share: The part of each client's rows that is for validation; 0 for none.
        seed: The choice of clients and the split of their rows follow from it.
        data: Further settings of the section `data`.

    Returns:
        The schema and the clients.

    Raises:
        DataError: For a data set or a column that cannot be used.
        ConfigError: For an option that the section `data` does not have, and a value that cannot be.
    """
    for name in data.keys() - DataSettings.model_fields.keys():
        raise unknown("option", name, DataSettings.model_fields, "from_dataset")
    columns = None if features is None else list(features)
    how: dict[str, Any] = {
        "n_clients": n_clients,
        "rows_per_client": rows_per_client,
        "held_out_rows": held_out_rows,
        "min_rows": min_rows,
        "validation_share": validation_share,
    }
    asked = {"path": path, "label_column": label, "feature_columns": columns, **data}
    settings = checked(DataSettings, asked, "from_dataset")
    checked(ScenarioSettings, how, "from_dataset")
    return split_by_column(load_source(settings, extra_column=client), client, **how, seed=seed)


def _schema(first: Entry | None, labels: Labels, missing: Missing, task: TaskName) -> Schema:
    """What the first client's rows look like; the others are held to it."""
    shape = (0,) if first is None else tuple(first.x.shape[1:])
    kind: Literal["image", "tabular"] = "image" if len(shape) > 1 else "tabular"
    features: tuple[str, ...] = ()
    if kind == "tabular":
        features = (first.columns if first else ()) or tuple(f"x{j}" for j in range(shape[0]))
    elif missing != "refuse":
        raise no_rule_for_pictures("missing")
    return Schema(shape, len(labels.classes), kind, labels.classes, features, labels.type, missing, task)


def _marked(schema: Schema, groups: list[list[Entry]]) -> tuple[Schema, list[list[Entry]]]:
    """The schema and the rows with columns that mark missing values, where the rule asks for them."""
    same = all(entry.x.shape[1:] == schema.shape for group in groups for entry in group)
    if schema.kind == "image" or not same:  # what differs in shape is told later, with everything else
        return schema, groups
    numbers = schema.features
    xs, features = mark([[entry.x for entry in group] for group in groups], schema.features, numbers, schema.missing)
    made = [[e._replace(x=x) for e, x in zip(group, part, strict=True)] for group, part in zip(groups, xs, strict=True)]
    return replace(schema, shape=(len(features),), features=features), made
