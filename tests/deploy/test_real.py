"""A deployment of real processes: one SuperLink and three SuperNodes, with TLS and authentication, on this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tables import table_federation, write_site

from fedgmi.deploy.coordinator import status
from fedgmi.deploy.local.deployment import Deployment, running
from fedgmi.deploy.settings import FederationSettings, SiteSettings, read
from fedgmi.deploy.site.site_data import load_site
from fedgmi.methods.disclosing import disclosing
from fedgmi.methods.fedgmi.settings import UNUSED
from fedgmi.protocol.in_process import InProcess
from fedgmi.protocol.ledger import Ledger
from fedgmi.protocol.rounds import Progress, run_rounds
from fedgmi.storage import checkpoint, folder

MISSING = [tool for tool in ("openssl", "ssh-keygen") if shutil.which(tool) is None]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=f"there is no {' and no '.join(MISSING)}")]

METHOD = '[method]\npreset = "plain"\npersonal = false'  # few exchanges: each starts three processes
TABLE = table_federation(rounds=1, wait_s=300, deadline_s=150).replace("[method]", METHOD)
FEDERATION = "\n".join(line for line in TABLE.splitlines() if line.partition(" = ")[0] not in UNUSED["plain"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Iterator[tuple[Deployment, dict[str, Any]]]:
    """One run to its end, its processes still there."""
    where = tmp_path_factory.mktemp("real")
    sites = [write_site(where / f"site-{i}", i, FEDERATION) for i in range(3)]
    with running(where / "deployment", "wards", FEDERATION, sites) as deployment:
        written = where / "written"
        (deployment.app / "client_app.py").write_text(f"open({str(written)!r}, 'w').close()\napp = exit()\n")
        deployment.submit()
        yield deployment, deployment.finish(600)
    assert deployment.left() == []
    assert not written.exists()


def test_no_site_ran_the_app_that_was_sent(finished):
    """It would have written a file and ended the process. `fedgmi site serve` throws it away, and answers."""
    deployment, _ = finished
    assert "written" in (deployment.app / "client_app.py").read_text()
    assert not (deployment.where.parent / "written").exists()
    for i in range(3):
        log = (deployment.where / "logs" / f"site-{i + 1}.log").read_text()
        assert log.count(": answered in ") > 4
        assert "loaded" in log


def test_the_result_is_that_of_the_run_in_process(finished):
    """The same proportions, and the same ledger: by site, round and kind, headers included."""
    deployment, summary = finished
    settings = read(FederationSettings, deployment.app / "federation.toml")
    rows = [load_site(read(SiteSettings, site), settings, site.parent) for site in deployment.sites]
    method = disclosing(settings.setup().method())
    transport = InProcess([one.train for one in rows], method.program, validation=[one.validation for one in rows])
    run_rounds(
        method.name,
        method.program,
        transport,
        Progress(method.program.init()),
        n_clients=3,
        rounds=settings.rounds,
        seed=settings.seed,
    )
    found = torch.tensor(summary["proportions"], dtype=torch.float64)
    assert float((found - transport.states["proportions"]).abs().max()) < 1e-4
    kept = checkpoint.load(deployment.out / "checkpoints", method.name, digest=settings.digest())
    assert kept is not None
    assert Ledger.from_tree(3, kept.ledger) == transport.ledger
    assert transport.ledger.by_kind().keys() == {"expert", "density", "statistics"}


def test_everybody_has_what_is_theirs(finished):
    deployment, summary = finished
    assert summary["rounds_absent"] == [0, 0, 0]
    for i, site in enumerate(deployment.sites):
        results = site.parent / "site" / "results"
        assert json.loads((results / "proportions.json").read_text())["proportions"] == summary["proportions"][i]
        assert (results / "model" / "model.json").exists()
    assert [record["round"] for record in folder.read_records(deployment.out)] == [0, 1, 2]
    told = status.read(deployment.out)
    assert told.state == "finished"
    assert all(site.alive and site.bytes_up > 0 for site in told.sites.values())


def test_whoever_has_the_certificate_alone_can_talk_to_the_control_api(finished, tmp_path):
    """The gap that the README of `deploy init` tells of: SuperNodes need a key, and `flwr run` needs none."""
    deployment, _ = finished
    home = tmp_path / "stranger"
    home.mkdir()
    text = (deployment.app / "flower-config.toml").read_text()
    (home / "config.toml").write_text(text)
    words = [
        str(Path(deployment.environment["PATH"].split(os.pathsep)[0]) / "flwr"),
        "ls",
        "fedgmi",
        "--format",
        "json",
    ]
    environment = deployment.environment | {"FLWR_HOME": str(home)}
    found, patience = ["running"], time.monotonic() + 60
    while found == ["running"] and time.monotonic() < patience:  # Flower says so a little after the summary is there
        said = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, timeout=60, check=True)
        found = [run["status"] for run in json.loads(said.stdout)["runs"]]
    assert found == ["finished:completed"]
    assert "does not authenticate" in (deployment.app / "README.md").read_text()


def test_a_key_that_nobody_registered_is_refused(finished, tmp_path):
    deployment, _ = finished
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f", str(tmp_path / "key")], check=True)
    words = ["flower-supernode", "--superlink", f"127.0.0.1:{deployment.port}", "--root-certificates"]
    words += ["certificates/ca.crt", "--auth-supernode-private-key", str(tmp_path / "key"), "--port", "0"]
    done = subprocess.run(words, cwd=deployment.app, env=deployment.environment, capture_output=True, timeout=120)
    assert done.returncode != 0
