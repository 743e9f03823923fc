"""Flower's programs that a coordinator needs. They start one another by name, so each has to be found by its own."""

from __future__ import annotations

import shutil
import sys
import warnings
from pathlib import Path

from fedgmi.errors import FedgmiWarning, UserError

PROGRAMS = ("flwr", "flower-superlink", "flower-superexec", "flwr-serverapp")
"""`flwr run` submits; the SuperLink starts `flower-superexec`, and that one `flwr-serverapp` for each run."""


def check_programs() -> str:
    """Look for Flower's programs on PATH, and beside the interpreter that runs this fedgmi.

    Returns:
        Where they are, as a line to show. A warning says where they would run another fedgmi.

    Raises:
        UserError: Some are in neither place, or not on PATH. It names them.
    """
    own = Path(sys.executable).parent
    on_path = {name: shutil.which(name) for name in PROGRAMS}
    away = [name for name, path in on_path.items() if path is None]
    missing = [name for name in away if shutil.which(name, path=str(own)) is None]
    if missing:
        what = f"there is no {', no '.join(missing)}: Flower is not installed, or not as a whole"
        raise UserError(what, where=str(own), fix="pip install 'fedgmi[flower]' -c constraints.txt")
    if away:
        what = f"{', '.join(away)} cannot be found by name: {own} is not on PATH, and the SuperLink would start no run"
        raise UserError(what, where="PATH", fix=f". {own / 'activate'}")
    elsewhere = sorted(
        f"{name} is {path}" for name, path in on_path.items() if path and Path(path).resolve().parent != own.resolve()
    )
    if elsewhere:
        what = f"{', '.join(elsewhere)}, and this fedgmi is in {own}: what runs may be another version"
        warnings.warn(FedgmiWarning(f"{what}. Likely fix: . {own / 'activate'}"), stacklevel=2)
    return f"{own}: {', '.join(PROGRAMS)}"
