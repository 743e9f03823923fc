"""What would keep `fedgmi site serve` from its work, though rows are as agreed: files, device, runs that are used up.

`fedgmi site check` asks before anything is started. Nothing is connected to, and nothing is charged.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from fedgmi.deploy.settings import FederationSettings, SiteSettings
from fedgmi.deploy.site.guard import Guard, version_of
from fedgmi.deploy.site.private import beyond
from fedgmi.deploy.site.site import LEDGER
from fedgmi.deploy.site.site_data import SiteRows
from fedgmi.errors import UserError
from fedgmi.privacy.accountant import composed
from fedgmi.privacy.ledger import RAISE, PrivacyLedger
from fedgmi.report.formats import plural
from fedgmi.runs.setup import choose_device

FEW_ROWS = 50
"""Of so many rows some ten are held out by default, so that one of them is a tenth of the accuracy. A convention: below
it a site is told, and takes part all the same."""


def hindrances(
    settings: SiteSettings, federation: FederationSettings, rows: SiteRows, folder: Path
) -> tuple[UserError, ...]:
    """All that would make `serve` refuse, or a run's first request.

    Args:
        settings: site.toml.
        federation: federation.toml.
        rows: The site's.
        folder: Where site.toml lies.

    Returns:
        What was found, to be told and not raised.
    """
    found: list[UserError] = []
    with _noted(found):
        check_writable(folder / settings.folder)
    with _noted(found):
        settings.superlink.beside(folder.absolute()).checked(whole=False)
    with _noted(found):
        choose_device(settings.device)
    version = version_of(rows.content, rows.digest)
    guard = Guard(folder / settings.folder, version, federation.rounds, settings.max_runs)
    with _noted(found):
        if not guard.going_on():  # such a run is answered to its end
            found += _used_up(settings, federation, guard)
    return tuple(found)


def hints(settings: SiteSettings, rows: SiteRows) -> Iterator[str]:
    """What the site should know, and what hinders nothing.

    Args:
        settings: site.toml.
        rows: The site's.

    Yields:
        A sentence each.
    """
    n = sum(len(part) for part in (rows.train, rows.validation, rows.held_out) if part is not None)
    if n < FEW_ROWS:
        held_out = "none" if rows.held_out is None else str(len(rows.held_out))
        yield (
            f"{plural(n, 'row')} are few: {held_out} held out say little of how good the predictor is, and what the "
            f"site sends tells much of each row. Is {settings.data.path} the whole file?"
        )
    link = settings.superlink
    if link.unsaid and link != type(link)():
        options = ", ".join(f"--{name.replace('address', 'superlink').replace('_', '-')}" for name in link.unsaid)
        yield f"[superlink] lacks {', '.join(link.unsaid)}: give `fedgmi site serve` {options}"


def _used_up(settings: SiteSettings, federation: FederationSettings, guard: Guard) -> Iterator[UserError]:
    """Limits of site.toml that another run would pass."""
    used = guard.used()
    if settings.max_runs is not None and used >= settings.max_runs:
        what = f"these rows were in {plural(used, 'run')}, and it is {settings.max_runs}: another run is refused"
        fix = "raise it in site.toml if these rows are to tell more, or take part with other rows"
        yield UserError(what, where="max_runs", fix=fix)
    if federation.privacy.on:
        yield from _over_limits(settings, federation, guard)
        return
    noise = federation.epsilon
    if noise is None:
        return
    ledger = PrivacyLedger(guard.where / LEDGER, compose=composed(settings.max_delta))
    made, (spent, _) = len(ledger.releases()), ledger.spent()
    if settings.max_releases is not None and made >= settings.max_releases:
        what = f"{plural(made, 'noisy release')} of {settings.max_releases} are made: another run is refused"
        yield UserError(what, where="max_releases", fix=RAISE)
    # with a δ releases together may cost less than their sum, and only the ledger can say
    if settings.max_epsilon is not None and not settings.max_delta and spent + noise > settings.max_epsilon:
        what = f"ε = {spent:g} of {settings.max_epsilon:g} is spent, and a run costs {noise:g}: another run is refused"
        yield UserError(what, where="max_epsilon", fix=RAISE)


def _over_limits(settings: SiteSettings, federation: FederationSettings, guard: Guard) -> Iterator[UserError]:
    """A limit that a whole run with `[privacy]` would pass."""
    cost = federation.cost(federation.setup().method())
    assert cost is not None
    limits = settings.max_epsilon, settings.max_releases, settings.most_delta
    ledger = PrivacyLedger(guard.where / LEDGER, *limits, compose=composed(settings.max_delta))
    over = beyond(cost, ledger)
    if over:
        yield UserError(f"one run more would be {over}", where="privacy ledger", fix=RAISE)


def check_writable(where: Path) -> None:
    """Refuse a folder that serve could not write into, or make. Nothing is left there.

    Args:
        where: The site's folder.

    Raises:
        UserError: It says why.
    """
    there = next(path for path in (where, *where.absolute().parents) if path.exists())
    try:
        with TemporaryFile(dir=there):
            pass
    except OSError as error:
        what = f"{where} cannot be written ({error.strerror or error})"
        fix = "give the user that runs fedgmi site serve the right to write there, or name another folder in site.toml"
        raise UserError(what, where="folder", fix=fix) from error


@contextmanager
def _noted(found: list[UserError]) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        found.append(error)
