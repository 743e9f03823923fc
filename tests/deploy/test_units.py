"""Units and containers that `fedgmi deploy init` writes call what there is, with arguments that it takes."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
import warnings
from fnmatch import fnmatch
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


@pytest.mark.parametrize("name", ["site", "superlink"])
def test_readme_makes_what_a_unit_needs(folder, name):
    """The user, the programs and the folder that a unit names come from README's commands, in that order."""
    where, _ = folder
    service = unit(where / f"fedgmi-{name}.service")["Service"]
    text = (where / "README.md").read_text()
    commands = [line.removeprefix("    sudo ") for line in text.splitlines() if line.startswith("    sudo ")]
    own, programs = service["WorkingDirectory"], Path(shlex.split(service["ExecStart"])[0]).parent
    wanted = [
        f"useradd --system --user-group --home-dir {own} --shell /usr/sbin/nologin {service['User']}",
        f"python3 -m venv {programs.parent}",
        f"{programs}/pip install 'fedgmi[flower]' -c constraints.txt",
        f"install -d -m 700 {own}",
        f"cp -a . {own}/",
        f"chown -R {service['User']}:{service['User']} {own}",
        f"cp fedgmi-{name}.service /etc/systemd/system/",
        "systemctl daemon-reload",
        f"systemctl enable --now fedgmi-{name}",
    ]
    left = iter(commands)
    assert all(line in left for line in wanted)  # in this order
    assert not own.startswith("/home")
    assert not str(programs).startswith(("/home", own))  # nobody who serves may change what is run


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd")
def test_systemd_takes_the_units(folder):
    """What it may say is that programs are not installed here."""
    paths = [str(path) for path in folder[0].glob("*.service")]
    done = subprocess.run(["systemd-analyze", "verify", *paths], capture_output=True, text=True, check=False)
    said = (done.stdout + done.stderr).splitlines()
    assert [line for line in said if "/opt/fedgmi/bin/" not in line or "is not executable" not in line] == []


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd")
@pytest.mark.parametrize("name", ["site", "superlink"])
def test_a_unit_may_do_little(folder, name):
    """Of systemd's points for exposure, 0 to 100: it calls 25 and less OK, and a unit that shuts nothing off has 96."""
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=25", "--no-pager"]
    path = folder[0] / f"fedgmi-{name}.service"
    done = subprocess.run([*command, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout.splitlines()[-1] + done.stderr


def test_a_build_of_the_image_sees_neither_keys_nor_rows_nor_results(folder):
    where, _ = folder
    rules = [line for line in (where / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]

    def seen(path: str) -> bool:
        last = [rule for rule in rules if fnmatch(path, rule.removeprefix("!"))][-1]
        return last.startswith("!")

    copied = re.findall(r"^COPY (.*) \S+$", (where / "Dockerfile").read_text(), re.MULTILINE)
    names = [name for line in copied for name in line.split()]
    assert all(seen(name.replace("*", "fedgmi-1")) for name in names)
    assert (where / "constraints.txt").exists()
    hidden = [
        "certificates/ca.key",
        "site-1",
        "rows.csv",
        "results/proportions.json",
        "site/secret.json",
        ".flwr/config.toml",
    ]
    hidden += [path.name for path in where.iterdir() if path.name != "constraints.txt"]
    assert [path for path in hidden if seen(path)] == []


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
