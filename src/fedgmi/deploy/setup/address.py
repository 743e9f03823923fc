"""Where a SuperLink listens, as HOST:PORT: which addresses there can be, and what its certificate must contain."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple
from urllib.parse import urlsplit

from fedgmi.errors import ConfigError

_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*")
_EXAMPLE = "give the name or address that sites reach it by, and a port: 127.0.0.1:8000 or link.example.org:8000"


class Address(NamedTuple):
    """Where sites reach a SuperLink.

    Attributes:
        host: A name, or an IP address without brackets.
        port: From 1 to 65535.

    Examples:
        >>> Address("link.example.org", 8000).alternative_names
        'DNS:link.example.org, DNS:localhost, IP:127.0.0.1'
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_number(self) -> bool:
        """Whether the host is an IP address."""
        return _is_number(self.host)

    @property
    def listen(self) -> str:
        """What the SuperLink binds to: an IP address itself. Where there is only a name, all interfaces."""
        if self.host == "localhost":
            return "127.0.0.1"
        return self.host if self.is_number else "0.0.0.0"

    @property
    def alternative_names(self) -> str:
        """A certificate's subjectAltName, as openssl writes it. The SuperLink's own processes use the local names."""
        own = f"{'IP' if self.is_number else 'DNS'}:{self.host}"
        return ", ".join(dict.fromkeys((own, "DNS:localhost", "IP:127.0.0.1")))


def parse(text: str, where: str) -> Address:
    """Read an address.

    Args:
        text: HOST:PORT. An IPv6 address stands in brackets.
        where: The setting that it came from, for the message.

    Returns:
        The address.

    Raises:
        ConfigError: The text has another form, or names all interfaces, which nobody can connect to.

    Examples:
        >>> parse("[::1]:8000", "--address")
        Address(host='::1', port=8000)
    """
    scheme, slashes, rest = text.partition("://")
    if slashes:
        fix = f"leave it out: {rest.partition('/')[0] or 'HOST:PORT'}"
        raise ConfigError(f'"{text}" has a scheme, {scheme}://, and an address is HOST:PORT', where=where, fix=fix)
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if parts_missing := [name for name, part in (("host", host), ("port", port)) if not part]:
        raise ConfigError(f'"{text}" has no valid {" and no valid ".join(parts_missing)}', where=where, fix=_EXAMPLE)
    address = Address(host, int(port or 0))
    if str(address) != text.lower() or not (address.is_number or _HOST_NAME.fullmatch(host)):
        raise ConfigError(f'"{text}" is not of the form HOST:PORT', where=where, fix=_EXAMPLE)
    if host in ("0.0.0.0", "::"):
        raise ConfigError(f"nobody can connect to {host}, which stands for all interfaces", where=where, fix=_EXAMPLE)
    return address


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
