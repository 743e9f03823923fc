"""`fedgmi` at a faulty site of faults.py: the product, but for what `fault.json` beside site.toml spoils, once.

{"kind": "nan", "round": 1}

Of kind "version" it says that another fedgmi is installed, for as long as fault.json lies there at its start.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedgmi.cli import main
from fedgmi.deploy.site import site
from fedgmi.deploy.site.site import Site
from fedgmi.protocol.wire import Parcel, pack, unpack

FAULT, OTHER_VERSION = "fault.json", "0.0.1"
SPOILT = {
    "nan": lambda leaf: leaf * float("nan"),
    "shape": lambda leaf: leaf[:, :-1],
    "large": lambda leaf: leaf * 1000,
}
own = Site.answer


def answer(self: Site, request: Parcel) -> Parcel:
    """As the site would, but for one request of the round that fault.json names."""
    path = self.where.parent / FAULT
    fault = read(path)
    if request.header["kind"] != "step" or request.header["round"] != fault.get("round"):
        return own(self, request)
    path.rename(path.with_name("fault.done.json"))
    kind = fault["kind"]
    if kind == "raises":
        raise RuntimeError("a fault of the benchmark's")
    if kind == "exits":
        os._exit(1)
    if kind == "hangs":
        time.sleep(3600)
    return spoil(own(self, request), kind)


def spoil(reply: Parcel, kind: str) -> Parcel:
    """The reply with the sums of all models spoilt."""
    message = unpack(reply)
    models = {name: replace(part, total=SPOILT[kind](part.total)) for name, part in message.models.items()}
    return pack(replace(message, models=models), {"rows": reply.header["rows"]})


def read(path: Path) -> dict[str, Any]:
    """What is to go wrong; nothing where there is no such file."""
    return dict(json.loads(path.read_text())) if path.exists() else {}


if __name__ == "__main__":
    Site.answer = answer
    if read(Path(sys.argv[3]).parent / FAULT).get("kind") == "version":  # site serve SITE.toml
        site.__version__ = OTHER_VERSION
    main()
