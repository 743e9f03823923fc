"""The coordinator's log.txt, and what it says of a run that cannot begin or ends early."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from fedgmi.deploy.coordinator import status
from fedgmi.deploy.coordinator.roster import Tell
from fedgmi.deploy.settings import FederationSettings, named, read
from fedgmi.errors import StorageError, UserError
from fedgmi.protocol.words import one_line
from fedgmi.storage import files, folder

LONGEST_LINE = 4000  # letters of a line of the log
HERE = Path()
GOES_ON = "The same `flwr run` then goes on"  # from the last checkpoint


def tell_in(out: Path, line: str, echo: Tell = print) -> None:
    """One line to whoever watches, and to log.txt; what a site put in is no line of its own.

    Args:
        out: The results folder.
        line: The line.
        echo: Shows it.
    """
    stamped = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {one_line(line, LONGEST_LINE)}"
    try:
        echo(stamped)
    except UnicodeError:  # a terminal that has not all letters is no reason to stop
        echo(ascii(stamped)[1:-1])
    with files.writing(out / "log.txt"), (out / "log.txt").open("a", encoding="utf-8") as file:
        file.write(stamped + "\n")


@contextmanager
def failing_in(out: Path, tell: Tell, failed: Callable[[str], None]) -> Iterator[None]:
    """Work in a results folder that is nobody else's meanwhile; what ends it early is told, and kept as the status.

    Args:
        out: The folder. It is made where there is none.
        tell: Writes a line of the log.
        failed: (why) writes the status.

    Raises:
        UserError: The folder cannot be used, or somebody else works in it. Then nothing is written.
    """
    with of_app(out):
        folder.claim(out, resume=True)
        with folder.alone(out):
            try:
                with of_app(out):
                    yield
            except BaseException as error:
                ended = "its process was asked to end" if isinstance(error, KeyboardInterrupt) else type(error).__name__
                why = str(error).strip() or ended
                with suppress(UserError):  # a full disk hides no cause
                    tell(f"stopped: {why}")
                    failed(one_line(why, LONGEST_LINE))
                raise


@contextmanager
def of_app(out: Path, where: Path = HERE) -> Iterator[None]:
    """Errors that name an option of `fedgmi run` name that of `flwr run` in its place.

    Args:
        out: The results folder.
        where: The folder that it is relative to.

    Raises:
        UserError: As in the block, with another fix.
    """
    try:
        yield
    except UserError as error:
        fix = error.fix.replace("--out", another(out, where))
        if isinstance(error, StorageError) and GOES_ON not in fix:
            fix = f"{fix}. {GOES_ON}"
        error.advise(fix)
        raise


def another(out: Path, where: Path = HERE) -> str:
    """The option of `flwr run` that names a results folder which is not there yet.

    Args:
        out: The folder that is.
        where: The folder that it is relative to.

    Returns:
        The option, for a shell.

    Examples:
        >>> print(another(Path("results-of-nobody")))
        --run-config 'out="results-of-nobody-2"'
    """
    free = next(k for k in count(2) if not os.path.exists(where / f"{out}-{k}"))
    return f"--run-config 'out=\"{out}-{free}\"'"


def read_federation(path: Path, out: Path, echo: Tell = print) -> FederationSettings:
    """federation.toml as a run begins. One that cannot be is a run that has failed: log and status say so.

    Args:
        path: Of federation.toml.
        out: The results folder.
        echo: Shows a line of the log.

    Returns:
        The settings.

    Raises:
        ConfigError: It cannot be, by itself or for what contradicts itself in it.
        UserError: It cannot be read, or the results folder cannot be used.
    """

    def tell(line: str) -> None:
        tell_in(out, line, echo)

    with failing_in(out, tell, lambda why: status.failed(out, path.absolute().parent.name, why)), named(path):
        settings = read(FederationSettings, path)
        settings.running(settings.setup().method())
    return settings
