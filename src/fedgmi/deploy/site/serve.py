"""`fedgmi site serve`: a site's own process, which stays and answers with the fedgmi that is installed here.

It starts a SuperNode as its child, and is itself the executor of its tasks. The app that the coordinator submits is
never unpacked at the site, so that whoever submits runs has no code run beside the rows.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fedgmi.deploy.flower import make_client_app
from fedgmi.deploy.flower_runtime import Away, Executor, check_version
from fedgmi.deploy.link import LinkSettings
from fedgmi.deploy.settings import SiteSettings, read
from fedgmi.deploy.site.opening import Kept, guarded
from fedgmi.deploy.site.readiness import check_writable
from fedgmi.deploy.site.site import Site
from fedgmi.deploy.site.supernode import SuperNode, end_left_over
from fedgmi.errors import UserError
from fedgmi.protocol.wire import Parcel
from fedgmi.protocol.words import one_line
from fedgmi.runs.setup import open_process
from fedgmi.storage import files

POLL_VARIABLE = "FLWR_SUPEREXEC_TASK_POLL_INTERVAL"  # Flower's own, of its executor
BUSY_POLL_S, IDLE_POLL_S = 0.1, 1.0  # while a run goes on, and later
BUSY_FOR_S = 60.0  # after a task
TURNED_AWAY = "the coordinator does not let this site in"
SETTLING_S = 30.0  # in which a SuperNode that starts need not answer yet
Say = Callable[[str], None]
Answer = Callable[[Parcel, Mapping[str, Any]], Parcel]


def serve(file: Path, given: LinkSettings | None = None, *, port: int | None = None, say: Say = print) -> None:
    """Serve until SIGTERM or Ctrl-C. No child is left.

    Args:
        file: site.toml.
        given: Where the SuperLink is, instead of what `[superlink]` in site.toml says; None: as that says.
        port: Of the SuperNode's runtime API, on this machine alone. None: one that is free.
        say: Shows a line.

    Raises:
        UserError: Another process serves the site, Flower is of another version, or files cannot be read.
        ConfigError: For settings that cannot be.
        DataError: For rows that are not what the federation agreed on.
    """
    version, kept = check_version(), Kept(file)
    link = (given or read(SiteSettings, file).superlink.beside(file.absolute().parent)).checked()
    with ended_by_signals(), alone(kept.file):
        site = kept.open()
        where, name = site.where, site.settings.name
        open_process(site.settings.threads)
        if end_left_over(where):
            _stamped(say, name, "a SuperNode that a killed process had left is ended")
        _stamped(say, name, f"{len(site.train)} rows are loaded; flwr {version}; the SuperLink is {link.address}")
        port = port or free_port()
        node = SuperNode(where, link, port, lambda line: _stamped(say, name, line))
        answer = Watched(guarded(Site.answer, kept.open, where))
        executor = Executor(f"127.0.0.1:{port}", node.secret, make_client_app(answer))
        try:
            work(executor, node, lambda line: _stamped(say, name, line), answer)
        finally:
            node.stop()
            _stamped(say, name, "stopped")


class Watched:
    """A site's answers. Of the last, what the site's people should know is remembered."""

    def __init__(self, answer: Answer) -> None:
        """Nothing is refused yet.

        Args:
            answer: (request, the node's configuration) → reply.
        """
        self.note, self._answer = "", answer  # a refusal as the coordinator is told; log.txt has the whole of it

    def __call__(self, request: Parcel, settings: Mapping[str, Any]) -> Parcel:
        """The answer."""
        reply = self._answer(request, settings)
        error = "" if reply.header.get("missing") else reply.header.get("error", "")  # what is missing is sent again
        away = request.header.get("turned_away")
        self.note = f"refused: {error}" if error else "" if away is None else f"{TURNED_AWAY}: {one_line(away, 500)}"
        return reply


def work(executor: Executor, node: SuperNode, say: Say, answer: Watched | None = None) -> None:
    """Take tasks for ever: at most one at a time, and none is the end.

    Args:
        executor: That takes them.
        node: That is kept running.
        say: Shows a line.
        answer: By which the executor answers them; None: refusals are told like answers.
    """
    fixed, last, reached = poll_interval(), -math.inf, time.monotonic()
    away = False
    while True:
        told = node.keep()
        if told:
            say(told)
            reached = time.monotonic()
        try:
            done = executor.once()
        except Away as error:
            if time.monotonic() - reached > SETTLING_S and not away:
                away = True
                say(f"the SuperNode does not answer ({error}); it is tried on")
            time.sleep(fixed or BUSY_POLL_S if not away else IDLE_POLL_S)
            continue
        if away:
            say("the SuperNode answers again")
        away, reached = False, time.monotonic()
        if done is None:
            time.sleep(fixed or (BUSY_POLL_S if reached - last < BUSY_FOR_S else IDLE_POLL_S))
            continue
        last = time.monotonic()
        if done.stuck:
            node.stop()  # what keeps it running starts another
        note = "" if answer is None else answer.note
        say(done.error or note or f"answered in {done.seconds:.2f} s, {done.cpu_s:.2f} s of CPU")


def poll_interval() -> float | None:
    """How often tasks are asked for, in seconds, by Flower's own variable; None where it is not set.

    Raises:
        UserError: It is no number from 0.01 to 60.
    """
    text = os.environ.get(POLL_VARIABLE)
    if text is None:
        return None
    with suppress(ValueError):
        if 0.01 <= float(text) <= 60:
            return float(text)
    raise UserError(f"{text!r} is no number of seconds from 0.01 to 60", where=POLL_VARIABLE, fix="unset it")


@contextmanager
def alone(file: Path) -> Iterator[None]:
    """Serve a site once only: two would answer by turns, from states of one folder.

    Args:
        file: site.toml.

    Raises:
        UserError: Another process serves it, or its folder cannot be written.
    """
    folder = file.parent / read(SiteSettings, file).folder
    check_writable(folder)
    with files.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "serve.lock")
    with files.writing(folder / "serve.lock"):
        try:
            lock.acquire(timeout=0)
        except Timeout as error:  # which is an OSError
            what = "another `fedgmi site serve` works in this folder"
            fix = "stop it first; another site needs a site.toml with a folder of its own"
            raise UserError(what, where=str(folder), fix=fix) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Leave the block on SIGTERM or SIGINT, so that `finally` runs. That is a good end: there is no error."""

    class Ended(BaseException):
        pass

    def leave(number: int, frame: object) -> None:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_IGN)  # a second one must not cut the stopping short
        raise Ended

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with suppress(Ended):
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def free_port() -> int:
    """Find a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _stamped(say: Say, name: str, line: str) -> None:
    with suppress(OSError):  # a full disk under the log ends nothing
        say(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {name}: {line}")
