"""`fedgmi deploy init`: a coordinator's folder that is complete, safe unless asked otherwise, and that Flower takes."""

from __future__ import annotations

import ast
import io
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tomllib
import zipfile
from itertools import islice
from pathlib import Path

import pytest

from fedgmi import __version__, cli
from fedgmi.deploy import settings
from fedgmi.deploy.setup import programs
from fedgmi.deploy.setup.address import Address, parse
from fedgmi.deploy.setup.check_app import check_app
from fedgmi.deploy.setup.init import init
from fedgmi.deploy.setup.superlink import check_link, check_port
from fedgmi.errors import ConfigError, FedgmiWarning, UserError

pytestmark = pytest.mark.usefixtures("flower")
SECURE = {
    ".dockerignore", ".gitignore", "Dockerfile", "README.md", "certificates.sh", "client_app.py", "compose.yaml",
    "constraints.txt",
    "federation.toml", "fedgmi-site.service", "fedgmi-superlink.service", "flower-config.toml", "pyproject.toml",
    "server_app.py", "site.toml.example",
}  # fmt: skip
COMMANDS = (
    "pip install 'fedgmi[flower]' -c constraints.txt",
    "FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1 FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1",
    "sh certificates.sh",
    "fedgmi deploy check .",
    "flower-superlink --host 10.1.2.3 --port 8443",
    "--ssl-ca-certfile certificates/ca.crt --ssl-certfile certificates/server.pem",
    "--ssl-keyfile certificates/server.key",
    "--enable-supernode-auth --database superlink.db --disable-runtime-dependency-installation",
    "flwr supernode register ",
    "fedgmi site check site.toml",
    "flower-supernode --superlink 10.1.2.3:8443 --root-certificates ca.crt",
    '--auth-supernode-private-key site-1 --node-config "site=\\"$PWD/site.toml\\""',
    "fedgmi site serve site.toml",
    "docker compose --profile site up -d",
    "flwr run . fedgmi --stream",
    "fedgmi deploy status results",
    "flwr ls fedgmi",
    "flwr stop RUN_ID fedgmi",
    "FLWR_OIDC_ENABLED=1",
    "flower-supernode --trusted-entities FILE.yaml",
    "location /v1/fleet/ {",
    "`method.epsilon`",
)


@pytest.fixture
def app(tmp_path) -> Path:
    where = tmp_path / "wards"
    init(where, sites=4, address="10.1.2.3:8443")
    return where


def names(where: Path) -> set[str]:
    return {path.name for path in where.iterdir()}


def code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as raised:
        cli.main(list(arguments))
    return int(raised.value.code or 0)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_the_folder_is_complete_and_every_blank_is_filled_in(app):
    assert names(app) == SECURE
    assert stat.S_IMODE(app.stat().st_mode) == 0o700
    for path in app.iterdir():
        assert "§" not in path.read_text(encoding="utf-8"), path.name


