"""docs/operations.md, followed: each section's commands run, in one process, and do what the page says."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterable
from contextlib import chdir
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from clinic import federation, write_rows, write_site
from local_post import LocalPost, Stopped

from fedgmi import cli
from fedgmi.deploy.coordinator import status
from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.deploy.coordinator.prometheus import FAMILIES
from fedgmi.deploy.settings import FederationSettings, read
from fedgmi.deploy.site import site as site_module
from fedgmi.errors import ConfigError, UserError
from fedgmi.flower_app import open_site
from fedgmi.protocol.wire import Parcel
from fedgmi.runs.records import SiteStatus, Status
from fedgmi.storage import checkpoint, files

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
ELSEWHERE = ("flwr supernode", "fedgmi site serve", "pip ")  # they need a SuperLink, or the network
TEXT = federation(rounds=1)


def section(title: str) -> list[tuple[str, list[str]]]:
    """A section's boxes: whose they are, and their commands."""
    text = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return [(who, body.strip().splitlines()) for who, body in re.findall(r"```sh (\w+)\n(.*?)```", text, re.DOTALL)]


def fedgmi(*words: object) -> int:
    with pytest.raises(SystemExit) as raised:
        cli.main([str(word) for word in words])
    return int(raised.value.code or 0)


@dataclass
class Post(LocalPost):
    """Sites that come and go: `there` says which nodes are connected, given the last request."""

    there: Callable[[Parcel | None], Iterable[int]] | None = None

    def nodes(self) -> Iterable[int]:
        last = self.asked[-1][1] if self.asked else None
        return self.sites if self.there is None else self.there(last)


@dataclass
class Study:
    """A coordinator's folder and sites' folders, in which the page's commands are run."""

    where: Path
    lines: list[str] = field(default_factory=list)
    stop_after: int | None = None
    there: Callable[[Parcel | None], Iterable[int]] | None = None
    first: int = 100  # the node of the first site
    post: Post | None = None

    @property
    def app(self) -> Path:
        return self.where / "wards"

    def site(self, i: int) -> Path:
        return self.where / f"site-{i}"

    def share(self) -> None:
        """Sites are given federation.toml."""
        for path in self.where.glob("site-*"):
            shutil.copy(self.app / "federation.toml", path / "federation.toml")

    def follow(self, title: str, whose: str = "", site: int = 0) -> list[int]:
        """Run the boxes of a section, those of one party alone where it is named → exit codes of fedgmi."""
        found, boxes = [], section(title)
        assert boxes, title
        for who, commands in boxes:
            if whose in ("", who):
                found += [self.run(line, self.app if who == "coordinator" else self.site(site)) for line in commands]
        return [code for code in found if code is not None]

    def run(self, line: str, cwd: Path) -> int | None:
        words = shlex.split(line)
        if line.startswith(ELSEWHERE):
            return None
        with chdir(cwd):
            if words[0] == "fedgmi":
                return fedgmi(*words[1:])
            if words[:2] == ["flwr", "run"]:
                out = next((word.partition('"')[2].rstrip('"') for word in words if word.startswith("out=")), "results")
                self.summary = self.train(out)
                return None
            subprocess.run(line, shell=True, check=True, capture_output=True, cwd=cwd)
        return None

    def train(self, out: str = "results") -> dict:
        """`flwr run`, over calls."""
        self.share()
        paths = sorted(self.where.glob("site-*/site.toml"))
        settings = read(FederationSettings, self.app / "federation.toml")
        sites = {self.first + i: open_site(str(path)) for i, path in enumerate(paths[: settings.sites])}
        self.post = Post(sites, stop_after=self.stop_after, there=self.there)
        with chdir(self.app):
            return Coordinator(settings, self.post, Path(out), echo=self.lines.append).run()


@pytest.fixture
def study(tmp_path, flower):
    """Three sites, and a folder of `deploy init` with their federation.toml."""
    found = Study(tmp_path)
    assert fedgmi("deploy", "init", found.app, "--sites", 3) == 0
    (found.app / "federation.toml").write_text(TEXT)
    for i in range(3):
        write_site(found.site(i), i, TEXT)
    return found


