"""Flower's SuperNode with shorter waits: `python -m fedgmi.deploy.quick_supernode`, with the arguments of its own.

Flower 1.41 waits 3 s after it has asked the SuperLink for a message in vain, and half a second between two looks for a
reply. No switch changes that, and it is most of what an exchange takes. `quick` in site.toml starts this program in
place of Flower's. It changes these two numbers and nothing else; by default nothing of Flower's is changed.
"""

from __future__ import annotations

import time
from types import SimpleNamespace

from flwr.supernode import start_client_internal
from flwr.supernode.cli.flower_supernode import flower_supernode

SHORTER = {3.0: 0.3, 0.5: 0.05}  # seconds


def shorten() -> None:
    """Have the module that waits see another clock. Its other functions stay."""
    own = {name: getattr(time, name) for name in dir(time) if not name.startswith("_")}

    def sleep(seconds: float) -> None:
        time.sleep(SHORTER.get(seconds, seconds))

    own["sleep"] = sleep
    vars(start_client_internal)["time"] = SimpleNamespace(**own)


if __name__ == "__main__":
    shorten()
    flower_supernode()
