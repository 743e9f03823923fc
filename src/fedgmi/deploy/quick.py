"""Shorter waits in Flower's own programs, where they have no switch for them. Nothing is changed unless `quick` is set.

The coordinator's is in the app's pyproject.toml, or `flwr run . --run-config 'quick=true'`.

| who | waits, by Flower 1.41 | with `quick` | set by |
|---|---|---|---|
| SuperNode, after it has asked for a message in vain | 3 s | 0.3 s | `[superlink] quick` of site.toml, or `--quick` |
| SuperNode, between two looks for a reply | 0.5 s | 0.05 s | likewise |
| both sides, for a part of a message that is still on its way | 1, 2, 4 … s | 0.1 to 1 s | likewise; pyproject.toml |

`python -m fedgmi.deploy.quick` is Flower's SuperNode, with the arguments of its own, and with these waits.
"""

from __future__ import annotations

import time
from functools import partial
from types import ModuleType, SimpleNamespace

from fedgmi.deploy.flower_runtime import FIRST_WAIT_S, LONGEST_WAIT_S

SHORTER = {3.0: 0.3, 0.5: 0.05}  # seconds


def shorten_supernode() -> None:
    """Have the module that waits see another clock, whose other functions stay."""
    from flwr.supernode import start_client_internal

    own = {name: getattr(time, name) for name in dir(time) if not name.startswith("_")}

    def sleep(seconds: float) -> None:
        time.sleep(SHORTER.get(seconds, seconds))

    own["sleep"] = sleep
    vars(start_client_internal)["time"] = SimpleNamespace(**own)
    _pull_sooner(start_client_internal)


def shorten_grid() -> None:
    """Have the coordinator try sooner again to pull what is on its way."""
    from flwr.superlink.grid import http_grid

    _pull_sooner(http_grid)


def _pull_sooner(module: ModuleType) -> None:
    """Give arguments to a call that Flower makes without."""
    pull = vars(module)["pull_objects"]
    if not isinstance(pull, partial):
        vars(module)["pull_objects"] = partial(pull, initial_backoff=FIRST_WAIT_S, backoff_cap=LONGEST_WAIT_S)


if __name__ == "__main__":
    from flwr.supernode.cli.flower_supernode import flower_supernode

    shorten_supernode()
    flower_supernode()
