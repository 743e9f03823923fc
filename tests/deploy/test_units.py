"""Units and containers that `fedgmi deploy init` writes call what there is, with arguments that it takes."""

from __future__ import annotations

import configparser
import re
import shlex
import warnings
from pathlib import Path

import pytest
import typer
import yaml
from flwr.superlink.cli.flower_superlink import _parse_args_run_superlink

from fedgmi import cli
from fedgmi.deploy.link import SWITCHES
from fedgmi.deploy.settings import SiteSettings, read
from fedgmi.deploy.setup.init import init


@pytest.fixture(params=[False, True], ids=["secure", "insecure"])
def folder(request, tmp_path) -> tuple[Path, bool]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        init(tmp_path / "wards", insecure=request.param, address="10.1.2.3:8443")
    return tmp_path / "wards", request.param


def unit(path: Path) -> configparser.ConfigParser:
    """A unit; of a key that is there twice the last counts."""
    found = configparser.ConfigParser(strict=False, interpolation=None)
    found.optionxform = str  # type: ignore[assignment,method-assign]
    found.read_string(re.sub(r"\\\n\s*", "", path.read_text()))
    return found


def serves(words: list[str]) -> None:
    """The command line takes the words, which name a site.toml."""
    assert [Path(words[0]).name, *words[1:3]] == ["fedgmi", "site", "serve"]
    command = typer.main.get_command(cli.app).commands["site"].commands["serve"]
    assert command.make_context("serve", words[3:]).params["file"].endswith("site.toml")


def links(words: list[str], *, insecure: bool) -> None:
    """Flower's SuperLink takes the words, and asks for keys unless all is insecure."""
    assert Path(words[0]).name == "flower-superlink"
    found = _parse_args_run_superlink().parse_args(words[1:])
    assert found.insecure is insecure
    assert found.enable_supernode_auth is not insecure
    assert (found.ssl_certfile is None) is insecure
    assert (found.port, found.database) == (8443, "superlink.db")


def test_units_of_systemd(folder):
    where, insecure = folder
    site, link = (unit(where / f"fedgmi-{name}.service")["Service"] for name in ("site", "superlink"))
    serves(shlex.split(site["ExecStart"]))
    links(shlex.split(link["ExecStart"]), insecure=insecure)
    for each in (site, link):
        assert each["Restart"] == "always"
        assert each["WorkingDirectory"] == each["ReadWritePaths"]
        assert each["ProtectSystem"] == "strict"
    text = (where / "fedgmi-superlink.service").read_text()
    assert all(f"{name}={value}" in text for name, value in SWITCHES.items())


def test_containers(folder):
    where, insecure = folder
    services = yaml.safe_load((where / "compose.yaml").read_text())["services"]
    serves(services["site"]["command"])
    links(services["superlink"]["command"], insecure=insecure)
    assert services["superlink"]["ports"] == ["8443:8443"]
    image = (where / "Dockerfile").read_text()
    assert all(f"{name}={value}" in image for name, value in SWITCHES.items())
    serves(yaml.safe_load(image.rpartition("CMD ")[2]))
    for service in services.values():
        assert (service["read_only"], service["cap_drop"], service["restart"]) == (True, ["ALL"], "always")
        assert "ports" not in services["site"]


def test_the_example_of_site_toml_says_where_the_superlink_is(folder):
    where, insecure = folder
    link = read(SiteSettings, where / "site.toml.example").superlink
    assert link.address == "10.1.2.3:8443"
    assert (link.insecure, link.key is None, link.quick) == (insecure, insecure, False)
