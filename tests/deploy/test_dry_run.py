"""A dry run lays on disk what a site would send, and touches nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
from clinic import post_of
from tables import table_federation, write_site
from typer.testing import CliRunner

from fedgmi.cli import app
from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.deploy.local import dry_run as module
from fedgmi.deploy.local.dry_run import dry_run
from fedgmi.deploy.settings import FederationSettings, read
from fedgmi.deploy.site.audit import line_of
from fedgmi.deploy.site.site import Site
from fedgmi.deploy.site.site_check import leaves_told
from fedgmi.errors import DataError
from fedgmi.methods.disclosing import disclosing
from fedgmi.protocol.phases import phase_of
from fedgmi.protocol.step import Program

TURNS = {"judges", "shares", "calibrate"}  # they need components that differ


def program_of(federation_toml: Path) -> Program:
    federation = read(FederationSettings, federation_toml)
    return disclosing(federation.setup().method()).program


def form(line: dict[str, Any]) -> str:
    """Leaves with types and shapes, and bytes; but for how many words there are, which goes by all sites' rows."""
    leaves, more = line["leaves"], 0
    if line["name"] == "judges":
        [topics] = [leaf for leaf in leaves if leaf["name"] == "sums/topics"]
        more, topics = topics["bytes"], topics | {"shape": topics["shape"][1:], "bytes": None}
        leaves = [topics if leaf["name"] == "sums/topics" else leaf for leaf in leaves]
    return f"{line['bytes'] - more} {leaves}"


@pytest.fixture(scope="module")
def would_be(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A site, and what it would send, by the command."""
    where = tmp_path_factory.mktemp("dry")
    site_toml = write_site(where / "site", 0)
    before = sorted(path.name for path in (where / "site").iterdir())
    found = CliRunner().invoke(app, ["site", "dry-run", str(site_toml), "--out", str(where / "would-be")])
    assert found.exit_code == 0, found.output
    assert "Nothing was sent" in " ".join(found.output.split())
    assert sorted(path.name for path in (where / "site").iterdir()) == before
    return site_toml, where / "would-be"


def test_what_would_be_sent_lies_on_disk(would_be):
    site_toml, out = would_be
    lines = json.loads((out / "index.json").read_text())
    assert lines[0]["kind"] == "hello"
    told = leaves_told(program_of(site_toml.with_name("federation.toml")))
    for line in lines:
        header = json.loads((out / f"{line['file']}.json").read_text())
        assert line["bytes"] > 0
        if line["leaves"]:
            tensors = safetensors.torch.load_file(out / f"{line['file']}.safetensors")
            assert tensors.keys() == {leaf["name"] for leaf in line["leaves"]}
            assert header["layout"]
            assert line["kind"] == "finish" or line["tells"] in told
    [histogram] = [line for line in lines if line["name"] == "histograms"]
    counts = safetensors.torch.load_file(out / f"{histogram['file']}.safetensors")["replies/histogram"]
    assert int(counts.sum()) == lines[0]["said"]["rows"]
    again = CliRunner().invoke(app, ["site", "dry-run", str(site_toml), "--out", str(out)])
    assert "is there already" in str(again.exception)


def test_every_step_is_shown_with_the_form_and_size_that_it_has_among_sites_that_differ(would_be, tmp_path):
    site_toml, out = would_be
    lines = json.loads((out / "index.json").read_text())
    program = program_of(site_toml.with_name("federation.toml"))
    assert {step.name for step in program.all_steps} <= {line["name"] for line in lines if line["file"]}
    assert {line["name"] for line in lines if line["conditional"]} == TURNS
    shown = {(line["name"], form(line)) for line in lines if line["kind"] == "step"}
    sites = [site_toml, *(write_site(tmp_path / f"site-{i}", i) for i in (1, 2))]
    federation, post = read(FederationSettings, site_toml.with_name("federation.toml")), post_of(*sites)
    Coordinator(federation, post, tmp_path / "out", echo=lambda line: None).run()
    sent = set()
    for (name, request), (_, reply) in zip(post.asked, post.replied, strict=True):
        header = request.header
        if name == "site-0" and header["kind"] == "step":
            step = program.steps(phase_of(header["round"], federation.rounds))[header["step"]]
            sent.add((step.name, form(line_of(header, reply, step))))
    assert {name for name, _ in sent} >= TURNS  # here sites differ
    assert sent <= shown


class Failing(Site):
    """A site that cannot judge."""

    def _run(self, header, *args):
        step = self.method().program.steps(phase_of(header["round"], self.federation.rounds))[header["step"]]
        if step.name == "judges":
            raise DataError("there is nothing to judge", where="rows", fix="none")
        return super()._run(header, *args)


def test_a_step_that_cannot_be_shown_is_named_and_the_others_are_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "Site", Failing)
    site_toml = write_site(tmp_path / "site", 0)
    lines = dry_run(site_toml, tmp_path / "site" / "federation.toml", tmp_path / "would-be")
    [judges] = [line for line in lines if line["name"] == "judges"]
    assert judges["file"] == ""
    assert "the site cannot answer" in judges["why"]
    assert {"shares", "calibrate", "proportions"} <= {line["name"] for line in lines if line["file"]}
    assert json.loads((tmp_path / "would-be" / "index.json").read_text())[-1]["why"] == judges["why"]
    module.print_dry_run(lines, tmp_path / "would-be", module.Console(width=2000))
    assert "Not shown: judges (how many of its rows" in capsys.readouterr().out


def test_the_table_says_when_what_and_on_which_condition(would_be, capsys):
    """A cell was empty where nothing is told, the end was a round more than there are, and no condition had a name."""
    _, out = would_be
    lines = json.loads((out / "index.json").read_text())
    module.print_dry_run(lines, out, module.Console(width=2000))
    cells = {row.split()[0]: row for row in capsys.readouterr().out.splitlines() if row[:4].isdigit()}
    of = {line["name"]: cells[line["file"]] for line in lines}
    assert of["fold in"].rstrip().endswith("nothing of rows")
    assert of["fold in"].split()[1] == "preparation"
    assert of["em"].split()[1] == "1"
    assert of["proportions"].split()[1] == "end"
    assert all("a condition, which does not hold where all sites are alike: “" in of[name] for name in TURNS)
    assert "; or: At the end more rows answer than in the judges' last turn" in of["judges"]


def test_after_a_warm_start_nothing_of_the_preparation_is_sent(tmp_path):
    warm = table_federation().replace("rounds = 1", 'rounds = 1\nwarm_start = "results of before"', 1)
    site_toml = write_site(tmp_path / "site", 0, warm)
    lines = dry_run(site_toml, tmp_path / "site" / "federation.toml", tmp_path / "would-be")
    names = {line["name"] for line in lines}
    assert names >= {"hello", "em", "cells", "proportions"} | TURNS
    assert not names & {"features", "spread", "k-means", "histograms", "fold in"}
    assert {line["round"] for line in lines if line["name"] in TURNS} == {2}
