"""What can be checked of a coordinator's folder before anything is started: settings, keys, certificates, the port."""

from __future__ import annotations

import http.client
import socket
import ssl
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedgmi.deploy import exchanges, settings
from fedgmi.deploy.setup.address import Address, parse
from fedgmi.deploy.setup.init import APP_FILES, CERTIFICATES, CONNECTION, FEDERATION
from fedgmi.deploy.setup.keys import check_certificate, check_pair, check_private
from fedgmi.errors import ConfigError, FedgmiWarning, UserError
from fedgmi.settings import toml as settings_io

SECONDS = 5.0


def check_app(where: Path) -> Iterator[str]:
    """Check a coordinator's folder.

    Args:
        where: What `fedgmi deploy init` wrote.

    Yields:
        A line for each thing that is right.

    Raises:
        UserError: The first thing that is not: a file is missing, a certificate is not good, others may read a key, or
            something else has the port.
        ConfigError: A setting is wrong.
    """
    for name in APP_FILES:
        if not (where / name).is_file():
            fix = "give the folder that `fedgmi deploy init` wrote, or write a new one"
            raise UserError(f"there is no {name}", where=str(where), fix=fix)
    federation = settings.read(settings.FederationSettings, where / FEDERATION)
    schema = federation.rows.as_schema()
    shape = "×".join(map(str, schema.shape))
    yield f"{FEDERATION}: {federation.name}, {federation.sites} sites, {schema.kind} rows of {shape}"
    yield exchanges.line(federation.running(federation.setup().method()).program, federation.rounds)
    address, root = _connection(where / CONNECTION)
    if root is None:
        what = f"insecure: nothing is encrypted and nobody is authenticated at {address}"
        warnings.warn(FedgmiWarning(what), stacklevel=2)
    else:
        yield from _check_certificates(where / CERTIFICATES, root, address)
    yield check_port(address, root)


def check_port(address: Address, root: Path | None) -> str:
    """Check that the port is free, or that a SuperLink answers there.

    Args:
        address: Of the port.
        root: The certificate of the authority that has to have signed the SuperLink's. None: no TLS.

    Returns:
        Which of both it is, as a line to show.

    Raises:
        UserError: Something else answers there, or the host cannot be reached.
    """
    return _answer(address, root) if _listens(address) else f"{address}: free, no SuperLink is running"


def check_link(address: Address, root: Path | None) -> str:
    """Check from a site that a SuperLink answers.

    Args:
        address: Where it should be.
        root: The certificate of the authority that has to have signed the SuperLink's. None: no TLS.

    Returns:
        That it does, as a line to show.

    Raises:
        UserError: Nothing or something else answers there, the host cannot be reached, or `root` is not a certificate
            that is good today.
    """
    if root is not None:
        check_certificate(root)
    if not _listens(address):
        fix = "ask the coordinator whether the SuperLink runs, and whether this is its port"
        raise UserError("nothing listens there", where=str(address), fix=fix)
    return _answer(address, root)


def _listens(address: Address) -> bool:
    """Whether anything listens there."""
    try:
        socket.create_connection(address, SECONDS).close()
    except ConnectionRefusedError:
        return False
    except socket.gaierror as error:
        fix = "correct the address, or the name service"
        raise UserError(f"the name {address.host} is not known", where=str(address), fix=fix) from error
    except OSError as error:
        fix = "check that the host is up and that no firewall is in between"
        raise UserError(f"cannot be reached ({error.strerror or error})", where=str(address), fix=fix) from error
    return True


def _answer(address: Address, root: Path | None) -> str:
    """Ask whether a SuperLink answers. Raises UserError where something else does."""
    where = str(address)
    try:
        status = _health(address, root)
    except ssl.SSLCertVerificationError as error:
        what = f"the server there shows a certificate that {root} does not vouch for ({error.verify_message})"
        fix = "take the coordinator's present ca.crt. If an old SuperLink runs there, stop it or use another port"
        raise UserError(what, where=where, fix=fix) from error
    except (OSError, http.client.HTTPException):
        status = 0
    if status != 200:
        fix = f"stop what listens there, or use another port, both in {CONNECTION} and for the SuperLink"
        raise UserError("the port is in use, but not by a SuperLink that belongs to this folder", where=where, fix=fix)
    return f"{where}: a SuperLink answers"


def _health(address: Address, root: Path | None) -> int:
    """The HTTP status of a SuperLink's /health."""
    connection: http.client.HTTPConnection
    if root is None:
        connection = http.client.HTTPConnection(*address, timeout=SECONDS)
    else:
        trusted = ssl.create_default_context(cafile=str(root))
        connection = http.client.HTTPSConnection(*address, timeout=SECONDS, context=trusted)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status
    finally:
        connection.close()


def _connection(path: Path) -> tuple[Address, Path | None]:
    """The SuperLink's address, and the certificate of the authority; None: without TLS."""
    table: Any = settings_io.read_toml(path)
    for key in ("superlink", "fedgmi"):
        table = table.get(key)
        if not isinstance(table, dict):
            fix = "copy the section from a folder that `fedgmi deploy init` writes"
            raise ConfigError("there is no section [superlink.fedgmi]", where=str(path), fix=fix)
    address = parse(str(table.get("address", "")), f"{path}, address")
    if table.get("insecure") is True:
        return address, None
    root = Path(str(table.get("root-certificates", "")))
    if not root.is_absolute() or not root.is_file():
        what = f'root-certificates is "{table.get("root-certificates", "")}", which is not the absolute path of a file'
        fix = "run sh certificates.sh. If the folder was moved, write the new absolute path of certificates/ca.crt"
        raise ConfigError(what, where=str(path), fix=fix)
    return address, root


def _check_certificates(where: Path, root: Path, address: Address) -> Iterator[str]:
    server = where / "server.pem"
    check_certificate(root)
    end = check_certificate(server, issuer=root, address=address)
    keys = {where / "server.key", *where.glob("*.key")}
    keys |= {path.with_suffix("") for path in where.glob("*.pub") if path.with_suffix("").exists()}
    for key in sorted(keys):
        check_private(key)
    check_pair(where / "server.key", server)
    until = f"good until {end:%Y-%m-%d}" if end else "not checked, because the package cryptography is missing"
    yield f"{server}: {until}"
    yield f"{where}: only their owner can read the private keys {', '.join(sorted(key.name for key in keys))}"