def test_flower_finds_apps_and_settings(app):
    table = tomllib.loads((app / "pyproject.toml").read_text(encoding="utf-8"))
    assert table["project"]["name"] == "wards"
    assert table["project"]["version"] == __version__
    flower = table["tool"]["flwr"]["app"]
    assert flower["publisher"]
    assert flower["components"] == {"serverapp": "server_app:app", "clientapp": "client_app:app"}
    assert flower["config"] == {"out": "results", "quick": False}
    assert {pattern.removeprefix("/") for pattern in flower["fab-include"]} <= names(app)
    for module in ("server_app", "client_app"):
        source = (app / f"{module}.py").read_text(encoding="utf-8")
        names_in = {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
        assert {"app", module} <= names_in


def test_federation_and_site_settings_are_valid(app):
    federation = settings.read(settings.FederationSettings, app / "federation.toml")
    assert (federation.name, federation.sites, federation.method.n_components) == ("wards", 4, 3)
    assert federation.rows.as_schema().shape == (1, 8, 8)
    assert federation.rows.classes == tuple("0123456789")
    site = settings.read(settings.SiteSettings, app / "site.toml.example")
    assert (site.name, site.data.path) == ("site-1", "rows")


def test_what_is_commented_out_is_valid_too(app, tmp_path):
    text = (app / "federation.toml").read_text(encoding="utf-8")
    table = text.replace('kind = "image"', "").replace("shape = [1, 8, 8]", "")
    options = re.sub(r"^# (?=(min_sites|kind|features|ranges|epsilon|max_norm) = )", "", table, flags=re.MULTILINE)
    assert options.count("\n# ") < text.count("\n# ")
    (tmp_path / "f.toml").write_text(options, encoding="utf-8")
    federation = settings.read(settings.FederationSettings, tmp_path / "f.toml")
    federation.rows.as_schema()
    assert federation.robust.max_norm
    assert federation.method.epsilon
    assert federation.rows.ranges["age"] == [0, 120]
    site = re.sub(r"^# (?=\w+ = )", "", (app / "site.toml.example").read_text(encoding="utf-8"), flags=re.MULTILINE)
    (tmp_path / "s.toml").write_text(site, encoding="utf-8")
    assert settings.read(settings.SiteSettings, tmp_path / "s.toml").data.size == 8


def test_there_are_never_more_components_than_sites(tmp_path):
    init(tmp_path / "pair", sites=2)
    assert settings.read(settings.FederationSettings, tmp_path / "pair/federation.toml").method.n_components == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_readme_has_the_exact_commands(app, command):
    text = (app / "README.md").read_text(encoding="utf-8")
    assert command in re.sub(r" \\\n\s+", " ", text)


@pytest.mark.parametrize(("sites", "files"), [(1, "rows-1.toml"), (3, "rows-1.toml rows-2.toml rows-3.toml")])
def test_readme_merges_a_file_of_each_site(tmp_path, sites, files):
    init(tmp_path / "app", sites=sites)
    text = (tmp_path / "app/README.md").read_text(encoding="utf-8")
    assert f"    fedgmi deploy merge {files} --out rows.toml\n" in text


def test_readme_says_what_is_not_secure(app):
    text = " ".join((app / "README.md").read_text(encoding="utf-8").split())
    assert "does not authenticate the command line" in text
    assert "it runs on the sites" in text
    assert "**proportions**" in text
    assert "code × label" in text


def test_a_secure_folder_never_says_insecure(app):
    for path in app.iterdir():
        assert "insecure" not in path.read_text(encoding="utf-8").lower(), path.name
    connection = tomllib.loads((app / "flower-config.toml").read_text(encoding="utf-8"))["superlink"]
    assert connection["default"] == "fedgmi"
    root = str(app.absolute() / "certificates" / "ca.crt")
    assert connection["fedgmi"] == {"address": "10.1.2.3:8443", "root-certificates": root}


def test_insecure_is_written_only_when_asked_for_and_says_so(tmp_path):
    with pytest.warns(FedgmiWarning, match="nothing there is encrypted"):
        init(tmp_path / "trial", insecure=True)
    assert names(tmp_path / "trial") == SECURE - {"certificates.sh"}
    text = (tmp_path / "trial/README.md").read_text(encoding="utf-8")
    for secure_only in ("--enable-supernode-auth", "certificates.sh", "--root-certificates", "supernode register"):
        assert secure_only not in text
    assert "flower-superlink --insecure" in text
    assert "flower-supernode --insecure" in text
    connection = tomllib.loads((tmp_path / "trial/flower-config.toml").read_text(encoding="utf-8"))
    assert connection["superlink"]["fedgmi"] == {"address": "127.0.0.1:8000", "insecure": True}


def test_a_folder_that_holds_anything_stays_untouched(app, tmp_path):
    before = {path: path.read_bytes() for path in app.iterdir()}
    with pytest.raises(UserError, match="not empty"):
        init(app)
    assert {path: path.read_bytes() for path in app.iterdir()} == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="a file, not a folder"):
        init(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    init(tmp_path / "empty")
    assert names(tmp_path / "empty") == SECURE


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"sites": 0}, "--sites"),
        ({"name": "two words"}, "--name"),
        ({"name": "9wards"}, "--name"),
        ({"name": "w" * 33}, "--name"),
        ({"name": ""}, "--name"),
        ({"address": "127.0.0.1"}, "--address"),
        ({"address": "127.0.0.1:0"}, "--address"),
        ({"address": "127.0.0.1:99999"}, "--address"),
        ({"address": ":8000"}, "--address"),
        ({"address": "https://link:8000"}, "--address"),
        ({"address": "link:8000/path"}, "--address"),
        ({"address": "a b:8000"}, "--address"),
        ({"address": "$(id):8000"}, "--address"),
        ({"address": "::1:8000"}, "--address"),
        ({"address": "0.0.0.0:8000"}, "--address"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(tmp_path, wrong, where):
    with pytest.raises(ConfigError, match=rf"^{where}: "):
        init(tmp_path / "wards", **wrong)
    assert not (tmp_path / "wards").exists()


@pytest.mark.parametrize(
    ("text", "listen", "alternative_names"),
    [
        ("127.0.0.1:8000", "127.0.0.1", "IP:127.0.0.1, DNS:localhost"),
        ("localhost:8000", "127.0.0.1", "DNS:localhost, IP:127.0.0.1"),
        ("link.example.org:8000", "0.0.0.0", "DNS:link.example.org, DNS:localhost, IP:127.0.0.1"),
        ("[::1]:8000", "::1", "IP:::1, DNS:localhost, IP:127.0.0.1"),
    ],
)
def test_address_says_where_to_listen_and_what_to_certify(text, listen, alternative_names):
    address = parse(text, "--address")
    assert (str(address), address.listen, address.alternative_names) == (text, listen, alternative_names)


def make_certificates(app: Path) -> None:
    for tool in ("openssl", "ssh-keygen"):
        if shutil.which(tool) is None:
            pytest.skip(f"there is no {tool}")
    subprocess.run(["sh", "certificates.sh"], cwd=app, check=True, capture_output=True)


def test_certificates_are_private_complete_and_never_overwritten(app):
    make_certificates(app)
    made = app / "certificates"
    sites = {f"site-{k}{end}" for k in range(1, 5) for end in ("", ".pub")}
    assert names(made) == {"ca.crt", "ca.key", "server.pem", "server.key"} | sites
    assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in made.iterdir()} == {0}
    assert (made / "site-1.pub").read_text().startswith("ecdsa-sha2-nistp384 ")
    verify = ["openssl", "verify", "-x509_strict", "-CAfile", made / "ca.crt", "-verify_ip", "10.1.2.3"]
    subprocess.run([*verify, made / "server.pem"], check=True, capture_output=True)
    before = {path.name: path.read_bytes() for path in made.iterdir()}
    again = subprocess.run(["sh", "certificates.sh"], cwd=app, capture_output=True, text=True)
    assert again.returncode == 1
    assert "stays untouched" in again.stderr
    assert {path.name: path.read_bytes() for path in made.iterdir()} == before


