"""`fedgmi site check` on the terminal: what was read, what leaves the site, and all that is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fedgmi.data.validate import TEACHES_NOTHING, teaches_nothing
from fedgmi.deploy.site.filled import filled_words
from fedgmi.deploy.site.readiness import hints
from fedgmi.deploy.site.site_check import Check, leaves, may_come_out, never, warning
from fedgmi.errors import ROWS, UserError, counted
from fedgmi.report.console import tell
from fedgmi.report.formats import bare_table, listed, plural

MOST_NAMES = 12  # features listed by name


def print_check(check: Check, console: Console, *, ready: bool = True) -> None:
    """What was read and how it was matched; then what leaves the site, and what never does.

    Args:
        check: Rows that are as agreed.
        console: Where to print.
        ready: Whether nothing hinders `serve`.
    """
    _paragraph(console, "Rows", _rows(check))
    if check.class_counts:
        console.print(Padding(_class_table(check), (0, 0, 0, 2)))
        console.print()
    if lacks(check):
        console.print(Text(lacks(check), style="bold yellow"))
        console.print()
    _paragraph(console, "Leaves the site", leaves(check), "· ")
    _paragraph(console, "Never leaves it", never(check), "· ")
    if may_come_out(check):
        console.print(Text(may_come_out(check), style="yellow"))
        console.print()
    console.print(Text(warning(check), style="bold yellow"))
    console.print()
    for hint in hints(check.settings, check.rows):
        console.print(Text(hint, style="bold yellow"))
        console.print()
    if ready:
        console.print(Text(f"{check.settings.name} is ready for {check.federation.name}.", style="green"))
    else:
        console.print(Text(f"Its rows are as agreed. {check.settings.name} cannot be served yet.", style="bold red"))


def _rows(check: Check) -> Iterator[str]:
    rows, agreed = check.rows, check.federation.rows
    held_out = 0 if rows.held_out is None else len(rows.held_out)
    validation = 0 if rows.validation is None else len(rows.validation)
    n, choosing = len(rows.train) + validation + held_out, f"{validation:,} for validation, " if validation else ""
    yield f"{plural(n, 'row')}: {len(rows.train):,} to train on, {choosing}{held_out:,} held out"
    if agreed.kind == "image":
        yield f"pictures of {'×'.join(map(str, agreed.shape))}, by {rows.columns[0]}"
    else:
        yield f"{plural(len(agreed.features), 'feature')}, as agreed: {listed(agreed.features, MOST_NAMES)}"
    for name, (least, greatest) in agreed.ranges.items():
        yield f"{name} within [{least:g}, {greatest:g}], as agreed"
    x = torch.cat([part.x for part in (rows.train, rows.validation, rows.held_out) if part is not None])
    yield from filled_words(x, agreed.as_schema(), rows.columns, rows.unknown)
    if rows.label is not None:
        lacking = sum(not any(counts) for _, *counts in check.class_counts)
        without = f"; {lacking} of {len(check.class_counts)} classes have no row here" if lacking else ""
        yield f"labels by {rows.label}{without}"
    if rows.ignored:
        yield f"ignored: {listed(rows.ignored, MOST_NAMES)}"


def lacks(check: Check) -> str:
    """What the site's own training rows lack, and what follows; empty where they lack nothing."""
    schema, rows = check.federation.rows.as_schema(), check.rows
    if not teaches_nothing(schema, rows.train):
        return ""
    what, so = TEACHES_NOTHING[schema.task]
    found = f"{what} the {plural(len(rows.train), 'training row')} of {check.settings.name} (by {rows.label}): {so}"
    return f"{found}. The federation's models learn from the other sites' rows; is it the right column?"


def print_problems(found: Sequence[UserError], console: Console) -> None:
    """All that is wrong, a line each, and how many there are.

    Args:
        found: What `check` raised, apart, or what hinders `serve`.
        console: Where to print.
    """
    for problem in found:
        tell(console, "error", str(problem))
    last = [f"{len(found)} problems; nothing was sent anywhere."] if len(found) > 1 else []
    if any(counted(str(problem)) != str(problem) for problem in found):
        last.append(ROWS)
    if last:
        console.print(Text(" ".join(last)), soft_wrap=True)


def _class_table(check: Check) -> Table:
    table = bare_table("", ["class", "train", "validation", "held out"])
    for name, *counts in check.class_counts:
        table.add_row(Text(name), *(f"{count:,}" for count in counts))
    return table


def _paragraph(console: Console, title: str, lines: Iterator[str] | tuple[str, ...], bullet: str = "") -> None:
    console.print(Text(title, style="bold"))
    for line in lines:
        console.print(Padding(Text(f"{bullet}{line}"), (0, 0, 0, 2)))
    console.print()
