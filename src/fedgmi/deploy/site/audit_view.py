"""`fedgmi site audit`: what left the site, what it has paid for its privacy, and what it refused."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedgmi.deploy.settings import SiteSettings, read
from fedgmi.deploy.site.audit import Audit
from fedgmi.deploy.site.guard import Guard
from fedgmi.deploy.site.site import LEDGER
from fedgmi.letters import printable
from fedgmi.privacy.accountant import composed, units_of
from fedgmi.privacy.ledger import PrivacyLedger
from fedgmi.report.formats import bare_table, plural, size

SHOWN = 10  # refusals, the newest
LEAVES = 6  # of a step, by name
NOTHING = "nothing of rows"


def print_audit(site_toml: Path, console: Console, days: float | None = None) -> int:
    """Show a site's logs.

    Args:
        site_toml: The site's own settings.
        console: Where to.
        days: Of the last days alone; None: of all.

    Returns:
        How many requests were refused in that time.

    Raises:
        ConfigError: For settings that cannot be.
        UserError: For a damaged ledger.
    """
    settings = read(SiteSettings, site_toml)
    where = site_toml.parent / settings.folder
    since = 0.0 if days is None else time.time() - days * 24 * 3600
    audit, refused = Audit(where), list(Audit(where).refusals(since))
    limits = settings.max_epsilon, settings.max_releases, settings.most_delta
    compose = composed(settings.max_delta)
    ledger = PrivacyLedger(where / LEDGER, *limits, compose=compose)
    console.print(_left(audit.lines(since)))
    console.print()
    console.print(_spent(ledger))
    console.print()
    most = "" if settings.max_runs is None else f" of {settings.max_runs}"
    for data, runs in Guard(where, data="", rounds=0).begun().items():
        console.print(Text(f"rows {data[:8]}: {runs}{most} runs"))
    if refused:
        console.print(_refused(refused[-SHOWN:]))
    for path, n in audit.damaged().items():
        what = f"{path}: {plural(n, 'line')} cannot be read, cut short by a crash or changed since: left out above"
        console.print(Text(what, style="bold yellow"), soft_wrap=True)
    console.print(Text(f"{plural(len(refused), 'request')} refused", style="bold yellow" if refused else "green"))
    return len(refused)


def _left(lines: Iterable[Mapping[str, Any]]) -> Table:
    """What left, a row for each run and step."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for line in lines:
        groups.setdefault((str(line.get("run"))[:8], str(line.get("name"))), []).append(line)
    table = bare_table("What left the site", ["run", "step", "times", "size", "leaves", "tells"])
    for (run, name), every in groups.items():
        n_bytes = sum(int(line.get("bytes", 0)) for line in every)
        leaves, tells = Text(printable(_leaves(every[-1]))), str(every[-1].get("tells") or NOTHING)
        table.add_row(run, name, str(len(every)), size(n_bytes), leaves, tells)
    return table


def _leaves(line: Mapping[str, Any]) -> str:
    leaves = line.get("leaves", [])
    named = [f"{leaf['name']} {leaf['dtype']} {leaf['shape']}" for leaf in leaves[:LEAVES]]
    return "\n".join([*named, *([f"{len(leaves) - LEAVES} more"] if len(leaves) > LEAVES else [])])


def _spent(ledger: PrivacyLedger) -> Table:
    """The privacy ledger, a row for each version of the rows."""
    releases, refusals = ledger.releases(), ledger.refusals()
    table = bare_table("Privacy ledger", ["rows", "releases", "what", "ε", "δ", "refused"])
    for data in dict.fromkeys([*(one.data for one in releases), *(str(line.get("data")) for line in refusals)]):
        own = [one for one in releases if one.data == data]
        epsilon, delta = ledger.spent(data)
        refused = sum(line.get("data") == data for line in refusals)
        what = ", ".join(dict.fromkeys(one.what for one in own))
        table.add_row(data[:8] or "unnamed", str(len(own)), what, f"{epsilon:g}", f"{delta:g}", str(refused))
    epsilon, delta = ledger.spent()
    limit = "no limit" if ledger.max_epsilon is None else f"of {ledger.max_epsilon:g}"
    most = "" if ledger.max_releases is None else f" of {ledger.max_releases}"
    every = f"{len(releases)}{most}"
    table.add_row("all", every, "", f"{epsilon:g} ({limit})", f"{delta:g}", str(ledger.n_refused()))
    if len(units_of(releases)) > 1:
        table.caption = "Releases are of several units: ε of all is counted for one row (docs/privacy.md)."
    return table


def _refused(lines: Iterable[Mapping[str, Any]]) -> Table:
    table = bare_table("Refused, the newest", ["when", "run", "request", "why"])
    for line in lines:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(line["time"])))
        asked = f"{line.get('kind', '?')} {line.get('round', '')}"
        table.add_row(*(str(cell) for cell in (when, str(line.get("run"))[:8], asked, line.get("why", ""))))
    return table