def server_of(out: Path) -> dict[str, torch.Tensor]:
    """The coordinator's last state."""
    digest = files.read_json(out / "checkpoints" / "fedgmi.json", "a checkpoint", {"digest"}, "")["digest"]
    found = checkpoint.load(out / "checkpoints", "fedgmi", digest=digest)
    assert found is not None
    return found.server


def test_every_command_of_the_page_is_one_that_is_run():
    """Boxes are of parties that the tests know, and each section with boxes is followed below."""
    titles = re.findall(r"\n## (.*)\n", PAGE)
    with_boxes = {title for title in titles if section(title)}
    followed = set(re.findall(r'(?:follow|section)\("([^"]+)"', Path(__file__).read_text(encoding="utf-8")))
    assert with_boxes == followed - {""}
    assert {who for title in with_boxes for who, _ in section(title)} == {"coordinator", "site", "others"}
    assert PAGE.count("```") == 2 * sum(len(section(title)) for title in titles)


def test_rows_are_described_merged_and_checked(study, capsys):
    (describe, [merge], check) = (commands for _, commands in section("What rows look like"))
    for i in range(3):
        assert study.run(describe[0], study.site(i)) == 0
        shutil.copy(study.site(i) / "rows.toml", study.app / f"rows-{i + 1}.toml")
    assert study.run(merge, study.app) == 0
    (study.app / "federation.toml").write_text(federation((study.app / "rows.toml").read_text()))
    study.share()
    assert [study.run(check[0], study.site(i)) for i in range(3)] == [0, 0, 0]
    assert "sex is missing in 6 of 60 rows (10%)" in " ".join(capsys.readouterr().out.split())


def test_a_site_joins_later(study):
    """It comes after the preparation, takes part from then on, and has results."""
    (study.app / "federation.toml").write_text(federation(rounds=2, min_sites=2))
    study.share()
    assert study.follow("A site that joins later", site=2) == [0]
    study.there = lambda last: (100, 101, 102) if last is not None and last.header.get("round", 0) >= 1 else (100, 101)
    summary = study.train()
    assert summary["clients"] == ["clinic-0", "clinic-1", "clinic-2"]
    assert summary["rounds_absent"][:2] == [0, 0]
    assert (study.site(2) / "site" / "results" / "model" / "model.json").exists()


def test_a_site_leaves(study):
    """The others' run goes on and ends; the page has one command, which is Flower's."""
    assert study.follow("A site that leaves") == []
    (study.app / "federation.toml").write_text(federation(rounds=1, wait_s=0.3))
    study.there = lambda last: (100, 101, 102) if last is None or last.header.get("round", 0) < 1 else (100, 101)
    summary = study.train()
    assert summary["rounds_absent"][2] > 0
    assert (study.site(0) / "site" / "results" / "model").exists()
    assert not (study.site(2) / "site" / "results" / "model").exists()


def test_a_site_that_lost_its_folder_comes_back(study):
    """Over another SuperNode it is a stranger until the coordinator's people name it."""
    (study.app / "federation.toml").write_text(federation(rounds=1, wait_s=0.3))
    study.stop_after = 12
    with pytest.raises(Stopped):
        study.train()
    study.stop_after, study.first = None, 200
    shutil.rmtree(study.site(2) / "site")
    with pytest.raises(UserError, match="2 of 3 sites came"):
        study.train()
    study.follow("A site that lost its folder")
    assert len(study.train()["clients"]) == 3
    assert any("clinic-2 comes with another token, as readmit.txt says" in line for line in study.lines)
    assert (study.site(2) / "site" / "results" / "model" / "model.json").exists()


def test_a_site_is_forgotten(study):
    study.train()
    assert any("clinic-2" in path.read_text() for path in (study.app / "results").rglob("*.json"))
    study.follow("Forgetting a site", "others", site=0)
    study.follow("Forgetting a site", "others", site=1)
    study.follow("Forgetting a site", "coordinator")
    assert study.summary["clients"] == ["clinic-0", "clinic-1"]
    kept = [study.app / "results", study.site(0) / "site", study.site(1) / "site"]
    told = [path for where in kept for path in where.rglob("*") if path.is_file() and b"clinic-2" in path.read_bytes()]
    assert not told
    assert len(list((study.site(0) / "site" / "runs").iterdir())) == 1


