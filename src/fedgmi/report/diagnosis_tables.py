"""A diagnosis on the terminal: the answers, every client with its proportions and its fit, and what to beware of."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill, indent

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedgmi.report.console import words
from fedgmi.report.diagnosis_words import answers, worst_first
from fedgmi.report.explained_words import Diagnosis
from fedgmi.report.formats import bare_table, number, plural, short_share, short_shares, size
from fedgmi.storage import folder

MOST_CLIENTS = 20
"""Clients that are shown."""
MOST_COLUMNS = 3
"""Components that have a column and an interval of their own."""
MOST_SHARES = 8
"""Components whose shares are all listed."""


def print_diagnosis(diagnosis: Diagnosis, out: Path, console: Console) -> None:
    """Print everything that a diagnosis says, then where the results lie.

    Args:
        diagnosis: What `diagnosis.json` holds.
        out: The results folder.
        console: Where to print.
    """
    print_words(diagnosis, console)
    console.print(words(f"Results: {out} (picture: {folder.DIAGNOSIS_PICTURE})"), soft_wrap=True)


def print_words(diagnosis: Diagnosis, console: Console) -> None:
    """Print everything that a diagnosis says.

    Args:
        diagnosis: What `diagnosis.json` holds.
        console: Where to print.
    """
    for question, sentences in answers(diagnosis).items():
        console.print(Text(question, style="bold"))
        console.print(Text(indent(fill(" ".join(sentences), console.width - 2), "  ")), soft_wrap=True)
        console.print()
    console.print(clients_table(diagnosis))
    console.print()
    for warning in diagnosis["warnings"]:
        console.print(words(f"Beware: {warning}", style="yellow"))
    console.print(words(_identity(diagnosis)))


def clients_table(diagnosis: Diagnosis) -> Table:
    """One row per client, the worst fit first: rows, proportions with intervals, misfit, and whether it fits.

    Args:
        diagnosis: What `diagnosis.json` holds.

    Returns:
        A table for the terminal.
    """
    n_components, ranked = diagnosis["n_components"], worst_first(diagnosis)
    columns = {1: []}.get(n_components, ["proportions", "give or take"])
    if 1 < n_components <= MOST_COLUMNS:
        columns = [f"component {k}" for k in range(n_components)]
    table = bare_table("Clients, the worst fit first", ["client", "rows", *columns, "misfit", "fits"])
    for i in ranked[:MOST_CLIENTS]:
        fits = "no" if i in diagnosis["unfit_clients"] else "yes"
        client = [str(diagnosis["clients"][i]), str(diagnosis["rows_per_client"][i])]
        shares, intervals = diagnosis["proportions"][i], diagnosis["proportion_intervals"][i]
        table.add_row(*client, *_shares(shares, intervals), number(diagnosis["client_misfit"][i], 2), fits)
    if len(ranked) > MOST_CLIENTS:
        table.caption = f"{len(ranked) - MOST_CLIENTS} more clients in {folder.DIAGNOSIS}"
    return table


def _shares(shares: list[float], intervals: list[list[float]]) -> list[str]:
    """A cell per component with its interval; or all in one, and half of the widest interval in another."""
    n_components = len(shares)
    if n_components == 1:
        return []
    if n_components <= MOST_COLUMNS:
        ends = [(short_share(low), short_share(high)) for low, high in intervals]
        return [f"{short_share(share)} ({low}-{high})" for share, (low, high) in zip(shares, ends, strict=True)]
    width = short_share(max(high - low for low, high in intervals) / 2)
    if n_components <= MOST_SHARES:
        return [short_shares(shares), width]
    largest = sorted(range(n_components), key=lambda k: -shares[k])[:MOST_COLUMNS]
    return [", ".join(f"{short_share(shares[k])} of {k}" for k in largest), width]


def _identity(diagnosis: Diagnosis) -> str:
    """Of what, and at what cost, in one line."""
    cost = [
        f"seed {diagnosis['seed']}",
        plural(len(diagnosis["clients"]), "client"),
        plural(sum(diagnosis["rows_per_client"]), "row"),
        f"{size(diagnosis['bytes_down'])} down, {size(diagnosis['bytes_up'])} up",
        f"{number(diagnosis['seconds'], 0)} s",
    ]
    error = diagnosis["proportion_tv"]
    truth = "" if error is None else f" Proportion error (TV): {error:.3f}."
    return f"Diagnosis of {diagnosis['scenario']}: {', '.join(cost)}.{truth}"
