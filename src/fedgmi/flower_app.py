"""The two apps that a Flower app of ours names, as thin as the command line.

The ServerApp is the coordinator; a ClientApp answers for the site whose `site.toml` its SuperNode was started with:
`--node-config 'site="…/site.toml"'`. `fedgmi deploy init` writes the files that call these.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedgmi.deploy.site.opening import FEDERATION, guarded, open_site
from fedgmi.errors import UserError

if TYPE_CHECKING:
    from fedgmi.deploy.flower import GridPost, Settings

__all__ = ["client_app", "flower", "open_site", "server_app"]


def server_app(where: Path) -> Any:
    """The coordinator's app, a Flower ServerApp. Results go to the folder that the run's `out` names.

    With `quick` in the run's configuration, Flower's waits are shorter (`fedgmi.deploy.quick`).

    Args:
        where: The folder of federation.toml.
    """

    from fedgmi.deploy.coordinator.coordinator import (
        Coordinator,  # SciPy with it: what a site starts for a message does without
    )
    from fedgmi.deploy.coordinator.log import read_federation

    def run(post: GridPost, settings: Settings) -> None:
        if settings.get("quick"):
            from fedgmi.deploy.quick import shorten_grid

            shorten_grid()
        out = Path(str(settings.get("out") or "results"))
        Coordinator(read_federation(where / FEDERATION, out), post, out).run()

    return flower().make_server_app(run)


def client_app() -> Any:
    """A site's app, a Flower ClientApp. It answers one request at a time, and gives up before the coordinator does."""
    return flower().make_client_app(guarded())


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
