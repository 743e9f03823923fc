"""A site opened from its `site.toml`, for one message or for as long as its files stay as they are."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fedgmi.deploy.settings import FederationSettings, SiteSettings, read
from fedgmi.deploy.site import snapshot
from fedgmi.deploy.site.own_log import log, note
from fedgmi.deploy.site.own_secret import secret_of
from fedgmi.deploy.site.site import Site
from fedgmi.deploy.site.site_data import SiteRows, load_site
from fedgmi.deploy.site.telling import disclosable
from fedgmi.errors import DataError, RequestError, UserError
from fedgmi.protocol.wire import Parcel

FEDERATION = "federation.toml"
Answer = Callable[[Site, Parcel], Parcel]
Stamp = tuple[tuple[str, int, int], ...]  # path, time of the last change in ns, size


def open_site(named: Any, run: object = None) -> Site:
    """Open a site. The federation.toml that it agreed to lies beside its site.toml.

    Args:
        named: The path of site.toml, as the node's configuration has it.
        run: The run that asks. Where it has begun here, and rows cannot be read any more, those of its beginning count.

    Raises:
        UserError: Where no path is given.
        ConfigError: For settings that cannot be.
        DataError: For rows that are not what the federation agreed on.
    """
    return _opened(named, run)[0]


def _opened(named: Any, run: object) -> tuple[Site, bool]:
    """A site, and whether it has the rows of its file."""
    if not isinstance(named, str) or not named:
        raise RequestError(
            "this SuperNode was started without a site",
            where="--node-config",
            fix="start it with --node-config 'site=\"/path/to/site.toml\"'",
        )
    path = Path(named).expanduser()
    settings, federation = read(SiteSettings, path), read(FederationSettings, path.parent / FEDERATION)
    where, rows = path.parent / settings.folder, None
    if federation.noisy:
        secret_of(where)  # rows are parted by it
    read_rows: SiteRows | snapshot.Snapshot
    try:
        read_rows = rows = load_site(settings, federation, path.parent)
    except DataError as error:
        kept = snapshot.of_run(where, run)
        if kept is None:
            raise
        if snapshot.first_told(where / "runs" / str(run), str(error)):
            note(where, f"the rows cannot be used any more ({error}) This run goes on with those that it began with")
        read_rows = kept
    parts = read_rows.train, read_rows.held_out, read_rows.digest, read_rows.validation, read_rows.content
    return Site(settings, federation, where, *parts), rows is not None


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

    def open(self, named: Any = None, run: object = None) -> Site:
        """The site as its files are now.

        Args:
            named: What a message's node configuration says. It is not listened to: the site is the one served.
            run: As `open_site` has it.

        Raises:
            UserError: As `open_site` does.
        """
        found = self._stamped()
        if self._site is None or found != self._stamp:
            self._site = None
            site, of_file = _opened(str(self.file), run)
            self.opened += 1
            if not of_file:
                return site
            self._site, self._stamp = site, found  # files that change meanwhile are read again
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
    answer: Answer = Site.answer, opener: Callable[[Any, object], Site] = open_site, where: Path | None = None
) -> Callable[[Parcel, Mapping[str, Any]], Parcel]:
    """Answer requests to a site; give up before the coordinator does, and never raise.

    Args:
        answer: The site's answer.
        opener: (what the node's configuration names, the run that asks) → the site.
        where: The folder whose log.txt tells of a site that cannot be opened. None: that of the site.toml which the
            node's configuration names.

    Returns:
        (request, the node's configuration) → reply.
    """

    def answered(request: Parcel, settings: Mapping[str, Any]) -> Parcel:
        told = where or Path(str(settings.get("site") or "")).expanduser().parent
        try:
            site = opener(settings.get("site"), request.header.get("run"))
            told = site.where
            with deadline(0.9 * site.federation.deadline_s):
                return answer(site, request)
        except Exception as error:
            with suppress(UserError):  # a full disk
                log(told, error)
            return Parcel({"error": disclosable(error)})

    return answered


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Stop what runs longer. A client that hangs would keep its SuperNode silent for ever.

    Args:
        seconds: How long it may run.

    Raises:
        RequestError: When they are over.
    """

    def over(number: int, frame: object) -> None:
        raise RequestError(f"no answer within {seconds:g} s", where="site", fix="raise deadline_s in federation.toml")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
