"""`fedgmi site check`: whether a site's rows are what the federation agreed on, and what of them leaves the site."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fedgmi.data.rows import Client
from fedgmi.deploy.settings import FederationSettings, SiteSettings, read
from fedgmi.deploy.site.site_data import SiteRows, load_site
from fedgmi.methods import WITHOUT_COMPONENTS
from fedgmi.methods.fedgmi.sketch import count_words
from fedgmi.mixture.codebook import MIN_CELL_ROWS
from fedgmi.report.formats import bare_table, listed, plural, size
from fedgmi.runs.experiment import check_method, new_task

MOST_NAMES = 12  # features listed by name
NEVER = (
    "its rows, and the names and values of ignored columns",
    "the label of any single row",
    "its secret, from which noise is drawn",
    "its predictor",
)


@dataclass(frozen=True)
class Check:
    """A site that has passed.

    class_counts: per class how many rows train and how many are held out; none without labels · n_counts: of the
    histogram of codewords and labels, 0 where the method asks for none · histogram_bytes: its size.
    """

    settings: SiteSettings
    federation: FederationSettings
    rows: SiteRows
    class_counts: tuple[tuple[str, int, int], ...]
    n_counts: int

    @property
    def histogram_bytes(self) -> int:
        return self.n_counts * torch.int32.itemsize


def check(site_toml: Path, federation_toml: Path) -> Check:
    """Read both files and the site's rows. Raises ConfigError and DataError, as `load_site` does; connects nowhere."""
    settings, federation = read(SiteSettings, site_toml), read(FederationSettings, federation_toml)
    check_method(federation.method)
    task = new_task(federation.config(), federation.rows.as_schema(), 1)
    rows = load_site(settings, federation, site_toml.parent)
    counts = (_class_counts(part, task.schema.n_classes) for part in (rows.train, rows.held_out))
    return Check(
        settings,
        federation,
        rows,
        tuple(zip(task.schema.classes, *counts, strict=True)),
        count_words(task) if federation.method.has_histogram else 0,
    )


def leaves(check: Check) -> Iterator[str]:
    """What the coordinator is sent, one sentence each."""
    rows, method, histogram = check.rows, check.federation.method, check.n_counts > 0
    yield "its name, how many rows it has, and, where something fails, a line that quotes no row"
    if histogram or check.federation.rows.kind == "tabular":
        yield "sums of its features, Σx and Σx², of which the federation's mean and deviation are made"
    if histogram:
        yield (
            "sums of its projected features and their products, then sums and counts of its rows in each codebook "
            f"cell, of which the codebook is made; cells with fewer than {MIN_CELL_ROWS} of its rows are kept back"
        )
        yield f"once, how many of its rows have each codeword{_and_label(check)}: {_histogram(check)}"
    if method.name in WITHOUT_COMPONENTS:
        yield "updates of models, in every round"
    else:
        yield "its proportions π: how much of every component it has, in every round"
        yield "updates of the shared densities and experts, weighted by that, in every round"
        yield "sums over its rows by which evidence is judged, such as the bound on their likelihood, in every round"
    if rows.held_out is not None and rows.held_out.y is not None:
        yield f"its predictor's accuracy on the {plural(len(rows.held_out), 'row')} held out"


def warning(check: Check) -> str:
    """What follows where nothing hides a single site's messages."""
    learns = []
    if check.federation.method.name not in WITHOUT_COMPONENTS:
        learns.append("every site's proportions")
    if check.n_counts:
        noise = "" if check.federation.method.epsilon is None else ", with its noise"
        learns.append(f"its histogram of codewords{_and_label(check).replace(' and ', ' × ')}{noise}")
    learnt = " and ".join(learns) or "every site's updates"
    rebuilt = "; proportions and shared models together make a site's predictor" if learns else ""
    return f"Without secure aggregation, which fedgmi does not bring, the coordinator learns {learnt}{rebuilt}."


def print_check(check: Check, console: Console) -> None:
    """What was read and how it was matched; then what leaves the site, and what never does."""
    _paragraph(console, "Rows", _rows(check))
    if check.class_counts:
        console.print(Padding(_class_table(check), (0, 0, 0, 2)))
        console.print()
    _paragraph(console, "Leaves the site", leaves(check), "· ")
    _paragraph(console, "Never leaves it", NEVER, "· ")
    console.print(Text(warning(check), style="bold yellow"))
    console.print()
    console.print(Text(f"{check.settings.name} is ready for {check.federation.name}.", style="green"))


def _rows(check: Check) -> Iterator[str]:
    rows, agreed = check.rows, check.federation.rows
    held_out = 0 if rows.held_out is None else len(rows.held_out)
    n = len(rows.train) + held_out
    yield f"{plural(n, 'row')}: {len(rows.train):,} to train on, {held_out:,} held out"
    if agreed.kind == "image":
        yield f"pictures of {'×'.join(map(str, agreed.shape))}, by {rows.columns[0]}"
    else:
        yield f"{plural(len(agreed.features), 'feature')}, as agreed: {listed(agreed.features, MOST_NAMES)}"
    for name, (least, greatest) in agreed.ranges.items():
        yield f"{name} within [{least:g}, {greatest:g}], as agreed"
    if rows.label is not None:
        lacking = sum(train + held_out == 0 for _, train, held_out in check.class_counts)
        without = f"; {lacking} of {len(check.class_counts)} classes have no row here" if lacking else ""
        yield f"labels by {rows.label}{without}"
    if rows.ignored:
        yield f"ignored: {listed(rows.ignored, MOST_NAMES)}"


def _class_table(check: Check) -> Table:
    table = bare_table("", ["class", "train", "held out"])
    for name, train, held_out in check.class_counts:
        table.add_row(Text(name), f"{train:,}", f"{held_out:,}")
    return table


def _class_counts(part: Client | None, n_classes: int) -> list[int]:
    if part is None or part.y is None:
        return [0] * n_classes
    counts: list[int] = part.y.bincount(minlength=n_classes).tolist()
    return counts


def _and_label(check: Check) -> str:
    return " and label" if check.class_counts else ""


def _histogram(check: Check) -> str:
    """Its size, and what protects it."""
    epsilon = check.federation.method.epsilon
    cost = f"{plural(check.n_counts, 'count')}, {size(check.histogram_bytes)}"
    if epsilon is None:
        return f"{cost}, without noise (method.epsilon is unset), so its label counts and rare rows show as they are"
    return (
        f"{cost}, with noise of ε = {epsilon:g}: whatever goes out is at most e^ε times as likely with any one row as "
        "without it. Nothing else in this list is protected"
    )


def _paragraph(console: Console, title: str, lines: Iterator[str] | tuple[str, ...], bullet: str = "") -> None:
    console.print(Text(title, style="bold"))
    for line in lines:
        console.print(Padding(Text(f"{bullet}{line}"), (0, 0, 0, 2)))
    console.print()
