"""The two apps that a Flower app of ours names, as thin as the command line.

The ServerApp is the coordinator; a ClientApp answers for the site whose `site.toml` its SuperNode was started with:
`--node-config 'site="…/site.toml"'`. `fedgmi deploy init` writes the files that call these.
"""

from __future__ import annotations

import importlib
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedgmi.deploy.settings import FederationSettings, SiteSettings, read
from fedgmi.deploy.site import snapshot
from fedgmi.deploy.site.site import Site, disclosable, log, note
from fedgmi.deploy.site.site_data import SiteRows, load_site
from fedgmi.errors import DataError, UserError
from fedgmi.protocol.wire import Parcel

if TYPE_CHECKING:
    from fedgmi.deploy.flower import GridPost, Settings

FEDERATION = "federation.toml"
Answer = Callable[[Site, Parcel], Parcel]


def server_app(where: Path) -> Any:
    """The coordinator's app, a Flower ServerApp. Results go to the folder that the run's `out` names.

    Args:
        where: The folder of federation.toml.
    """

    from fedgmi.deploy.coordinator.coordinator import (
        Coordinator,  # SciPy with it: what a site starts for a message does without
    )

    def run(post: GridPost, settings: Settings) -> None:
        federation = read(FederationSettings, where / FEDERATION)
        Coordinator(federation, post, Path(str(settings.get("out") or "results"))).run()

    return flower().make_server_app(run)


def client_app(answer: Answer = Site.answer) -> Any:
    """A site's app, a Flower ClientApp. It answers one request at a time, and gives up before the coordinator does.

    Args:
        answer: The site's answer. Another one serves to try out faults.
    """

    def guarded(request: Parcel, settings: Settings) -> Parcel:
        where = Path(str(settings.get("site") or "")).expanduser().parent
        try:
            site = open_site(settings.get("site"), request.header.get("run"))
            where = site.where
            with deadline(0.9 * site.federation.deadline_s):
                return answer(site, request)
        except Exception as error:
            log(where, error)
            return Parcel({"error": disclosable(error)})

    return flower().make_client_app(guarded)


def flower() -> Any:
    """The adapter.

    Raises:
        UserError: Where Flower is not installed.
    """
    try:
        return importlib.import_module("fedgmi.deploy.flower")
    except ImportError as error:
        raise UserError(
            f"Flower cannot be imported ({error})", where="fedgmi.flower_app", fix="pip install 'fedgmi[flower]'"
        ) from error


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
    if not isinstance(named, str) or not named:
        raise UserError(
            "this SuperNode was started without a site",
            where="--node-config",
            fix="start it with --node-config 'site=\"/path/to/site.toml\"'",
        )
    path = Path(named).expanduser()
    settings, federation = read(SiteSettings, path), read(FederationSettings, path.parent / FEDERATION)
    where = path.parent / settings.folder
    rows: SiteRows | snapshot.Snapshot
    try:
        rows = load_site(settings, federation, path.parent)
    except DataError as error:
        kept = snapshot.of_run(where, run)
        if kept is None:
            raise
        if snapshot.first_told(where / "runs" / str(run), str(error)):
            note(where, f"the rows cannot be used any more ({error}) This run goes on with those that it began with")
        rows = kept
    return Site(settings, federation, where, rows.train, rows.held_out, rows.digest, rows.validation)


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