def test_keys_are_rotated(study, capsys):
    subprocess.run(["sh", "certificates.sh"], cwd=study.app, check=True, capture_output=True)
    before = (study.app / "certificates" / "server.pem").read_text()
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", "site-key"], cwd=study.site(0), check=True)
    old = (study.site(0) / "site-key.pub").read_text()
    assert study.follow("Keys") == [0, 0, 0, 0]
    assert capsys.readouterr().out.count("good until") == 4
    assert (study.site(0) / "site-key.pub").read_text() != old
    renewed = (study.app / "certificates.old" / "server.pem").read_text()
    assert len({before, renewed, (study.app / "certificates" / "server.pem").read_text()}) == 3


def test_an_upgrade_in_mid_study(study, monkeypatch, capsys):
    """A site of another version is told so in one line, and comes in once it follows."""
    subprocess.run(["sh", "certificates.sh"], cwd=study.app, check=True, capture_output=True)
    assert study.follow("An upgrade in mid-study") == [0, 0, 0, 0]
    assert capsys.readouterr().out.count("fedgmi ") >= 2
    monkeypatch.setattr(site_module, "__version__", "0.0.1")
    (study.app / "federation.toml").write_text(federation(rounds=1, wait_s=0.2))
    with pytest.raises(UserError, match="0 of 3 sites came"):
        study.train()
    refused = [line for line in study.lines if "is not let in" in line]
    assert len(refused) == 3
    assert all("this site 0.0.1" in line and "install the same version" in line for line in refused)
    monkeypatch.undo()
    assert study.train()["rounds_absent"] == [0, 0, 0]


def test_backup_and_restore(study, tmp_path_factory):
    """Disks are lost in mid-run: what is unpacked ends with the numbers of an undisturbed run."""
    undisturbed = Study(tmp_path_factory.mktemp("quiet"))
    shutil.copytree(study.where, undisturbed.where, dirs_exist_ok=True)
    expected = undisturbed.train()
    study.stop_after = len(undisturbed.post.asked) // 3 - 8  # of exchanges with three sites each
    with pytest.raises(Stopped):
        study.train()
    study.stop_after = None
    (_, [save]), (_, [save_site]), (_, [unpack, go_on]), (_, [unpack_site]) = section("Backup and restore")
    study.run(save, study.app)
    study.run(save_site, study.site(1))
    (study.where / "site.tar.gz").rename(study.where / "site-1.tar.gz")
    for path in (study.app, study.site(1) / "site"):
        shutil.rmtree(path)
    study.app.mkdir()
    (study.where / "site-1.tar.gz").rename(study.where / "site.tar.gz")
    study.run(unpack_site, study.site(1))
    study.run(unpack, study.app)
    assert not any("goes on after round" in line for line in study.lines)
    study.run(go_on, study.app)
    assert any("goes on after round" in line for line in study.lines)
    assert study.summary["proportions"] == expected["proportions"]


def test_a_monthly_refresh(study):
    """It asks for no preparation, keeps components in their order, and has the rows of its time."""
    first = study.train()
    before = server_of(study.app / "results")
    write_rows(study.site(1), 1, 90)
    study.follow("A monthly refresh")
    assert study.summary["rows_per_client"][1] > first["rows_per_client"][1]
    rounds = {parcel.header["round"] for _, parcel in study.post.asked if parcel.header["kind"] == "step"}
    assert rounds == {1, 2}
    after = server_of(study.app / "results-2")
    for name in ("sketch/centres", "sketch/histograms"):
        assert torch.equal(before[name], after[name])
    moved = (after["expert"] - before["expert"]).norm() / before["expert"].norm()
    assert 0 < moved < 0.5
    assert int(after["version"]) == int(before["version"]) + 1
    difference = torch.tensor(first["proportions"]) - torch.tensor(study.summary["proportions"])
    assert float(difference.abs().sum(1).max()) / 2 < 0.15
    assert any("begins with the model of results" in line for line in study.lines)
    assert not (study.app / "results-2" / "diagnosis").exists()


