"""A whole deployment on this machine, as processes: for the demonstration, for tests, and for trying out faults.

What it starts carries a mark in its environment, by which everything is found and stopped again: Flower's own helpers
live in sessions of their own, and some survive a signal. The mark ends in the name of the process that they belong to.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fedgmi.deploy.coordinator import status
from fedgmi.deploy.setup.init import CERTIFICATES, CONNECTION, FEDERATION, RESULTS, init
from fedgmi.errors import UserError
from fedgmi.storage import files, folder

MARK = "FEDGMI_DEPLOYMENT"
QUIET = {  # Flower neither calls its makers nor installs anything
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "PYTHONUNBUFFERED": "1",
}
PATIENCE_S = 60.0


class Deployment:
    """A coordinator's folder, and the SuperLink and SuperNodes that were started from it.

    where: a new folder; `app` in it is what `fedgmi deploy init` writes, `logs` what the processes say
    · federation: the text of federation.toml · sites: each site's site.toml, which gets the same federation.toml.
    """

    def __init__(self, where: Path, name: str, federation: str, sites: Sequence[Path]) -> None:
        self.where, self.app, self.sites = where.absolute(), where.absolute() / "app", list(sites)
        self.port = free_port()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._mark, self._submitted = secrets.token_hex(8), 0.0
        init(self.app, name=name, sites=len(sites), address=f"127.0.0.1:{self.port}")
        for place in (self.app, *(site.parent for site in sites)):
            files.write_text(place / FEDERATION, federation)
        self.call("sh", f"{CERTIFICATES}.sh")
        home = self.app / ".flwr"
        home.mkdir(mode=0o700)
        files.write_text(home / "config.toml", (self.app / CONNECTION).read_text(encoding="utf-8"))
        (self.where / "logs").mkdir()

    @property
    def out(self) -> Path:
        """The results folder."""
        return self.app / RESULTS

    @property
    def environment(self) -> dict[str, str]:
        """Of all processes: Flower's programs are found beside this Python."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        marks = {MARK: self._mark, "FLWR_HOME": str(self.app / ".flwr"), "PATH": path}
        return os.environ | QUIET | {"OMP_NUM_THREADS": "1"} | marks

    def call(self, *words: str) -> str:
        """Run a command in the app's folder → what it printed. Raises UserError where it fails."""
        done = subprocess.run(
            words, cwd=self.app, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE_S
        )
        said = done.stdout.decode(errors="replace")
        if done.returncode != 0:
            last = (done.stderr.decode(errors="replace") or said).strip().splitlines()
            raise UserError(
                last[-1] if last else f"code {done.returncode}", where=" ".join(words), fix="see its output"
            )
        return said

    def start_link(self) -> None:
        """Start the SuperLink and wait until it listens."""
        key = [f"--ssl-{kind}={CERTIFICATES}/{file}" for kind, file in _TLS.items()]
        more = ["--enable-supernode-auth", "--database", "superlink.db", "--disable-runtime-dependency-installation"]
        self.start("link", "flower-superlink", "--host", "127.0.0.1", "--port", str(self.port), *key, *more)
        self.until(lambda: _listens(self.port), "the SuperLink listens", watched="link")

    def register(self) -> None:
        """Make the sites' public keys known to the SuperLink."""
        for i in range(len(self.sites)):
            self.call("flwr", "supernode", "register", f"{CERTIFICATES}/site-{i + 1}.pub", "fedgmi")

    def start_node(self, i: int) -> None:
        """Start the SuperNode of site i."""
        keys = (
            "--root-certificates",
            f"{CERTIFICATES}/ca.crt",
            "--auth-supernode-private-key",
            f"{CERTIFICATES}/site-{i + 1}",
        )
        link = "--superlink", f"127.0.0.1:{self.port}", "--host", "127.0.0.1", "--port", str(free_port())
        self.start(f"site-{i + 1}", "flower-supernode", *link, *keys, "--node-config", f'site="{self.sites[i]}"')

    def start(self, name: str, *words: str) -> None:
        """A process in the app's folder, in a session of its own, its words in logs/NAME.log."""
        with (self.where / "logs" / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                words,
                cwd=self.app,
                env=self.environment | {MARK: f"{self._mark}/{name}"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def submit(self) -> str:
        """`flwr run` → the run's id. Again, it goes on from the checkpoint of a run that failed."""
        self._submitted = time.time()
        said = json.loads(self.call("flwr", "run", ".", "fedgmi", "--format", "json"))
        return str(said["run-id"])

    def state(self) -> str:
        """What the coordinator says of itself: waiting, running, finished or failed; "" before it has begun."""
        if not (self.out / status.STATUS).exists():
            return ""
        found = status.read(self.out)
        return found.state if found.updated >= self._submitted else ""

    def over(self) -> bool:
        """Whether the coordinator has come to an end, good or bad."""
        return self.state() in ("finished", "failed")

    def runs(self, name: str) -> bool:
        """Whether the process of that name is there: link, or site-1 and so on."""
        return self._processes[name].poll() is None

    def log(self) -> str:
        """The coordinator's log.txt, so far."""
        path = self.out / "log.txt"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def finish(self, patience_s: float) -> dict[str, Any]:
        """Wait for the coordinator's end → the summary. Raises UserError where it failed or takes too long."""
        self.until(self.over, "the run ends", patience_s)
        if self.state() == "failed":
            last = self.log().splitlines()[-1:]
            raise UserError(" ".join(last) or "it failed", where=str(self.out), fix=f"see {self.where / 'logs'}")
        return folder.read_summary(self.out)

    def until(self, true: Any, what: str, patience_s: float = PATIENCE_S, watched: str | None = None) -> None:
        """Wait for it; raises UserError after so long, or where the process `watched` ends first."""
        began = time.monotonic()
        while not true():
            ended = watched is not None and not self.runs(watched)
            if ended or time.monotonic() - began > patience_s:
                why = f"{watched} has ended" if ended else f"not within {patience_s:g} s"
                raise UserError(f"{what}: {why}", where=str(self.where), fix=f"see {self.where / 'logs'}")
            time.sleep(0.2)

    def kill(self, name: str) -> None:
        """As a machine that goes down: no farewell, for the process and its helpers."""
        while left := self.left(name):
            _kill(left)
        self._processes.pop(name).wait()

    def stop(self) -> None:
        """Stop the sites, then the SuperLink, then whatever still carries the mark."""
        for name in sorted(self._processes, key=lambda name: name == "link"):
            self._processes[name].terminate()
        began = time.monotonic()
        while any(process.poll() is None for process in self._processes.values()) and time.monotonic() - began < 8:
            time.sleep(0.1)
        while (left := self.left()) and time.monotonic() - began < 15:
            _kill(left)
        for process in self._processes.values():
            process.wait()
        self._processes.clear()

    def left(self, name: str = "") -> list[int]:
        """Processes that carry the mark, of one name or all."""
        wanted, found = f"{MARK}={self._mark}".encode(), []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                marks = [mark for mark in (place / "environ").read_bytes().split(b"\0") if mark.startswith(wanted)]
                if marks and (not name or marks[0].endswith(f"/{name}".encode())):
                    found.append(int(place.name))
            except OSError:
                continue
        return found


_TLS = {"ca-certfile": "ca.crt", "certfile": "server.pem", "keyfile": "server.key"}


@contextmanager
def running(
    where: Path, name: str, federation: str, sites: Sequence[Path], *, late: Collection[int] = ()
) -> Iterator[Deployment]:
    """A deployment whose SuperLink and SuperNodes run; whatever happens, SIGTERM included, nothing is left running.

    late: sites whose SuperNode is not started yet.
    """
    with exit_on_sigterm():
        deployment = Deployment(where, name, federation, sites)
        try:
            deployment.start_link()
            deployment.register()
            for i in set(range(len(sites))) - set(late):
                deployment.start_node(i)
            yield deployment
        finally:
            deployment.stop()


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Leave by SystemExit, so that what has to be stopped is: by itself Python dies of SIGTERM on the spot."""
    if threading.current_thread() is not threading.main_thread():  # others may not set handlers
        yield
        return

    def leave(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not cut the stopping short
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _kill(pids: Sequence[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    time.sleep(0.1)


def free_port() -> int:
    """A port that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0
