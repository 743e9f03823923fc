"""A site's SuperNode: Flower's own program, which talks to the SuperLink, as a child of the process that serves."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from fedgmi.deploy.link import SWITCHES, LinkSettings
from fedgmi.deploy.site.heard import Heard
from fedgmi.errors import CheckpointError, UserError
from fedgmi.protocol.words import one_line
from fedgmi.storage import files

PROGRAM = ("flower-supernode",)
QUICK = (sys.executable, "-m", "fedgmi.deploy.quick")
LEVEL = {"FLWR_LOG_LEVEL": "WARNING"}  # by Flower's documentation; at INFO it writes five lines a message
RECORD, SECRET = "supernode.json", "supernode.secret"
FIRST_WAIT_S, LONGEST_WAIT_S = 5.0, 60.0  # between two starts; Flower turns a key away for a minute after a crash
USAGE = 2  # its code where it does not know an argument
PATIENCE_S = 8.0  # for it to say goodbye to the SuperLink


def command(link: LinkSettings, port: int, secret: Path) -> list[str]:
    """The words that start a SuperNode which waits for an executor.

    Args:
        link: Where the SuperLink is. It has been checked.
        port: Of the SuperNode's runtime API, on this machine alone.
        secret: The file of what executors have to know.

    Returns:
        The words.
    """
    words = [*(QUICK if link.quick else PROGRAM), "--superlink", str(link.address), "--isolation", "process"]
    words += ["--host", "127.0.0.1", "--port", str(port), "--superexec-auth-secret-file", str(secret)]
    if link.insecure:
        return [*words, "--insecure"]
    return [*words, "--root-certificates", str(link.root_certificates), "--auth-supernode-private-key", str(link.key)]


class SuperNode:
    """A SuperNode that is started again whenever it ends, later each time.

    Attributes:
        where: The site's folder. What is known of the child is written there, so that one which outlives its parent
            is ended at the next start.
        secret: What it asks executors for. A new one at each start of the site.
    """

    def __init__(
        self, where: Path, link: LinkSettings, port: int, explain: Callable[[str], None] = lambda line: None
    ) -> None:
        """Start nothing yet.

        Args:
            where: As above.
            link: Where the SuperLink is. It has been checked.
            port: Of the runtime API.
            explain: Shows why a SuperNode has ended, where that is known.
        """
        self.where, self.secret = where, secrets.token_hex(32).encode()
        self._words = command(link, port, where / SECRET)
        self._link, self._explain = link, explain
        self._child: subprocess.Popen[bytes] | None = None
        self._heard: Heard | None = None
        self._wait, self._next, self._began = FIRST_WAIT_S, 0.0, 0.0

    def keep(self) -> str:
        """Start it, where it does not run and the wait since its end is over.

        A disk that is full is waited for: nobody could end a SuperNode of which nothing is known.

        Returns:
            What there is to tell, one line; "" where there is nothing.

        Raises:
            UserError: The program is not installed, or is of a version that takes other arguments.
        """
        now = time.monotonic()
        if self._child is not None:
            code = self._child.poll()
            if code is None:
                return "" if self._heard is None else self._heard.why_not_yet(self._link)
            self._child = None
            why = "" if self._heard is None else self._heard.why(self._link)
            if why:
                self._explain(why)
            if code == USAGE:
                fix = "pip install 'fedgmi[flower]' -c constraints.txt; its own words are above"
                raise UserError("it does not know how it was called", where=self._words[0], fix=fix)
            self._wait = FIRST_WAIT_S if now - self._began > LONGEST_WAIT_S else self._wait
            return f"the SuperNode has ended (code {code}); it is started again in {self._later(now):g} s"
        if now < self._next:
            return ""
        try:
            self._start()
        except UserError as error:
            if not isinstance(error.__cause__, OSError) or isinstance(error.__cause__, FileNotFoundError):
                raise
            self._end()
            return f"the SuperNode cannot start ({one_line(str(error))}); it is tried again in {self._later(now):g} s"
        return "the SuperNode starts"

    def _later(self, now: float) -> float:
        """Put the next start off, each time longer → by how many seconds."""
        wait = self._wait
        self._next, self._wait = now + wait, min(2 * wait, LONGEST_WAIT_S)
        return wait

    def stop(self) -> None:
        """End it: it says goodbye to the SuperLink first, where that answers in time."""
        self._end()
        for name in (RECORD, SECRET):
            (self.where / name).unlink(missing_ok=True)

    def _end(self) -> None:
        if self._child is not None:
            self._child.terminate()
            try:
                self._child.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
            self._child = None

    def _start(self) -> None:
        end_left_over(self.where)
        before = os.umask(0o077)  # at no moment is the secret for others to read
        try:
            files.write_bytes(self.where / SECRET, self.secret)
        finally:
            os.umask(before)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        home = os.environ.get("FLWR_HOME", str(self.where / ".flwr"))
        environment = LEVEL | os.environ | SWITCHES | {"PATH": path, "FLWR_HOME": home}
        try:
            self._child = subprocess.Popen(
                self._words,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=self.where,
            )
            self._heard = None if self._child.stdout is None else Heard(self._child.stdout)
        except FileNotFoundError as error:
            fix = "pip install 'fedgmi[flower]'"
            raise UserError("there is no such command", where=self._words[0], fix=fix) from error
        self._began = time.monotonic()
        files.write_json(self.where / RECORD, {"pid": self._child.pid, "started": _started(self._child.pid)})


def end_left_over(where: Path) -> bool:
    """End a SuperNode whose parent was killed: it would go on to speak for the site, and nobody would answer.

    Args:
        where: The site's folder.

    Returns:
        Whether there was one.
    """
    path = where / RECORD
    if not path.exists():
        return False
    try:
        found = files.read_json(path, "what is known of a SuperNode", {"pid", "started"}, "remove it")
        process = psutil.Process(int(found["pid"]))
        if found["started"] != process.create_time():  # another process has the number now
            return False
        process.terminate()
        for left in psutil.wait_procs([process], timeout=PATIENCE_S)[1]:
            left.kill()
    except (psutil.Error, UserError, CheckpointError, TypeError, ValueError):
        return False
    finally:
        path.unlink(missing_ok=True)
    return True


def _started(pid: int) -> float | None:
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:  # it has ended at once
        return None
