"""Checks of keys and certificates: who can read a key, and whether a certificate is good for this deployment today."""

from __future__ import annotations

import os
import re
import ssl
import stat
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from fedgmi.deploy.setup.address import Address
from fedgmi.errors import FedgmiWarning, UserError

_PRIVATE_KEY = re.compile(rb"-----BEGIN ((?:[A-Z]+ )*)PRIVATE KEY-----")
_PAGE = "docs/operations.md of fedgmi, section Keys"
ANEW = "make new ones: move certificates/ away, run sh certificates.sh, and give ca.crt and the keys to the sites"
"""What mends an authority's certificate that is lost, at the coordinator, who makes them."""
RENEW = f"renew server.pem alone, and restart the SuperLink between runs; sites change nothing ({_PAGE})"
"""What mends the SuperLink's certificate when its time is over."""
RENAME = f"make server.pem alone anew, of server.key, for the names that it needs; sites change nothing ({_PAGE})"
"""What mends the SuperLink's certificate where it is lost, or for other names or another key."""
RENEW_AUTHORITY = f"renew ca.crt of the same ca.key, and give it to every site; all keys stay ({_PAGE})"
"""What mends an authority's certificate when its time is over."""
SOON = timedelta(days=30)
"""So long before its end a certificate is to be renewed: certbot's `renew_before_expiry`."""
AT_SITE = "name the ca.crt that the coordinator has now: check the path, and copy the file anew"
"""What does at a site."""


def check_private(path: Path, *, fix: str = "sh certificates.sh") -> None:
    """Check a private key.

    Args:
        path: The key's file.
        fix: The likely fix where it cannot be read.

    Raises:
        UserError: It is missing, is not a private key, has a passphrase, or others than its owner can read or change
            it.
    """
    text = _read(path, "a private key", fix)
    kind = _PRIVATE_KEY.search(text)
    if not kind:
        public = b"PUBLIC KEY" in text or text.startswith((b"ssh-", b"ecdsa-"))
        what = "this is a public key, not a private one" if public else "this is not a private key"
        raise UserError(what, where=str(path), fix="give the file without .pub that ssh-keygen or openssl wrote")
    if b"ENCRYPTED" in kind[1]:
        fix = "make a key without one: nobody is there to type it when a SuperNode starts"
        raise UserError("the key has a passphrase", where=str(path), fix=fix)
    mode = stat.S_IMODE(path.stat().st_mode)
    if os.name == "posix" and mode & 0o077:  # elsewhere the bits say nothing about who may read
        what = f"others may read or change this private key (mode {mode:03o})"
        raise UserError(what, where=str(path), fix=f"chmod 600 {path}, and make a new key if others could log in")


def check_pair(key: Path, certificate: Path) -> None:
    """Check that a private key belongs to a certificate.

    Args:
        key: The key's file.
        certificate: The certificate's file, in PEM.

    Raises:
        UserError: It does not.
    """
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        raise UserError(f"this is not the key of {certificate} ({error.reason})", where=str(key), fix=RENAME) from error


def check_certificate(
    path: Path,
    *,
    issuer: Path | None = None,
    address: Address | None = None,
    now: datetime | None = None,
    fix: str = ANEW,
    renew: str = RENEW_AUTHORITY,
) -> datetime | None:
    """Check a certificate.

    Args:
        path: The certificate's file, in PEM.
        issuer: The certificate of the authority that has to have signed it. None: any.
        address: The address that it has to be made for. None: any.
        now: The time at which it has to be good. None: the present.
        fix: The likely fix of a certificate that is missing, or none.
        renew: The likely fix of one that has expired, or soon will: of that a warning tells.

    Returns:
        Until when it is good. None where the package `cryptography`, which comes with Flower, is missing: then only
        its form is checked.

    Raises:
        UserError: It is no certificate, has expired, is not yet good, or is of another authority or address.
    """
    text = _read(path, "a certificate", fix)
    if b"-----BEGIN CERTIFICATE-----" not in text:
        raise UserError("this is not a certificate in PEM", where=str(path), fix=fix)
    try:
        from cryptography import x509
    except ModuleNotFoundError:
        return None
    certificate = _parse(x509, text, path, fix)
    now = now or datetime.now(UTC)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > end:
        raise UserError(f"the certificate expired on {end:%Y-%m-%d %H:%M} UTC", where=str(path), fix=renew)
    if now < begin:
        clock = f"set this machine's clock, which shows {now:%Y-%m-%d %H:%M} UTC"
        raise UserError(f"the certificate is good only from {begin:%Y-%m-%d %H:%M} UTC", where=str(path), fix=clock)
    if issuer is not None:
        _check_issuer(certificate, path, _parse(x509, _read(issuer, "a certificate", fix), issuer, fix), issuer)
    if address is not None:
        _check_names(x509, certificate, path, address)
    if end - now < SOON:
        what = f"{path}: the certificate expires on {end:%Y-%m-%d %H:%M} UTC. Likely fix: {renew}"
        warnings.warn(FedgmiWarning(what), stacklevel=2)
    return end  # type: ignore[no-any-return]


def _check_issuer(certificate: Any, path: Path, authority: Any, issuer: Path) -> None:
    from cryptography.exceptions import InvalidSignature

    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature) as error:
        what = f"the certificate is a foreign one: it is not signed by {issuer}"
        raise UserError(what, where=str(path), fix=f"use the ca.crt that signed it, or {RENAME}") from error


def _check_names(x509: Any, certificate: Any, path: Path, address: Address) -> None:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = []
    known = sorted(str(name.value) for name in names)
    if address.host not in known:
        what = f"the certificate is for {', '.join(known) or 'no address'}, and not for {address.host}"
        raise UserError(what, where=str(path), fix=RENAME)


def _parse(x509: Any, text: bytes, path: Path, fix: str) -> Any:
    try:
        return x509.load_pem_x509_certificate(text)
    except ValueError as error:
        raise UserError(f"the certificate cannot be read ({error})", where=str(path), fix=fix) from error


def _read(path: Path, kind: str, fix: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else f"it cannot be read ({error})"
        raise UserError(f"{kind} was expected, but {reason}", where=str(path), fix=fix) from error
