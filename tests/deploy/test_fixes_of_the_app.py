"""Fixes are in the words of the command that was given: `flwr run` has no --out, and `site serve` no --resume."""

from __future__ import annotations

import errno
import os

import pytest
from local_post import LocalPost, federation_settings, log_of, make_sites
from test_serve import write_site

from fedgmi.deploy.coordinator import status
from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.deploy.site import serve
from fedgmi.errors import UserError
from fedgmi.storage import files, folder


def run(settings, where):
    post = LocalPost(make_sites(settings, where / "sites"))
    return Coordinator(settings, post, where / "out", echo=lambda line: None).run()


def test_a_run_over_results_of_other_settings_names_flowers_option(tmp_path):
    """--out was advised, which `flwr run` does not have."""
    run(federation_settings(rounds=1), tmp_path)
    option = f"--run-config 'out=\"{tmp_path}/out-2\"'"
    with pytest.raises(UserError, match="belongs to another configuration") as raised:
        run(federation_settings(rounds=2), tmp_path)
    assert f"or give another folder with {option}" in str(raised.value)
    assert option in log_of(tmp_path)
    assert option in status.read(tmp_path / "out").note
    (tmp_path / "out-2").mkdir()
    (tmp_path / "out" / folder.DIAGNOSIS).write_text("{}")
    with pytest.raises(UserError, match="out-3") as raised:
        run(federation_settings(rounds=2), tmp_path)
    assert "--out" not in str(raised.value)


def test_a_full_disk_at_the_coordinator_names_the_command_that_goes_on(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left") as raised:
        run(federation_settings(rounds=1), tmp_path)
    assert raised.value.fix == "make room on the disk. The same `flwr run` then goes on"


@pytest.mark.parametrize(
    ("code", "fix"),
    [
        (errno.ENOSPC, "make room on the disk"),
        (errno.EACCES, "make room on the disk, or let the user who runs this write there"),
    ],
)
def test_what_cannot_be_written_says_nothing_of_commands_that_were_not_given(tmp_path, code, fix):
    with pytest.raises(UserError) as raised, files.writing(tmp_path):
        raise OSError(code, os.strerror(code))
    assert raised.value.fix == fix


def test_a_site_whose_folder_cannot_be_written_is_told_what_a_site_can_do(tmp_path):
    """'A run goes on with --resume' was the advice."""
    file = write_site(tmp_path / "site", 0)
    (file.parent / "site").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written") as raised, serve.alone(file):
        pass
    assert "--resume" not in str(raised.value)
    assert "name another folder in site.toml" in raised.value.fix