def test_certificates_that_fail_on_the_way_leave_nothing(app):
    script = app / "certificates.sh"
    script.write_text(script.read_text().replace("-extensions server", "-extensions nowhere"))
    failed = subprocess.run(["sh", "certificates.sh"], cwd=app, capture_output=True, text=True)
    assert failed.returncode == 1
    assert failed.stderr
    assert names(app) == SECURE


def test_check_follows_the_folder_from_init_to_a_running_superlink(tmp_path, capsys):
    app, port = tmp_path / "wards", free_port()
    assert code("deploy", "init", str(app), "--sites", "2", "--address", f"127.0.0.1:{port}") == 0
    assert code("deploy", "check", str(app)) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert f"the certificates are not there yet: there is no {app}/certificates/ca.crt" in told
    assert "run: sh certificates.sh" in told
    make_certificates(app)
    assert code("deploy", "check", str(app)) == 0
    shown = capsys.readouterr().out
    assert "wards, 2 sites, image rows of 1×8×8" in shown
    assert "free, no SuperLink is running" in shown
    (app / "certificates/site-2").chmod(0o640)
    assert code("deploy", "check", str(app)) == 2
    assert "mode 640" in " ".join(capsys.readouterr().err.split())


def test_check_names_a_wrong_setting(app):
    text = (app / "federation.toml").read_text(encoding="utf-8")
    (app / "federation.toml").write_text(text.replace("rounds = 10", "ronds = 10"), encoding="utf-8")
    with pytest.raises(ConfigError, match="did you mean rounds"):
        list(check_app(app))


