"""The coordinator's folder: a Flower app, its settings, and a README.md with all commands, from `template/`."""

from __future__ import annotations

import json
import re
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from string import Template

from fedgmi import __version__
from fedgmi.deploy.setup.address import Address, parse
from fedgmi.errors import ConfigError, FedgmiWarning, UserError
from fedgmi.storage import files

FEDERATION = "federation.toml"
CONNECTION = "flower-config.toml"
CERTIFICATES = "certificates"
RESULTS = "results"
APP_FILES = ("pyproject.toml", "server_app.py", "client_app.py", FEDERATION, CONNECTION)
MEASURED_FLOWER = "1.41.0"
HIDDEN = ("gitignore", "dockerignore")
TEMPLATES = Path(__file__).parent / "template"

_NAME = re.compile(r"[A-Za-z]([A-Za-z0-9-]{0,30}[A-Za-z0-9])?")
_VARIANT = re.compile(r"^§(secure|insecure)\n(.*?)^§end\n", re.MULTILINE | re.DOTALL)


class _Text(Template):
    """`§name` stands for a value: unlike `$`, the sign means nothing to shells, TOML and Markdown."""

    delimiter = "§"


def init(
    where: Path, *, name: str | None = None, sites: int = 3, insecure: bool = False, address: str = "127.0.0.1:8000"
) -> None:
    """Write a coordinator's folder.

    Args:
        where: A new folder, or an empty one.
        name: The federation's: letters, digits and hyphens. None: the folder's name.
        sites: How many sites there will be.
        insecure: Write it for connections without encryption and authentication.
        address: HOST:PORT where sites reach the SuperLink.

    Raises:
        ConfigError: The name, the number of sites or the address is none.
        UserError: The folder holds something, or cannot be written.
    """
    where = where.absolute()
    values = _values(where, where.name if name is None else name, sites, parse(address, "--address"))
    _claim(where)
    for path in sorted(TEMPLATES.iterdir()):
        text = render(path.read_text(encoding="utf-8"), values, insecure=insecure)
        target = path.name.removesuffix(".template")
        if not (insecure and target == f"{CERTIFICATES}.sh"):
            files.write_text(where / (f".{target}" if target in HIDDEN else target), text)
    if insecure:
        what = f"{where}: because of --insecure, nothing there is encrypted and nobody is authenticated"
        warnings.warn(FedgmiWarning(f"{what}. Use it for a trial on one machine only"), stacklevel=2)


def render(text: str, values: dict[str, str], *, insecure: bool) -> str:
    """Fill in a template.

    Args:
        text: The template. `§name` stands for the value of `name`. Lines from `§secure` to `§end` are for a folder with
            certificates and keys, lines from `§insecure` to `§end` for one without.
        values: By name. None may be missing.
        insecure: Which of the lines to keep.

    Returns:
        The text.

    Examples:
        >>> render("§name\\n§secure\\nTLS\\n§end\\n§insecure\\nopen\\n§end\\n", {"name": "wards"}, insecure=False)
        'wards\\nTLS\\n'
    """
    meant = "insecure" if insecure else "secure"
    chosen = _VARIANT.sub(lambda found: found[2] if found[1] == meant else "", text)
    return re.sub(r"\n{3,}", "\n\n", _Text(chosen).substitute(values))


def _values(where: Path, name: str, sites: int, address: Address) -> dict[str, str]:
    if not _NAME.fullmatch(name):
        what = f'"{name}" cannot be the name of a Flower app'
        fix = "give one with --name: letters, digits and hyphens, 32 at most, a letter first and no hyphen last"
        raise ConfigError(what, where="--name", fix=fix)
    if sites < 1:
        raise ConfigError(f"there cannot be {sites} sites", where="--sites", fix="give 1 or more")
    root = where / CERTIFICATES / "ca.crt"
    return {
        "name": name,
        "version": __version__,
        "sites": str(sites),
        "proposals": " ".join(f"rows-{i}.toml" for i in range(1, sites + 1)),
        "components": str(min(3, sites)),
        "address": str(address),
        "host": address.host,
        "port": str(address.port),
        "listen": address.listen,
        "inner_port": "8001" if address.port != 8001 else "8002",
        "alternative_names": address.alternative_names,
        "ca": json.dumps(str(root), ensure_ascii=False),
        "constraints": "\n".join(_constraints()),
    }


def _constraints() -> list[str]:
    """This machine's versions of what must be the same on all, without the build: others may have another one."""
    found = [f"fedgmi=={__version__}"]
    for package, otherwise in (("flwr", MEASURED_FLOWER), ("torch", ""), ("numpy", "")):
        try:
            installed = version(package).partition("+")[0]
        except PackageNotFoundError:
            installed = otherwise
        found += [f"{package}=={installed}"] if installed else []
    return found


def _claim(where: Path) -> None:
    """Make the folder, private where it is new, and refuse one that holds anything."""
    try:
        where.parent.mkdir(parents=True, exist_ok=True)
        where.mkdir(mode=0o700, exist_ok=True)
        inhabited = any(where.iterdir())
    except OSError as error:
        reason = "it is a file, not a folder" if isinstance(error, FileExistsError) else error.strerror
        fix = "give the path of a new folder that you may write to"
        raise UserError(f"the app cannot be written there ({reason})", where=str(where), fix=fix) from error
    if inhabited:
        raise UserError("the folder is not empty, so it stays untouched", where=str(where), fix="give a new folder")
