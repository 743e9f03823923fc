"""A site's message starts a process: it has to load little."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from local_grid import LocalGrid
from tables import table_federation, write_site

import fedgmi
from fedgmi import flower_app
from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.deploy.flower import GridPost
from fedgmi.deploy.settings import FederationSettings, read
from fedgmi.protocol.wire import Parcel

ALL = sum(1 for _ in Path(fedgmi.__file__).parent.rglob("*.py"))
PROGRAM = """
import json, sys
import torch
from fedgmi.flower_app import open_site
from fedgmi.protocol.wire import Parcel
given = json.load(open(sys.argv[1]))
request = Parcel(given["header"], torch.tensor(given["payload"], dtype=torch.uint8))
reply = open_site(given["site"]).answer(request)
assert "error" not in reply.header, reply.header
ours = [name for name in sys.modules if name == "fedgmi" or name.startswith("fedgmi.")]
heavy = [name for name in ("scipy", "sklearn", "plotly") if name in sys.modules]
print(json.dumps({"ours": sorted(ours), "heavy": heavy}))
"""


@pytest.mark.parametrize("method", ["preset = 'default'", "name = 'fedavg'"])
def test_a_message_loads_no_scipy_and_half_of_our_modules_at_most(tmp_path, method):
    """From reading the site's own rows to the reply to a round's request."""
    text = table_federation().replace("[method]", f"[method]\n{method}")
    if "fedavg" in method:
        own = ("n_components", "codewords", "kmeans_rounds", "calibration_steps", "judge_turns", "warm_up_rounds")
        text = "\n".join(line for line in text.splitlines() if line.partition(" = ")[0] not in own)
    sites = {10 + i: {"site": str(write_site(tmp_path / f"site-{i}", i, text))} for i in range(3)}
    asked: list[Parcel] = []

    class Listening(GridPost):
        def ask(self, requests, deadline_s):
            asked.extend(requests[node] for node in requests if node == 10)
            if any(parcel.header["kind"] == "step" and parcel.header["round"] == 1 for parcel in requests.values()):
                raise KeyboardInterrupt  # what follows is of no use here
            return super().ask(requests, deadline_s)

    settings = read(FederationSettings, Path(sites[10]["site"]).parent / "federation.toml")
    post = Listening(LocalGrid(flower_app.client_app(), sites))
    with pytest.raises(KeyboardInterrupt):
        Coordinator(settings, post, tmp_path / "out", echo=lambda line: None).run()
    request = next(parcel for parcel in asked if parcel.header["kind"] == "step" and parcel.header["round"] == 1)
    given = {"site": sites[10]["site"], "header": request.header, "payload": request.payload.tolist()}
    (tmp_path / "given.json").write_text(json.dumps(given))
    words = [sys.executable, "-c", PROGRAM, str(tmp_path / "given.json")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["heavy"] == []
    assert len(told["ours"]) <= ALL / 2, f"{len(told['ours'])} of {ALL}: {told['ours']}"
