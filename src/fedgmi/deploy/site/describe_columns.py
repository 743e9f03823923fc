"""What `fedgmi site describe` proposes of a table: its features and classes, column by column, and why."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedgmi.data.missing import MARK, marker_of
from fedgmi.data.sources.arrays import is_missing, is_number
from fedgmi.data.sources.columns import USABLE, find_roles, kind_of
from fedgmi.data.sources.row_numbers import ENOUGH, given_out, is_row_number
from fedgmi.data.sources.tables import named_values
from fedgmi.deploy.settings import also_private
from fedgmi.errors import DataError, counted
from fedgmi.report.formats import plural
from fedgmi.settings.run import DataSettings

MOST_VALUES = 20
"""A column of more different texts is hardly a category: names, remarks, addresses."""
STRAY = 0.1
"""So few cells of a column that are no numbers, among cells that are, are mistakes or stand for missing values; and so
few patients' numbers that stand there once more are mistakes."""


@dataclass
class Finder:
    """One table, and what is noted of it.

    Attributes:
        table: A `datasets.Dataset`.
        data: Where it is from, and what its columns are for.
        least: A text or a class of fewer rows is not told.
        with_ranges: Whether to tell in which range numbers are.
        notes: For the site's eyes.
    """

    table: Any
    data: DataSettings
    least: int
    with_ranges: bool
    notes: list[str] = field(default_factory=list)


def columns(of: Finder) -> dict[str, Any]:
    """What a table's columns are to the federation.

    Args:
        of: The table. What is decided on the way is noted there.

    Returns:
        Features, ranges, classes and the rule for missing values, as `[rows]` has them.

    Raises:
        DataError: For a label that is none.
    """
    usable = {
        name: feature
        for name, feature in of.table.features.items()
        if kind_of(feature) in USABLE and not is_row_number(name)
    }
    of.notes += [f"{name}: neither numbers nor texts, left out" for name in of.table.features if name not in usable]
    roles = find_roles(usable, of.data, None)
    if roles.label is None:
        of.notes.append("no column is called like labels, so that all are features: --label COLUMN names that one")
    elif of.data.task != "classification" and kind_of(usable[roles.label]) != "number":
        fix = "leave --task out where these are classes, or name a column of numbers with --label"
        where = f"{of.data.path}, column {roles.label!r}"
        raise DataError(f"it holds texts, and {of.data.task} predicts a number", where=where, fix=fix)
    if len(of.table) < ENOUGH:
        what = "few to tell patients' numbers and names from measurements: look whether one of the features is such"
        what += f", and take it out of features{' and ranges' * of.with_ranges}"
        of.notes.append(f"{plural(len(of.table), 'row')} are {what}" if len(of.table) != 1 else f"1 row is {what}")
    features: list[str] = []
    marks: list[str] = []
    ranges: dict[str, list[float]] = {}
    for name in roles.features:
        own, mark, limits = _column(of, name, kind_of(usable[name]) == "number")
        features, marks, ranges = [*features, *own], [*marks, *mark], ranges | limits
    marked = any(name.endswith(f"={MARK}") for name in (*features, *marks))
    found = {"kind": "tabular", "features": [*features, *marks], "ranges": ranges}
    if marked:
        found |= {"missing": "indicator"}
        of.notes.append(also_private("indicator"))
    if roles.label is None:
        return found
    labels = named_values(of.table, roles.label).tolist()
    if of.data.task == "classification":
        return found | classes(of, labels, roles.label)
    _labelled(of, labels, roles.label)
    if roles.event is not None:
        _labelled(of, named_values(of.table, roles.event).tolist(), roles.event)
    return found


def _column(of: Finder, name: str, number: bool) -> tuple[list[str], list[str], dict[str, list[float]]]:
    """A column's features, what marks its missing values, and its range; nothing of one that is left out."""
    values = named_values(of.table, name).tolist()
    known = [value for value in values if not is_missing(value)]
    gaps = len(values) - len(known)
    mark: list[str] = []
    limits: dict[str, list[float]] = {}
    if not known:
        of.notes.append(f"{name}: it holds no value at all, left out")
        return [], mark, limits
    if number:
        own = [name] if _is_measured(of, name, known) else []
        mark = [marker_of(name)] if own and gaps else []
        limits = _range(name, known) if own and of.with_ranges else {}
    else:
        own = _texts(of, name, known, gaps)
        _tell_of_numbers(of, name, values, len(known))
    if own and gaps:
        of.notes.append(f"{name}: missing in {gaps} of {len(values)} rows")
    return own, mark, limits