def test_check_names_the_file_of_settings_that_do_not_go_together(app):
    """The key stood alone, and site.toml and pyproject.toml have such keys too."""
    text = (app / "federation.toml").read_text(encoding="utf-8")
    assert "n_components = " in text
    (app / "federation.toml").write_text(re.sub("n_components = .*", 'n_components = "auto"', text), encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"{re.escape(str(app))}/federation\.toml: method\.n_components: "):
        list(check_app(app))


def test_check_warns_of_more_components_than_sites(app):
    """A run has as many all the same, and proportions that are made up."""
    text = (app / "federation.toml").read_text(encoding="utf-8")
    (app / "federation.toml").write_text(re.sub("n_components = .*", "n_components = 5", text), encoding="utf-8")
    told = check_app(app)
    with pytest.warns(
        FedgmiWarning, match="federation.toml: 5 components cannot be told apart from 4 sites: their prop"
    ):
        assert [next(told), next(told)][0].startswith("federation.toml: wards, 4 sites")


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("n_components = 2\n", None),
        (
            "n_components = 2\nepsilon = 2.0\n",
            "each run costs every site ε = 2, for its histogram of codewords and labels",
        ),
        (
            'name = "fedavg"\n[privacy]\nunit = "clients"\nclip = 1.0\nepsilon = 8.0\n',
            "[privacy], unit clients: noise hides all",
        ),
    ],
)
def test_check_says_what_a_run_costs_of_every_site_s_privacy(app, setting, told):
    """A site reads it after a run; who asks for the run had nowhere to."""
    text = (app / "federation.toml").read_text(encoding="utf-8")
    head, rows = text.split("[method]")[0], "[method]\n" + setting
    (app / "federation.toml").write_text(head + rows, encoding="utf-8")
    lines = check_app(app)
    found = [line for line in islice(lines, 3) if "ε = " in line]
    assert [line.startswith(str(told)) for line in found] == [True] * (told is not None)


@pytest.mark.parametrize("name", programs.PROGRAMS)
def test_check_names_a_program_of_flower_that_is_missing(app, flower, monkeypatch, capsys, name):
    """A SuperLink starts the others by name: without one it takes runs and begins none."""
    (flower / name).unlink()
    monkeypatch.setenv("PATH", str(flower))
    assert code("deploy", "check", str(app)) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert f"there is no {name}: Flower is not installed" in told
    assert "pip install 'fedgmi[flower]' -c constraints.txt" in told


def test_check_refuses_programs_that_are_not_on_path(flower, monkeypatch):
    """It was a warning, and the SuperLink started no run."""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=rf"flwr-serverapp cannot be found by name: .* \. {flower}/activate"):
        programs.check_programs()


def test_readme_names_the_programs_that_are_needed(app):
    text = (app / "README.md").read_text(encoding="utf-8")
    for name in (*programs.PROGRAMS, "flower-supernode", "openssl", "ssh-keygen", "curl"):
        assert re.search(rf"^\|.*`{name}`", text, re.MULTILINE), name


