"""Masked sums over real processes: a killed site is left out of the sum; numbers are those of the in-process run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from local_post import LocalPost
from tables import table_federation, write_site

from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.deploy.local.deployment import Deployment, running
from fedgmi.deploy.settings import FederationSettings, read
from fedgmi.deploy.site.opening import open_site
from fedgmi.protocol.wire import Parcel
from fedgmi.storage import checkpoint

MISSING = [tool for tool in ("openssl", "ssh-keygen") if shutil.which(tool) is None]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=f"there is no {' and no '.join(MISSING)}")]

N, KILLED = 4, 3  # keys are agreed on by three sites at least
OWN = ("n_components", "codewords", "kmeans_rounds", "calibration_steps", "judge_turns", "warm_up_rounds")
TABLE = table_federation(rounds=2, wait_s=300, deadline_s=12, sites=N)
KEPT = [line for line in TABLE.splitlines() if line.partition(" = ")[0] not in OWN]
FEDERATION = "\n".join(KEPT).replace("[method]", '[method]\nname = "fedavg"') + '\n[communication]\nsecure = "masks"\n'
SECRET = 'mask_secret = "a word among us sites"\n'


def sites_of(where: Path) -> list[Path]:
    found = [write_site(where / f"site-{i}", i, FEDERATION) for i in range(N)]
    for path in found:
        path.write_text(SECRET + path.read_text())
    return found


def in_process(where: Path) -> dict[str, torch.Tensor]:
    """The same run over calls, its last site silent in round 2: as the simulation has it, bit for bit."""
    sites = {i: open_site(str(path)) for i, path in enumerate(sites_of(where))}

    def silent(request: Parcel, reply: Parcel) -> Parcel | None:
        return None if request.header["kind"] == "step" and request.header["round"] == 2 else reply

    settings = read(FederationSettings, where / "site-0" / "federation.toml").model_copy(update={"wait_s": 5.0})
    Coordinator(settings, LocalPost(sites, {f"site-{KILLED}": silent}), where / "out", echo=lambda line: None).run()
    return state(where / "out", settings)


def state(out: Path, settings: FederationSettings) -> dict[str, torch.Tensor]:
    found = checkpoint.load(out / "checkpoints", "fedavg", digest=settings.digest())
    assert found is not None
    return dict(found.server)


def kill_in_round_2(deployment: Deployment) -> None:
    """It has keys with the others by then. It comes back for its results."""
    deployment.until(lambda: "round 1 of 2 is done" in deployment.log(), "round 1 ends", 200)
    deployment.kill(f"site-{KILLED + 1}")
    deployment.until(lambda: "is absent" in deployment.log(), "the site is missed", 100)
    deployment.start_node(KILLED)


def test_a_site_that_is_killed_is_left_out_of_the_sum(tmp_path):
    with running(tmp_path / "deployment", "wards", FEDERATION, sites_of(tmp_path)) as deployment:
        deployment.submit()
        kill_in_round_2(deployment)
        summary = deployment.finish(200)
    assert summary["rounds_absent"] == [0, 0, 0, 1]
    assert summary["proportions"] is None
    settings = read(FederationSettings, deployment.app / "federation.toml")
    found, expected = state(deployment.out, settings), in_process(tmp_path / "again")
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []
