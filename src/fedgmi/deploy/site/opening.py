"""A site opened from its `site.toml`, for one message or for as long as its files stay as they are."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedgmi.deploy.settings import FederationSettings, SiteSettings, read
from fedgmi.deploy.site.site import Site, disclosable, log
from fedgmi.deploy.site.site_data import load_site
from fedgmi.errors import UserError
from fedgmi.protocol.wire import Parcel

FEDERATION = "federation.toml"
Answer = Callable[[Site, Parcel], Parcel]
Stamp = tuple[tuple[str, int, int], ...]  # path, time of the last change in ns, size


def open_site(named: Any) -> Site:
    """Open a site. The federation.toml that it agreed to lies beside its site.toml.

    Args:
        named: The path of site.toml, as the node's configuration has it.

    Raises:
        UserError: Where no path is given.
        ConfigError: For settings that cannot be.
        DataError: For rows that are not what the federation agreed on.
    """
    if not isinstance(named, str) or not named:
        raise UserError(
            "this SuperNode was started without a site",
            where="--node-config",
            fix="start it with --node-config 'site=\"/path/to/site.toml\"'",
        )
    path = Path(named).expanduser()
    settings, federation = read(SiteSettings, path), read(FederationSettings, path.parent / FEDERATION)
    rows = load_site(settings, federation, path.parent)
    return Site(
        settings, federation, path.parent / settings.folder, rows.train, rows.held_out, rows.digest, rows.validation
    )


class Kept:
    """A site that is opened once, and again where one of its files has changed.

    Whether a file has is told by its size and the time of its last change, which are asked at every message. A site
    whose files cannot be read any more says so to every message until they can.
    """

    def __init__(self, file: Path) -> None:
        """Open nothing yet.

        Args:
            file: site.toml.
        """
        self.file = file.absolute()
        self.opened = 0  # how often
        self._site: Site | None = None
        self._stamp: Stamp = ()

    def open(self, named: Any = None) -> Site:
        """The site as its files are now.

        Args:
            named: What a message's node configuration says. It is not listened to: the site is the one served.

        Raises:
            UserError: As `open_site` does.
        """
        found = self._stamped()
        if self._site is None or found != self._stamp:
            self._site = None
            self._site, self._stamp = open_site(str(self.file)), found  # files that change meanwhile are read again
            self.opened += 1
        return self._site

    def _stamped(self) -> Stamp:
        settings = read(SiteSettings, self.file)
        rows = (self.file.parent / Path(settings.data.path).expanduser()).resolve()
        inner = sorted(path for path in rows.rglob("*") if path.is_file()) if rows.is_dir() else []
        every = [self.file, self.file.parent / FEDERATION, rows, *inner]
        return tuple(_stamp(path) for path in every)


def _stamp(path: Path) -> tuple[str, int, int]:
    try:
        found = path.stat()
    except OSError:
        return str(path), 0, -1
    return str(path), found.st_mtime_ns, found.st_size


def guarded(
    answer: Answer = Site.answer, opener: Callable[[Any], Site] = open_site, where: Path | None = None
) -> Callable[[Parcel, Mapping[str, Any]], Parcel]:
    """Answer requests to a site; give up before the coordinator does, and never raise.

    Args:
        answer: The site's answer.
        opener: (what the node's configuration names) → the site.
        where: The folder whose log.txt tells of a site that cannot be opened. None: that of the site.toml which the
            node's configuration names.

    Returns:
        (request, the node's configuration) → reply.
    """

    def answered(request: Parcel, settings: Mapping[str, Any]) -> Parcel:
        told = where or Path(str(settings.get("site") or "")).expanduser().parent
        try:
            site = opener(settings.get("site"))
            told = site.where
            with deadline(0.9 * site.federation.deadline_s):
                return answer(site, request)
        except Exception as error:
            log(told, error)
            return Parcel({"error": disclosable(error)})

    return answered


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Stop what runs longer. A client that hangs would keep its SuperNode silent for ever.

    Args:
        seconds: How long it may run.

    Raises:
        UserError: When they are over.
    """

    def over(number: int, frame: object) -> None:
        raise UserError(f"no answer within {seconds:g} s", where="site", fix="raise deadline_s in federation.toml")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
