"""Where a deployment stands: the file that the coordinator writes after every exchange, and the table that shows it."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedgmi.deploy.coordinator import prometheus
from fedgmi.errors import UserError, sentence
from fedgmi.protocol.words import one_line
from fedgmi.report.formats import bare_table, plural, size
from fedgmi.runs.records import SiteStatus, Status
from fedgmi.storage import files

__all__ = ["STATUS", "SiteStatus", "Status", "print_status", "read", "write"]
STATUS = Status.file
SOON_S = 60.0  # a site that is served starts its SuperNode again within a minute, whatever ended it


def write(out: Path, status: Status) -> None:
    """Write `status.json` and `metrics.prom`, each atomically.

    Args:
        out: The results folder.
        status: What to write.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
    """
    Status.write(out, status.model_dump())
    files.write_text(out / prometheus.METRICS, prometheus.text(status))


def read(out: Path) -> Status:
    """Read `status.json`.

    Args:
        out: The results folder.

    Returns:
        The status.

    Raises:
        UserError: There is none, or it is damaged, or of another version.
    """
    if not (out / STATUS).exists():
        fix = "give the folder that `out` in the app's pyproject.toml names. It is made when a run begins; why one has "
        fix += "ended before that says: flwr ls fedgmi --format json"
        raise UserError("no deployment writes its status there", where=str(out), fix=fix)
    return Status.read(out)


def failed(out: Path, name: str, why: str) -> None:
    """Write that a run has failed before it began. What is known of sites from an earlier one stays.

    Args:
        out: The results folder.
        name: The federation's.
        why: In words.

    Raises:
        UserError: The disk is full, or the folder cannot be written.
    """
    before = Status(name=name, round=0, rounds=0, state="failed", updated=0.0, sites={})
    with suppress(UserError):
        before = read(out)
    write(out, before.model_copy(update={"name": name, "state": "failed", "updated": time.time(), "note": why}))


def print_status(status: Status, console: Console, *, now: float | None = None) -> None:
    """Print the table of sites, where the run stands, and a warning where the coordinator has gone silent.

    Args:
        status: What to show.
        console: Where to print.
        now: The present, in unix seconds. None: by the clock.
    """
    age = max(0.0, (time.time() if now is None else now) - status.updated)
    there = sum(site.alive for site in status.sites.values())
    console.print(sites_table(status, status.updated + age))
    for line in notes(status):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print()
    where = f"{status.state}, round {max(0, status.round)} of {status.rounds}"
    n = status.n_sites
    sites = f"{there} of {plural(n, 'site')} alive"
    sites += f", {n - len(status.sites)} never came" if n > len(status.sites) else ""
    console.print(Text(f"{one_line(status.name)}: {where}, {sites}; written {ago(age)} ago."))
    if status.note:
        console.print(Text(sentence(one_line(status.note)), style="yellow"))
    if silent(status, status.updated + age):
        what = f"That is more than the deadline of {ago(status.deadline_s)}, so the coordinator is probably gone."
        check = "Check with: flwr ls fedgmi --format json (status-details)."
        said = f"{what} {check} The same `flwr run` goes on from the checkpoint."
        console.print(Text(said, style="yellow"))


def silent(status: Status, now: float) -> bool:
    """Whether the coordinator should have written something new by now, and has not.

    Args:
        status: What it wrote last.
        now: The present, in unix seconds.
    """
    return status.state in ("waiting", "running") and now - status.updated > status.deadline_s


def trouble(status: Status, *, now: float | None = None) -> str:
    """Why somebody should look.

    The run has failed; its coordinator is silent; a site is away while it runs, or has never come; a site is connected,
    and what it answers is of no use, or it answers nothing; or sites are waited
    for, and nodes are not let in, or no site at all has come in `SOON_S`.

    Args:
        status: What the coordinator wrote last.
        now: The present, in unix seconds. None: by the clock.

    Returns:
        A line; "" where nobody need look.
    """
    now = time.time() if now is None else now
    there = sum(site.alive for site in status.sites.values())
    if status.state == "failed":
        return "the run has failed"
    if silent(status, now):
        return f"the coordinator has written nothing for {ago(now - status.updated)}, longer than its deadline"
    if status.state == "running" and there < status.n_sites:
        away = [one_line(name) for name, site in sorted(status.sites.items()) if not site.alive]
        never = status.n_sites - len(status.sites)
        missing = [*([f"away: {', '.join(away)}"] if away else []), *([f"{never} never came"] if never > 0 else [])]
        return f"{there} of {plural(status.n_sites, 'site')} alive while the run goes on ({'; '.join(missing)})"
    missing = [one_line(name) for name, site in sorted(status.sites.items()) if site.alive and site.missing]
    if status.state in ("running", "finished") and missing:
        when = "while the run goes on" if status.state == "running" else "at the end of the run"
        return f"connected, and absent {when}: {', '.join(missing)}"
    if status.state == "waiting" and status.turned_away:
        return f"sites are waited for, and {plural(len(status.turned_away), 'node')} not let in"
    if status.state == "waiting" and not there and 0 < status.waiting_since < now - SOON_S:
        return f"no site has come in {ago(now - status.waiting_since)}"
    return ""


def notes(status: Status) -> list[str]:
    """Why sites were absent last, and whose node is not let in: a line each, for they do not fit into a column."""
    absent = [f"{one_line(name)}: {one_line(site.note)}" for name, site in sorted(status.sites.items()) if site.note]
    return [*absent, *(f"not let in: {one_line(why)}" for why in status.turned_away)]


def sites_table(status: Status, now: float) -> Table:
    """Make the table, one row a site.

    Args:
        status: What to show.
        now: The present, in unix seconds.

    Returns:
        The table.
    """
    table = bare_table("Sites", ["site", "alive", "last round", "seen", "rows", "down", "up", "absent"])
    for name, site in sorted(status.sites.items()):
        table.add_row(
            one_line(name),
            _alive(site),
            str(min(site.last_round, status.rounds)) if site.last_round >= 0 else "–",
            f"{ago(max(0.0, now - site.last_seen))} ago" if site.last_seen else "never",
            f"{site.rows:,}",
            size(site.bytes_down),
            size(site.bytes_up),
            str(site.absent),
        )
    return table


def _alive(site: SiteStatus) -> Text:
    """Whether a site is connected, and whether its answers are of use."""
    if not site.alive:
        return Text("no", style="red")
    return Text("absent", style="yellow") if site.missing else Text("yes")


def ago(seconds: float) -> str:
    """Write a duration in its largest unit.

    Examples:
        >>> ago(42), ago(600), ago(7_300), ago(200_000)
        ('42 s', '10 min', '2 h', '2 days')
    """
    for length, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * length or (unit == "min" and seconds >= length):
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