def _is_measured(of: Finder, name: str, known: Sequence[Any]) -> bool:
    """Whether numbers are measurements, as far as the column tells; of whole ones a note says what else they may be.

    Whole numbers are left out where they hardly repeat, for a patient may stand twice by mistake, and where they follow
    one another (`given_out`), for a patient may have several visits. Counts of cells in few rows hardly repeat, too: a
    measurement that is left out is seen and added, and a patient's number that is kept is seen by nobody.
    """
    values = np.array(known, dtype=float)
    if len(values) < ENOUGH or not bool((values == np.round(values)).all()):
        return True
    n, repeated = len(values), len(values) - len(np.unique(values))
    few, follow = repeated <= STRAY * n, given_out(values)
    if not (few or follow):
        return True
    differ = "that differ in all rows" if not repeated else f"of which {n - repeated} of {n} differ"
    what = f"{name}: whole numbers {differ}{', and that follow one another' * (follow and repeated > 0)}"
    fix = f"add {name!r} to features{' and its [least, greatest] to ranges' * of.with_ranges}"
    of.notes.append(f"{what}, such as patients' numbers: left out; where it is measured, {fix} in the file")
    return False


def _texts(of: Finder, name: str, known: Sequence[Any], gaps: int) -> list[str]:
    """A text column's features; none where it is hardly a category."""
    counts = Counter(map(str, known))
    if len(counts) > MOST_VALUES:
        of.notes.append(f"{name}: {len(counts)} different texts, more than {MOST_VALUES}: left out")
        return []
    told = _enough(of, name, counts)
    hidden = gaps > 0 or len(told) < len(counts)
    return [f"{name}={text}" for text in (*told, *([MARK] if told and hidden else []))]


def _tell_of_numbers(of: Finder, name: str, values: Sequence[Any], n_known: int) -> None:
    """A single cell that is none makes texts of a column of numbers: say which, for the site's own eyes."""
    wrong = [(row, value) for row, value in enumerate(values) if not is_missing(value) and not is_number(str(value))]
    if wrong and len(wrong) <= STRAY * n_known:
        row, value = wrong[0]
        what = f"all but {plural(len(wrong), 'cell')} of {n_known} are numbers"
        what += f"; row {row} has {value!r}"
        fix = "mend it, or name it in data.missing_values of site.toml where it stands for a missing value"
        of.notes.append(counted(f"{name}: {what}: {fix}"))


def classes(of: Finder, values: Sequence[Any], label: str) -> dict[str, Any]:
    """The classes, in the order of their names; whole numbers stay such.

    Args:
        of: The table. Labels that are missing, and classes that are not told, are noted there.
        values: The labels of all rows. [n]
        label: Their column.

    Returns:
        `classes`, as `[rows]` has them.

    Raises:
        DataError: For a column that hardly holds classes.
    """
    known = _labelled(of, values, label)
    if all(isinstance(value, bool) for value in known):
        return {"classes": [False, True]}
    if all(isinstance(value, int | float) for value in known):
        whole = all(float(value).is_integer() for value in known)
        if not whole or len(set(known)) > MOST_VALUES:
            fix = "give --task regression where it is a number to predict, or --label with the column of classes"
            what = f"it holds {len(set(known))} different numbers, which are hardly classes"
            raise DataError(what, where=f"{of.data.path}, column {label!r}", fix=fix)
        return {"classes": sorted(_enough(of, label, Counter(map(int, known))))}
    told = _enough(of, label, counts := Counter(map(str, known)))
    if not told and len(counts) > MOST_VALUES:
        fix = "name the column of classes with --label"
        what = f"it holds {len(counts)} different texts, none in {of.least} rows: these are hardly classes"
        raise DataError(what, where=f"{of.data.path}, column {label!r}", fix=fix)
    return {"classes": told}


def _labelled(of: Finder, values: Sequence[Any], label: str) -> list[Any]:
    """The labels that are there; a note says how many rows have none."""
    known = [value for value in values if not is_missing(value)]
    if len(known) < len(values):
        lacking = len(values) - len(known)
        of.notes.append(f"{label}: {plural(lacking, 'row')} without a label, which cannot be trained on")
    return known


def _enough(of: Finder, name: str, counts: Counter[Any]) -> list[Any]:
    """The values that may be told, sorted."""
    told = sorted(value for value, n in counts.items() if n >= of.least)
    for value in sorted(counts.keys() - set(told)):
        rows = f"{counts[value]} row{'s' * (counts[value] != 1)}"
        of.notes.append(f"{name}: {value!r} is not told, for {rows} of fewer than {of.least} have it")
    return told


def _range(name: str, known: Sequence[Any]) -> dict[str, list[float]]:
    """[least, greatest], wider by a tenth of the spread at both ends, and then to round numbers.

    A range does not go below 0 where no value does. A column of one value has none, for that is every row's.
    """
    least, greatest = float(min(known)), float(max(known))
    spread = greatest - least
    if not spread > 0 or not math.isfinite(spread):
        return {}
    unit = 10.0 ** math.floor(math.log10(spread))
    low, high = math.floor((least - spread / 10) / unit) * unit, math.ceil((greatest + spread / 10) / unit) * unit
    return {name: [float(f"{0.0 if least >= 0 > low else low:.12g}"), float(f"{high:.12g}")]}
