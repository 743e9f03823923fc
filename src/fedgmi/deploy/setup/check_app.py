"""What can be checked at a coordinator before anything is started: settings, programs, keys, certificates, the port."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedgmi.deploy import exchanges, private, settings
from fedgmi.deploy.coordinator.warm_start import first_state
from fedgmi.deploy.setup.address import Address, parse
from fedgmi.deploy.setup.check_results import check_results
from fedgmi.deploy.setup.init import APP_FILES, CERTIFICATES, CONNECTION, FEDERATION
from fedgmi.deploy.setup.keys import RENAME, RENEW, check_certificate, check_pair, check_private
from fedgmi.deploy.setup.programs import check_programs
from fedgmi.deploy.setup.superlink import check_port
from fedgmi.errors import ConfigError, FedgmiWarning, UserError
from fedgmi.report.formats import plural
from fedgmi.settings import toml as settings_io


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
    cost = federation.cost(method)
    if cost is not None:
        yield private.line(cost, masked=federation.masked)
    elif federation.epsilon is not None:
        yield f"each run costs every site ε = {federation.epsilon:g}, for its histogram of codewords and labels"
    yield check_results(where, federation)
    yield check_programs()
    address, root = _connection(where / CONNECTION)
    if root is None:
        what = f"insecure: nothing is encrypted and nobody is authenticated at {address}"
        warnings.warn(FedgmiWarning(what), stacklevel=2)
    else:
        yield from _check_certificates(where / CERTIFICATES, root, address)
    yield check_port(address, root)


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
    end = check_certificate(server, issuer=root, address=address, fix=RENAME, renew=RENEW)
    keys = {where / "server.key", *where.glob("*.key")}
    keys |= {path.with_suffix("") for path in where.glob("*.pub") if path.with_suffix("").exists()}
    for key in sorted(keys):
        check_private(key)
    check_pair(where / "server.key", server)
    until = f"good until {end:%Y-%m-%d}" if end else "not checked, because the package cryptography is missing"
    yield f"{server}: {until}"
    yield f"{where}: only their owner can read the private keys {', '.join(sorted(key.name for key in keys))}"