def test_check_refuses_more_sites_to_wait_for_than_there_are(app):
    """The run waited in vain for `wait_s`, and failed."""
    text = (app / "federation.toml").read_text(encoding="utf-8")
    (app / "federation.toml").write_text(text.replace("# min_sites = 2", "min_sites = 5"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"federation\.toml: min_sites: 5 sites have to be there, and there are 4 at"):
        list(check_app(app))


def test_check_refuses_a_run_to_begin_with_that_is_not_there(app):
    text = (app / "federation.toml").read_text(encoding="utf-8")
    (app / "federation.toml").write_text(f'warm_start = "results"\n{text}', encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"{app}/results/checkpoints/fedgmi\.json holds no checkpoint to begin with"):
        list(check_app(app))


def test_check_warns_of_programs_of_another_installation(flower, monkeypatch, tmp_path):
    """They would run the app with the fedgmi that is installed there."""
    shutil.copy(flower / "flwr-serverapp", tmp_path / "flwr-serverapp")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.warns(FedgmiWarning, match=rf"flwr-serverapp is {tmp_path}/flwr-serverapp, and this fedgmi is in"):
        programs.check_programs()


def test_check_of_another_folder_says_what_is_missing(tmp_path):
    with pytest.raises(UserError, match=r"there is no pyproject\.toml"):
        list(check_app(tmp_path))


def test_check_of_an_insecure_folder_warns_again(tmp_path):
    with pytest.warns(FedgmiWarning):
        init(tmp_path / "trial", insecure=True, address=f"127.0.0.1:{free_port()}")
    with pytest.warns(FedgmiWarning, match="nobody is authenticated"):
        assert "free" in list(check_app(tmp_path / "trial"))[-1]


SERVER = """
import http.server, ssl, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
if len(sys.argv) > 1:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1], sys.argv[2])
    server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True)
server.serve_forever()
"""


def test_check_tells_a_superlink_from_whatever_else_took_the_port(tmp_path):
    ours, others = tmp_path / "ours", tmp_path / "others"
    for app in (ours, others):
        init(app, sites=1)
        make_certificates(app)
    pair = [str(ours / "certificates" / name) for name in ("server.pem", "server.key")]
    with subprocess.Popen([sys.executable, "-c", SERVER, *pair], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = Address("127.0.0.1", int(server.stdout.readline()))
            assert check_port(address, ours / "certificates/ca.crt").endswith("a SuperLink answers")
            with pytest.raises(UserError, match="does not vouch for"):
                check_port(address, others / "certificates/ca.crt")
            with pytest.raises(UserError, match="the port is in use"):
                check_port(address, None)
            assert check_link(address, ours / "certificates/ca.crt").endswith("a SuperLink answers")
            with pytest.raises(UserError, match=r"take the coordinator's present ca\.crt"):
                check_link(address, others / "certificates/ca.crt")
            with pytest.raises(UserError, match=r"speaks TLS.*give --root-certificates ca\.crt"):
                check_link(address, None)
            for wrong in ("server.key", "nothing.crt"):
                with pytest.raises(UserError, match=r"name the ca\.crt that the coordinator has now"):
                    check_link(address, ours / "certificates" / wrong)
        finally:
            server.terminate()
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = Address("127.0.0.1", int(server.stdout.readline()))
            with pytest.raises(UserError, match="does not speak TLS"):
                check_link(address, ours / "certificates/ca.crt")
        finally:
            server.terminate()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Flower's own calls
def test_flower_bundles_the_app_and_nothing_else(app):
    build = pytest.importorskip("flwr.cli.build", reason="flwr is not installed")
    deep = app.joinpath("results", *"abcdefghijkl")  # deeper than Flower allows
    deep.mkdir(parents=True)
    for path in (deep / "x.json", app / "results/status.json", app / "notes.md"):
        path.write_text("{}")
    (app / "certificates").mkdir()
    (app / "certificates/federation.toml").write_text("")
    bundle = zipfile.ZipFile(io.BytesIO(build.build_fab_from_disk(app)))
    assert {name for name in bundle.namelist() if not name.startswith(".info/")} == {
        "pyproject.toml",
        "server_app.py",
        "client_app.py",
        "federation.toml",
    }
