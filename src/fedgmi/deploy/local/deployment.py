"""A whole deployment on this machine, as processes: for the demonstration, for tests, and for trying out faults."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedgmi.deploy.coordinator import status
from fedgmi.deploy.link import SWITCHES
from fedgmi.deploy.local.processes import Processes, exit_on_sigterm, free_port, listens
from fedgmi.deploy.setup.init import CERTIFICATES, CONNECTION, FEDERATION, RESULTS, init
from fedgmi.errors import UserError
from fedgmi.runs.records import Summary
from fedgmi.storage import files

ENVIRONMENT = SWITCHES | {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
TLS = {"ca-certfile": "ca.crt", "certfile": "server.pem", "keyfile": "server.key"}
LINK = "link"
ROOT, KEY = "ca.crt", "site-key"  # beside site.toml


class Deployment(Processes):
    """A coordinator's folder, and the SuperLink and SuperNodes that are started from it.

    The processes are called `link` and `site-1`, `site-2` and so on.

    Attributes:
        app: The coordinator's folder, as `fedgmi deploy init` writes it.
        sites: Each site's `site.toml`. Its key and the authority's certificate lie beside it.
        port: The SuperLink's.
        program: What is called to serve a site, in place of `fedgmi`. Another one serves to try out faults.
    """

    def __init__(
        self, where: Path, name: str, federation: str, sites: Sequence[Path], *, program: Sequence[str] = ("fedgmi",)
    ) -> None:
        """Write the coordinator's folder, certificates and keys. Nothing is started yet.

        Args:
            where: A new folder: `app` and `logs` come into it.
            name: The federation's.
            federation: The text of `federation.toml`. It is also written beside each site's settings.
            sites: Each site's `site.toml`.
            program: As above.

        Raises:
            UserError: The folder cannot be used, or the certificates cannot be made.
        """
        app = where.absolute() / "app"
        super().__init__(where.absolute(), app, ENVIRONMENT)
        self.app, self.sites, self.port, self.program = app, list(sites), free_port(), tuple(program)
        self._submitted = 0.0
        init(app, name=name, sites=len(sites), address=f"127.0.0.1:{self.port}")
        for place in (app, *(site.parent for site in sites)):
            files.write_text(place / FEDERATION, federation)
        self.call("sh", f"{CERTIFICATES}.sh")
        for i, site in enumerate(self.sites):
            for file, name in (("ca.crt", ROOT), (f"site-{i + 1}", KEY)):
                shutil.copy(app / CERTIFICATES / file, site.parent / name)
        self.connect()

    def connect(self) -> None:
        """Tell the command `flwr` where the SuperLink is, as README.md has it."""
        home = self.app / ".flwr"
        home.mkdir(mode=0o700, exist_ok=True)
        files.write_text(home / "config.toml", (self.app / CONNECTION).read_text(encoding="utf-8"))

    def move(self, where: Path) -> None:
        """Move the coordinator's folder. The SuperLink must not run.

        Args:
            where: A new folder.
        """
        self.app.rename(where)
        self.app = self.directory = where

    @property
    def environment(self) -> dict[str, str]:
        """That of all processes. Flower's own files lie in the coordinator's folder."""
        return super().environment | {"FLWR_HOME": str(self.app / ".flwr")}

    @property
    def out(self) -> Path:
        """The results folder."""
        return self.app / RESULTS

    def start_link(self) -> None:
        """Start the SuperLink and wait until it listens.

        Raises:
            UserError: It ends before it listens, or takes too long.
        """
        keys = [f"--ssl-{kind}={CERTIFICATES}/{file}" for kind, file in TLS.items()]
        more = ["--enable-supernode-auth", "--database", "superlink.db", "--disable-runtime-dependency-installation"]
        self.start(LINK, "flower-superlink", "--host", "127.0.0.1", "--port", str(self.port), *keys, *more)
        self.until(lambda: listens(self.port), "the SuperLink listens", watched=LINK)

    def register(self) -> None:
        """Make the sites' public keys known to the SuperLink."""
        for i in range(len(self.sites)):
            self.call("flwr", "supernode", "register", f"{CERTIFICATES}/site-{i + 1}.pub", "fedgmi")

    def start_node(self, i: int) -> None:
        """Start `fedgmi site serve` for site i, counted from 0. Its process is called `site-{i + 1}`."""
        site = self.sites[i]
        link = "--superlink", f"127.0.0.1:{self.port}", "--root-certificates", str(site.parent / ROOT)
        own = "--key", str(site.parent / KEY), "--quick"
        self.start(f"site-{i + 1}", *self.program, "site", "serve", str(site), *link, *own)

    def submit(self) -> str:
        """Submit the run with `flwr run`. After a failure it goes on from its last checkpoint.

        Returns:
            Flower's id of the run.
        """
        self._submitted = time.time()
        quick = "--run-config", "quick=true"
        said = json.loads(self.call("flwr", "run", ".", "fedgmi", "--format", "json", *quick))
        if "run-id" not in said:  # Flower's exit code does not tell
            what = str(said.get("error-message") or said)
            raise UserError(what, where="flwr run", fix="see the app's files") from None
        return str(said["run-id"])

    def state(self) -> str:
        """What the coordinator says of itself: waiting, running, finished or failed. "" before it has begun."""
        if not (self.out / status.STATUS).exists():
            return ""
        found = status.read(self.out)
        return found.state if found.updated >= self._submitted else ""

    def over(self) -> bool:
        """Whether the coordinator has come to an end, good or bad."""
        return self.state() in ("finished", "failed")

    def log(self) -> str:
        """The coordinator's log.txt, so far."""
        path = self.out / "log.txt"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def finish(self, patience_s: float) -> dict[str, Any]:
        """Wait for the coordinator's end.

        Args:
            patience_s: How long to wait, in seconds.

        Returns:
            The run's summary.

        Raises:
            UserError: The run failed, or took longer.
        """
        self.until(self.over, "the run ends", patience_s)
        if self.state() == "failed":
            last = self.log().splitlines()[-1:]
            raise UserError(" ".join(last) or "it failed", where=str(self.out), fix=f"see {self.where / 'logs'}")
        return Summary.read(self.out).to_json()

    def stop(self, last: str = LINK) -> None:
        """Stop the sites, then the SuperLink, then whatever helpers are left."""
        super().stop(last)


@contextmanager
def running(
    where: Path,
    name: str,
    federation: str,
    sites: Sequence[Path],
    *,
    late: Collection[int] = (),
    program: Sequence[str] = ("fedgmi",),
) -> Iterator[Deployment]:
    """Run a SuperLink and sites while the block runs. Nothing is left running, whatever ends it, SIGTERM included.

    Args:
        where: A new folder.
        name: The federation's.
        federation: The text of `federation.toml`.
        sites: Each site's `site.toml`.
        late: Sites, counted from 0, that are not started yet.
        program: See `Deployment`.

    Yields:
        The deployment. No run has been submitted.

    Raises:
        UserError: The folder cannot be used, or a process does not start.
    """
    with exit_on_sigterm():
        deployment = Deployment(where, name, federation, sites, program=program)
        try:
            deployment.start_link()
            deployment.register()
            for i in set(range(len(sites))) - set(late):
                deployment.start_node(i)
            yield deployment
        finally:
            deployment.stop()
