"""Processes that are started, watched and stopped together, helpers of their own included.

Flower's programs start helpers in sessions of their own, and some of those survive a signal. So every process carries
a mark in its environment, which helpers inherit: by the mark all of them are found and stopped. The mark ends in the
name of the process that a helper belongs to.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from fedgmi.errors import UserError

MARK = "FEDGMI_DEPLOYMENT"
PATIENCE_S = 60.0


class Processes:
    """Processes with a common mark, and their logs.

    Attributes:
        where: A folder. `logs/NAME.log` in it holds what each process says.
        directory: Where they run.
    """

    def __init__(self, where: Path, directory: Path, environment: Mapping[str, str]) -> None:
        """Start nothing yet.

        Args:
            where: As above. It need not exist yet.
            directory: As above. It exists when the first process is started.
            environment: Variables that the processes have beside those of this one.
        """
        self.where, self.directory = where, directory
        self._more = dict(environment)
        self._mark = secrets.token_hex(8)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def environment(self) -> dict[str, str]:
        """The environment of all processes. Programs that were installed beside this Python are found first."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        return os.environ | self._more | {MARK: self._mark, "PATH": path}

    def call(self, *words: str) -> str:
        """Run a command to its end.

        Args:
            *words: The command and its arguments.

        Returns:
            What it printed.

        Raises:
            UserError: It fails, takes longer than PATIENCE_S, or is not installed.
        """
        with _installed(words[0]):
            try:
                done = subprocess.run(
                    words,
                    cwd=self.directory,
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    timeout=PATIENCE_S,
                )
            except subprocess.TimeoutExpired as error:
                what = f"not done within {PATIENCE_S:g} s"
                raise UserError(what, where=" ".join(words), fix=f"see {self.where / 'logs'}") from error
        said = done.stdout.decode(errors="replace")
        if done.returncode != 0:
            last = (done.stderr.decode(errors="replace") or said).strip().splitlines()
            what = last[-1] if last else f"it ended with code {done.returncode}"
            raise UserError(what, where=" ".join(words), fix="see its output")
        return said

    def start(self, name: str, *words: str) -> None:
        """Start a process in a session of its own.

        Args:
            name: What it is called here, and the name of its log.
            *words: The command and its arguments.

        Raises:
            UserError: The command is not installed.
        """
        log = self.where / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with _installed(words[0]), log.open("ab") as said:
            self._processes[name] = subprocess.Popen(
                words,
                cwd=self.directory,
                env=self.environment | {MARK: f"{self._mark}/{name}"},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )

    def runs(self, name: str) -> bool:
        """Whether the process of that name has not ended."""
        return self._processes[name].poll() is None

    def until(
        self, true: Callable[[], bool], what: str, patience_s: float = PATIENCE_S, watched: str | None = None
    ) -> None:
        """Wait until something is so.

        Args:
            true: () → whether it is so. Asked several times a second.
            what: What is waited for, for the message.
            patience_s: How long to wait, in seconds.
            watched: The name of a process without which it will never be so.

        Raises:
            UserError: It took longer, or the process has ended.
        """
        began = time.monotonic()
        while not true():
            ended = watched is not None and not self.runs(watched)
            if ended or time.monotonic() - began > patience_s:
                why = f"{watched} has ended" if ended else f"not within {patience_s:g} s"
                raise UserError(f"{what}: {why}", where=str(self.where), fix=f"see {self.where / 'logs'}")
            time.sleep(0.2)

    def kill(self, name: str) -> None:
        """End a process and its helpers at once, as when a machine goes down."""
        while left := self._marked(name):
            _kill(left)
        self._processes.pop(name).wait()

    def end(self, name: str) -> None:
        """Ask a process to end, and wait until it has."""
        process = self._processes.pop(name)
        process.terminate()
        process.wait(PATIENCE_S)

    def stop(self, last: str = "") -> None:
        """Ask all processes to end, then end whatever still carries the mark.

        Args:
            last: The name of the process that is asked last.
        """
        for name in sorted(self._processes, key=lambda name: name == last):
            self._processes[name].terminate()
        began = time.monotonic()
        while any(process.poll() is None for process in self._processes.values()) and time.monotonic() - began < 8:
            time.sleep(0.1)
        while (left := self._marked()) and time.monotonic() - began < 15:
            _kill(left)
        for process in self._processes.values():
            process.wait()
        self._processes.clear()

    def left(self, name: str = "") -> list[int]:
        """List the ids of processes that carry the mark, helpers included; with a name, those of that process."""
        return [process.pid for process in self._marked(name)]

    def _marked(self, name: str = "") -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):  # it has just ended, or belongs to somebody else
                mark, _, owner = process.environ().get(MARK, "").partition("/")
                if mark == self._mark and name in ("", owner):
                    found.append(process)
        return found


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Leave the block by SystemExit on SIGTERM, so that `finally` runs. By itself Python ends on the spot."""
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


def free_port() -> int:
    """Find a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Whether anybody listens on a port of this machine."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def _installed(command: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        fix = "pip install 'fedgmi[flower]' for Flower's commands; others come with the operating system"
        raise UserError("there is no such command", where=command, fix=fix) from error


def _kill(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.kill()
    time.sleep(0.1)
