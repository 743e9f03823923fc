"""What lies already in the folder that a run would write to, told before the run: it goes on there, or is refused."""

from __future__ import annotations

import os
import time
import warnings
from contextlib import suppress
from pathlib import Path

from fedgmi.deploy.coordinator import status
from fedgmi.deploy.coordinator.log import another, of_app
from fedgmi.deploy.settings import FederationSettings
from fedgmi.errors import FedgmiWarning, UserError
from fedgmi.settings import toml
from fedgmi.storage import checkpoint, files, folder

APP = "pyproject.toml"


def check_results(where: Path, federation: FederationSettings) -> str:
    """Look into the results folder. Nothing there is changed, and none is made.

    Args:
        where: The coordinator's folder, in which its SuperLink runs.
        federation: federation.toml.

    Returns:
        What `flwr run` would do there, as a line to show. A warning says where it would train nothing, or be refused.
    """
    named = Path(_named(where)).expanduser()
    out, anew = (where / named).absolute(), f"a run from the beginning: flwr run . fedgmi {another(named, where)}"
    found = _going_on(out)
    if found:
        return f"{named}: {found}"
    try:
        with of_app(named, where):
            done = _done(out, federation)
    except UserError as error:
        what = f"{named}: flwr run would be refused there. {error}"
        warnings.warn(FedgmiWarning(what), stacklevel=2)
        return f"{named}: it holds other results"
    if not folder.holds_run(out):
        return f"{named}: no results yet, a run begins there"
    if done is None:
        return f"{named}: a run there ended before its first checkpoint, and begins again"
    if os.path.exists(out / folder.SUMMARY):
        what = f"{named}: it holds a finished run of these settings. flwr run would train nothing more, and ask the "
        warnings.warn(FedgmiWarning(f"{what}sites for their results once more. For {anew}"), stacklevel=2)
        return f"{named}: it holds a finished run"
    stands = "the preparation" if done < 1 else f"round {min(done, federation.rounds)} of {federation.rounds}"
    return f"{named}: flwr run goes on there after {stands}. For {anew}"


def _named(where: Path) -> str:
    """The folder that the app names, as a run without --run-config has it."""
    table = toml.read_toml(where / APP)
    for key in ("tool", "flwr", "app", "config"):
        inner = table.get(key)
        table = inner if isinstance(inner, dict) else {}
    return str(table.get("out") or "results")


def _going_on(out: Path) -> str:
    """That a run writes there now, in words; "": none does."""
    with suppress(UserError):
        found = status.read(out)
        if found.state in ("waiting", "running") and not status.silent(found, time.time()):
            return f"a run goes on there ({found.state}): see fedgmi deploy status, and wait for it, or: flwr stop"
    return ""


def _done(out: Path, federation: FederationSettings) -> int | None:
    """After which round a run would go on; None where there is no checkpoint.

    Raises:
        UserError: What lies there is no run to go on with.
    """
    folder.refuse_others(out)
    checkpoints = out / folder.CHECKPOINTS
    checkpoint.check_all(checkpoints, digest=federation.digest())
    path = checkpoints / f"{federation.method.name}.json"
    return int(files.read_json(path, "a checkpoint", {"round"}, "")["round"]) if path.exists() else None
