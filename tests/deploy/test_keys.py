"""Keys and certificates of a deployment: what others may read, and what has expired, is refused with the fix."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from fedgmi.deploy.setup.address import Address
from fedgmi.deploy.setup.keys import check_certificate, check_pair, check_private
from fedgmi.errors import UserError

KEY = "-----BEGIN {}PRIVATE KEY-----\nbm9uZQ==\n-----END {}PRIVATE KEY-----\n"
NOW = datetime(2026, 6, 1, tzinfo=UTC)
HERE = Address("127.0.0.1", 8000)


def key_file(where: Path, kind: str = "OPENSSH ", mode: int = 0o600) -> Path:
    path = where / "site-1"
    path.write_text(KEY.format(kind, kind))
    path.chmod(mode)
    return path


@pytest.mark.parametrize("kind", ["", "EC ", "OPENSSH "])
@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_private_key_of_its_owner_alone_is_fine(tmp_path, kind, mode):
    check_private(key_file(tmp_path, kind, mode))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o644])
def test_a_private_key_that_others_may_read_is_refused(tmp_path, mode):
    path = key_file(tmp_path, mode=mode)
    with pytest.raises(UserError, match=rf"mode {mode:o}.*chmod 600 {path}"):
        check_private(path)


def test_what_is_no_private_key_is_refused(tmp_path):
    path = key_file(tmp_path)
    for text, found in (("nothing", "not a private key"), ("ecdsa-sha2-nistp384 AAAA site-1", "a public key")):
        path.write_text(text)
        with pytest.raises(UserError, match=found):
            check_private(path)
    with pytest.raises(UserError, match="passphrase"):
        check_private(key_file(tmp_path, "ENCRYPTED "))
    with pytest.raises(UserError, match="there is no such file"):
        check_private(tmp_path / "site-2")


class Authority:
    """Signs certificates with the package that Flower brings."""

    def __init__(self, where: Path, name: str) -> None:
        pytest.importorskip("cryptography", reason="cryptography is not installed")
        from cryptography.hazmat.primitives.asymmetric import ec

        self.where, self.name = where, name
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self.sign(name)

    def sign(self, name: str, begin: datetime = NOW - timedelta(days=9), days: float = 30) -> Path:
        """A certificate for 127.0.0.1, good for so many days."""
        from cryptography import x509
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.serialization import Encoding

        def called(text: str) -> Any:
            return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

        names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1")), x509.DNSName("localhost")])
        made = (
            x509.CertificateBuilder()
            .subject_name(called(name))
            .issuer_name(called(self.name))
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + timedelta(days=days))
            .add_extension(names, critical=False)
            .add_extension(x509.BasicConstraints(ca=name == self.name, path_length=None), critical=True)
            .sign(self.key, SHA256())
        )
        path = self.where / f"{name}.pem"
        path.write_bytes(made.public_bytes(Encoding.PEM))
        return path

    def write_key(self, path: Path) -> None:
        """Its private key, in PEM."""
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        path.write_bytes(self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


@pytest.fixture
def authority(tmp_path) -> Authority:
    return Authority(tmp_path, "authority")


def test_a_good_certificate_tells_how_long(authority):
    server = authority.sign("server", days=60)
    authority.certificate = authority.sign("authority", days=60)
    assert check_certificate(server, issuer=authority.certificate, address=HERE, now=NOW) == NOW + timedelta(days=51)


def test_an_expired_certificate_is_refused_with_its_date(authority):
    expired = authority.sign("old", begin=datetime(2025, 1, 1, tzinfo=UTC), days=1)
    with pytest.raises(UserError, match="expired on 2025-01-02 00:00 UTC"):
        check_certificate(expired, now=NOW)


def test_a_certificate_of_the_future_is_refused_with_its_date(authority):
    early = authority.sign("early", begin=NOW + timedelta(days=1))
    with pytest.raises(UserError, match=r"only from 2026-06-02 .*clock"):
        check_certificate(early, now=NOW)


def test_a_foreign_certificate_is_refused(authority, tmp_path):
    others = Authority(tmp_path, "others")
    with pytest.raises(UserError, match="foreign"):
        check_certificate(authority.sign("server"), issuer=others.certificate, now=NOW)
    with pytest.raises(UserError, match="foreign"):  # the same name does not make the same authority
        check_certificate(authority.sign("server"), issuer=Authority(tmp_path, "authority").certificate, now=NOW)


def test_a_certificate_for_another_address_is_refused(authority):
    with pytest.raises(UserError, match=r"is for 127\.0\.0\.1, localhost, and not for link\.example\.org"):
        check_certificate(authority.sign("server"), address=Address("link.example.org", 8000), now=NOW)


def test_the_key_of_another_certificate_is_refused(authority, tmp_path):
    certificate, key = authority.sign("server"), tmp_path / "server.key"
    authority.write_key(key)
    check_pair(key, certificate)
    Authority(tmp_path, "others").write_key(key)
    with pytest.raises(UserError, match=r"is not the key of .*server\.pem"):
        check_pair(key, certificate)


def test_what_is_no_certificate_is_refused(tmp_path):
    path = tmp_path / "ca.crt"
    with pytest.raises(UserError, match=r"there is no such file.*certificates\.sh"):
        check_certificate(path)
    path.write_text("nothing")
    with pytest.raises(UserError, match="not a certificate"):
        check_certificate(path)


def test_a_broken_certificate_is_refused(authority):
    path = authority.certificate
    path.write_text("-----BEGIN CERTIFICATE-----\nbm9uZQ==\n-----END CERTIFICATE-----\n")
    with pytest.raises(UserError, match="cannot be read"):
        check_certificate(path)
