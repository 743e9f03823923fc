"""What a site of benchmarks/faults.py runs: the product's answer, and what `fault.json` beside site.toml spoils, once.

{"kind": "nan", "round": 1}
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace

from fedgmi.deploy.site.site import Site
from fedgmi.flower_app import client_app
from fedgmi.protocol.wire import Parcel, pack, unpack

SPOILT = {
    "nan": lambda leaf: leaf * float("nan"),
    "shape": lambda leaf: leaf[:, :-1],
    "large": lambda leaf: leaf * 1000,
}


def answer(site: Site, request: Parcel) -> Parcel:
    """As the site would, but for one request of the round that fault.json names."""
    path = site.where.parent / "fault.json"
    fault = json.loads(path.read_text()) if path.exists() else {}
    if request.header["kind"] != "step" or request.header["round"] != fault.get("round"):
        return site.answer(request)
    path.rename(path.with_name("fault.done.json"))
    kind = fault["kind"]
    if kind == "raises":
        raise RuntimeError("a fault of the benchmark's")
    if kind == "exits":
        os._exit(1)
    if kind == "hangs":
        time.sleep(3600)
    return spoil(site.answer(request), kind)


def spoil(reply: Parcel, kind: str) -> Parcel:
    """The reply with the sums of all models spoilt."""
    message = unpack(reply)
    models = {name: replace(part, total=SPOILT[kind](part.total)) for name, part in message.models.items()}
    return pack(replace(message, models=models), {"rows": reply.header["rows"]})


app = client_app(answer)
