"""What can be checked at a coordinator before anything is started: settings, programs, keys, certificates, the port."""

from __future__ import annotations

import http.client
import socket
import ssl
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fedgmi.deploy import exchanges, settings
from fedgmi.deploy.coordinator.warm_start import first_state
from fedgmi.deploy.setup.address import Address, parse
from fedgmi.deploy.setup.init import APP_FILES, CERTIFICATES, CONNECTION, FEDERATION
from fedgmi.deploy.setup.keys import AT_SITE, check_certificate, check_pair, check_private
from fedgmi.deploy.setup.programs import check_programs
from fedgmi.errors import ConfigError, FedgmiWarning, UserError
from fedgmi.report.formats import plural
from fedgmi.settings import toml as settings_io

SECONDS = 5.0


def check_app(where: Path) -> Iterator[str]:
    """Check a coordinator's folder.

    Args:
        where: What `fedgmi deploy init` wrote.

    Yields:
        A line for each thing that is right.

    Raises:
        UserError: The first thing that is not: a file or one of Flower's programs is missing, a certificate is not
            good, others may read a key, or something else has the port.
        ConfigError: A setting is wrong, or `warm_start` names no run to begin with.
        CheckpointError: That run's checkpoint is damaged.
    """
    for name in APP_FILES:
        if not (where / name).is_file():
            fix = "give the folder that `fedgmi deploy init` wrote, or write a new one"
            raise UserError(f"there is no {name}", where=str(where), fix=fix)
    federation = settings.read(settings.FederationSettings, where / FEDERATION)
    with settings.named(where / FEDERATION):
        schema, method = federation.rows.as_schema(), federation.running(federation.setup().method())
    shape = "×".join(map(str, schema.shape))
    yield f"{FEDERATION}: {federation.name}, {plural(federation.sites, 'site')}, {schema.kind} rows of {shape}"
    if more := settings.too_many(federation.setup().n_components, federation.sites):
        warnings.warn(FedgmiWarning(f"{FEDERATION}: {more}"), stacklevel=2)
    if federation.warm_start is not None:  # relative to where the SuperLink runs, which is this folder
        earlier = (where / Path(federation.warm_start).expanduser()).absolute()
        first_state(federation.model_copy(update={"warm_start": str(earlier)}), method)
        yield f"warm_start: {earlier} holds a finished run to begin with"
    done = -1 if federation.warm_start is None else 0
    yield exchanges.Count(method.program, federation.rounds, federation.masked, done).line()
    yield check_programs()
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
    return _answer(address, root, _of_coordinator) if _listens(address) else f"{address}: free, no SuperLink is running"


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
        check_certificate(root, fix=AT_SITE)
    if not _listens(address):
        fix = "ask the coordinator whether the SuperLink runs, and whether this is its port"
        raise UserError("nothing listens there", where=str(address), fix=fix)
    return _answer(address, root, _of_site)


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


Wrong = Callable[[Address, Path | None, Exception | None], tuple[str, str]]
"""(address, root, what went wrong; None: another answer than a SuperLink's) → what is there, and the likely fix."""


def _answer(address: Address, root: Path | None, wrong: Wrong) -> str:
    """Ask whether a SuperLink answers. Raises UserError where something else does."""
    failed: Exception | None = None
    try:
        if _health(address, root) == 200:
            return f"{address}: a SuperLink answers"
    except (OSError, http.client.HTTPException) as error:
        failed = error
    what, fix = wrong(address, root, failed)
    raise UserError(what, where=str(address), fix=fix) from failed


def _foreign(root: Path | None, error: ssl.SSLCertVerificationError) -> str:
    return f"the server there shows a certificate that {root} does not vouch for ({error.verify_message})"


def _of_coordinator(address: Address, root: Path | None, error: Exception | None) -> tuple[str, str]:
    """What is wrong, for who can stop a SuperLink and choose its port."""
    if isinstance(error, ssl.SSLCertVerificationError):
        fix = "take the coordinator's present ca.crt. If an old SuperLink runs there, stop it or use another port"
        return _foreign(root, error), fix
    fix = f"stop what listens there, or use another port, both in {CONNECTION} and for the SuperLink"
    return "the port is in use, but not by a SuperLink that belongs to this folder", fix


def _of_site(address: Address, root: Path | None, error: Exception | None) -> tuple[str, str]:
    """What is wrong, for who can only ask the coordinator."""
    if isinstance(error, ssl.SSLCertVerificationError):
        fix = "take the coordinator's present ca.crt, and the name or address that the coordinator gave"
        return _foreign(root, error), fix
    if isinstance(error, ssl.SSLError):
        fix = "ask the coordinator whether this is the port, and whether its SuperLink is insecure"
        return f"what listens there does not speak TLS ({error.reason or error})", fix
    if root is None and _speaks_tls(address):
        fix = "give --root-certificates ca.crt, the file that the coordinator gave you"
        return "what listens there speaks TLS, and was asked without", fix
    return "what listens there is no SuperLink", "ask the coordinator for the SuperLink's address and port"


def _speaks_tls(address: Address) -> bool:
    """Whether a handshake succeeds, whatever the certificate: nothing is said over it."""
    anybody = ssl.create_default_context()
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection(address, SECONDS) as plain,
            anybody.wrap_socket(plain, server_hostname=address.host),
        ):
            return True
    except OSError:  # ssl.SSLError is one
        return False


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
    if root.is_absolute() and not root.exists() and not (path.parent / CERTIFICATES).exists():
        what = f"the certificates are not there yet: there is no {root}"
        raise UserError(what, where=str(path.parent), fix="in that folder, run: sh certificates.sh")
    if not root.is_absolute() or not root.is_file():
        what = f'root-certificates is "{table.get("root-certificates", "")}", which is not the absolute path of a file'
        fix = "if the folder was moved, write the new absolute path of certificates/ca.crt"
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
