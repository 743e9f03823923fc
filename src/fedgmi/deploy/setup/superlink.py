"""Whether a SuperLink answers at an address, asked from either side; and what is there, where it does not."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

from fedgmi.deploy.setup.address import Address
from fedgmi.deploy.setup.keys import AT_SITE, check_certificate
from fedgmi.errors import UserError

SECONDS = 5.0
EXPIRED, OTHER_HOST, OTHER_IP = 10, 62, 64  # of OpenSSL: X509_V_ERR_CERT_HAS_EXPIRED, _HOSTNAME_MISMATCH, _IP_ADDRESS_


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
        check_certificate(root, fix=AT_SITE, renew=AT_SITE)
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


def _foreign(
    root: Path | None, error: ssl.SSLCertVerificationError, fix: str, expired: str, named: str
) -> tuple[str, str]:
    """What is wrong with a server's certificate, and which of three fixes is its."""
    what = f"the server there shows a certificate that {root} does not vouch for ({error.verify_message})"
    return what, {EXPIRED: expired, OTHER_HOST: named, OTHER_IP: named}.get(error.verify_code, fix)


def _of_coordinator(address: Address, root: Path | None, error: Exception | None) -> tuple[str, str]:
    """What is wrong, for who can stop a SuperLink and choose its port."""
    if isinstance(error, ssl.SSLCertVerificationError):
        fix = "take the coordinator's present ca.crt. If an old SuperLink runs there, stop it or use another port"
        shown = "restart the SuperLink, which shows the server.pem that it began with"
        return _foreign(root, error, fix, shown, shown)
    fix = "stop what listens there, or use another port, both in flower-config.toml and for the SuperLink"
    return "the port is in use, but not by a SuperLink that belongs to this folder", fix


def _of_site(address: Address, root: Path | None, error: Exception | None) -> tuple[str, str]:
    """What is wrong, for who can only ask the coordinator."""
    if isinstance(error, ssl.SSLCertVerificationError):
        fix = "take the coordinator's present ca.crt: the one named here belongs to another authority"
        expired = "tell the coordinator, who renews server.pem and restarts the SuperLink; nothing changes here"
        named = f"take the name or address that the coordinator gave, in place of {address.host}"
        return _foreign(root, error, fix, expired, named)
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