def test_a_refresh_needs_a_finished_run_of_the_same_rows_and_models(study):
    study.train()
    text = (study.app / "federation.toml").read_text()

    def refused(changed: str, message: str) -> None:
        (study.app / "federation.toml").write_text(changed)
        with pytest.raises(ConfigError, match=message):
            study.train("results-2")
        shutil.rmtree(study.app / "results-2")

    warm = 'warm_start = "results"\n' + text
    refused(warm.replace("results", "nowhere"), "holds no checkpoint to begin with")
    refused(warm.replace("[expert]\nhidden = 8", "[expert]\nhidden = 9"), "expert of federation.toml differs")
    refused(warm.replace("codewords = 4", "codewords = 5").replace('"ward=B", ', ""), "rows, method of federation.toml")
    (study.app / "results" / "summary.json").unlink()
    refused(warm, "is not finished")


def test_predictions_status_metrics_and_report(study, capsys):
    """What is asked for once a run is over."""
    study.train()
    write_rows(study.site(0), 9, 30).rename(study.site(0) / "new.csv")
    assert study.follow("Predictions at a site") == [0]
    lines = (study.site(0) / "predictions.csv").read_text().splitlines()
    assert lines[0] == "patient,label,probability_ill,probability_well,component_0,component_1"
    assert len(lines) == 31
    capsys.readouterr()
    assert study.follow("Status, metrics and alerts") == [0, 0, 0]
    told = capsys.readouterr().out
    assert 'fedgmi_state{federation="clinics",state="finished"} 1' in told
    assert (study.app / "results" / "metrics.prom").read_text() in told
    for family in FAMILIES:
        assert f"`{family.name}`" in PAGE
        assert f"# TYPE fedgmi_{family.name} {family.kind}" in told
    assert study.run("fedgmi report results", study.app) == 0
    assert "by each client's commonest class" in capsys.readouterr().out


AWAY = SiteStatus(alive=False, last_round=0, last_seen=1, rows=1, bytes_down=1, bytes_up=1, absent=1)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, 0),
        ({"state": "finished", "updated": 1.0}, 0),
        ({"state": "failed"}, 1),
        ({"updated": 1.0}, 1),
        ({"sites": {"north": AWAY}}, 1),
    ],
)
def test_strict_status_ends_with_one_where_somebody_should_look(tmp_path, changes, code):
    import time

    usual = {"name": "wards", "round": 1, "rounds": 2, "state": "running", "updated": time.time(), "sites": {}}
    status.write(tmp_path, Status.model_validate(usual | changes))
    assert fedgmi("deploy", "status", tmp_path, "--strict") == code
    assert fedgmi("deploy", "status", tmp_path) == 0


def test_a_name_cannot_end_a_line_of_metrics(tmp_path):
    site = SiteStatus(alive=True, last_round=0, last_seen=1, rows=1, bytes_down=1, bytes_up=1, absent=1)
    told = Status(name='a"b\nc\\', round=1, rounds=2, state="running", updated=1, sites={"x\ny": site})
    status.write(tmp_path, told)
    lines = (tmp_path / "metrics.prom").read_text().splitlines()
    assert all(line.startswith(("# HELP fedgmi_", "# TYPE fedgmi_", "fedgmi_")) for line in lines)
    assert r'fedgmi_site_up{federation="a\"b\nc\\",site="x\ny"} 1' in lines


@pytest.mark.parametrize(
    "words",
    [
        ("site", "check"),
        ("site", "check", "nowhere.toml"),
        ("site", "describe", "nowhere.csv"),
        ("site", "describe", "rows.csv", "--task", "guess"),
        ("deploy", "init", "x", "--sites", "0"),
        ("deploy", "check", "nowhere"),
        ("deploy", "merge", "nowhere.toml"),
        ("deploy", "status", "nowhere"),
        ("deploy", "status", "nowhere", "--loudly"),
        ("predict", "nowhere", "rows.csv"),
    ],
)
def test_what_cannot_be_done_ends_with_two(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").write_text("a\n1\n")
    assert fedgmi(*words) == 2
    assert capsys.readouterr().err
    assert os.listdir(tmp_path) == ["rows.csv"]
