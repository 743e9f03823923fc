"""A dry run lays on disk what a site would send, and touches nothing else."""

from __future__ import annotations

import json

import safetensors.torch
from tables import write_site
from typer.testing import CliRunner

from fedgmi.cli import app
from fedgmi.deploy.settings import FederationSettings, read
from fedgmi.deploy.site.site_check import leaves_told
from fedgmi.methods.disclosing import disclosing


def test_what_would_be_sent_lies_on_disk_and_nothing_else_changes(tmp_path):
    site_toml = write_site(tmp_path / "site", 0)
    before = sorted(path.name for path in (tmp_path / "site").iterdir())
    out = tmp_path / "would-be"
    found = CliRunner().invoke(app, ["site", "dry-run", str(site_toml), "--out", str(out)])
    assert found.exit_code == 0, found.output
    assert "Nothing was sent" in " ".join(found.output.split())
    assert sorted(path.name for path in (tmp_path / "site").iterdir()) == before
    lines = json.loads((out / "index.json").read_text())
    assert lines[0]["kind"] == "hello"
    assert {"features", "spread", "k-means", "histograms", "proportions", "finish"} <= {line["name"] for line in lines}
    federation = read(FederationSettings, tmp_path / "site" / "federation.toml")
    told = leaves_told(disclosing(federation.setup().method()).program)
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
