"""Certificates that end, or do not fit: the least that mends it is advised, and sites are left alone if they can be."""

from __future__ import annotations

import shutil
import subprocess
import sys
import warnings
from datetime import timedelta
from pathlib import Path

import pytest
from test_init import SERVER
from test_keys import HERE, NOW, Authority

from fedgmi.deploy.setup import check_app
from fedgmi.deploy.setup.address import Address
from fedgmi.deploy.setup.keys import ANEW, RENAME, RENEW, RENEW_AUTHORITY, check_certificate
from fedgmi.deploy.setup.superlink import check_link, check_port
from fedgmi.errors import FedgmiWarning, UserError

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")


@pytest.fixture
def authority(tmp_path) -> Authority:
    found = Authority(tmp_path, "ca")
    shutil.copy(found.sign("ca", days=3650), tmp_path / "ca.crt")
    found.write_key(tmp_path / "server.key")
    (tmp_path / "server.key").chmod(0o600)
    return found


def checked(where: Path) -> list[str]:
    return list(check_app._check_certificates(where, where / "ca.crt", HERE))


def test_an_expired_certificate_of_the_superlink_is_renewed_and_sites_are_left_alone(authority, tmp_path):
    """Everything anew was advised, of which each site had to be given its part."""
    authority.sign("server", begin=NOW - timedelta(days=400), days=397)
    with pytest.raises(UserError, match=r"server\.pem: the certificate expired on .*sites change nothing") as raised:
        checked(tmp_path)
    assert raised.value.fix == RENEW
    assert "move certificates/ away" not in str(raised.value)


def test_an_expired_authority_alone_is_a_matter_of_the_sites(authority, tmp_path):
    shutil.copy(authority.sign("ca", begin=NOW - timedelta(days=40)), tmp_path / "ca.crt")
    with pytest.raises(UserError, match=r"ca\.crt: the certificate expired .*give it to every site") as raised:
        checked(tmp_path)
    assert raised.value.fix == RENEW_AUTHORITY


@pytest.mark.parametrize(("left", "warned"), [(29, True), (31, False)])
def test_a_certificate_that_soon_expires_is_warned_of(authority, left, warned):
    server = authority.sign("server", begin=NOW - timedelta(days=1), days=left + 1)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        check_certificate(server, now=NOW, renew=RENEW)
    assert [str(one.message) for one in told] == (
        [f"{server}: the certificate expires on 2026-06-30 00:00 UTC. Likely fix: {RENEW}"] if warned else []
    )
    assert all(one.category is FedgmiWarning for one in told)


def test_what_else_is_wrong_with_server_pem_is_no_reason_for_new_keys_at_sites(authority, tmp_path):
    with pytest.raises(UserError, match="there is no such file") as lost:
        checked(tmp_path)
    authority.sign("server", begin=NOW - timedelta(days=1), days=3650)
    with pytest.raises(UserError, match="and not for") as renamed:
        check_certificate(tmp_path / "server.pem", address=Address("link.example.org", 1), now=NOW, fix=RENAME)
    assert {lost.value.fix, renamed.value.fix} == {RENAME}


def test_the_advice_names_a_section_that_there_is():
    keys = PAGE.partition("\n## Keys\n")[2].partition("\n## ")[0]
    for advice in (RENEW, RENAME, RENEW_AUTHORITY):
        assert advice.endswith("(docs/operations.md of fedgmi, section Keys)")
    assert "docs/operations.md" not in ANEW
    for file in ("server.pem", "ca.crt"):
        assert f"-out certificates/{file}" in keys or f"mv ca.new certificates/{file}" in keys


def test_an_expired_certificate_that_is_still_shown_is_a_matter_of_the_superlink(authority, tmp_path):
    """A site was told to take another ca.crt, though its own was right."""
    authority.sign("server", begin=NOW - timedelta(days=800), days=397)
    pair = [str(tmp_path / "server.pem"), str(tmp_path / "server.key")]
    with subprocess.Popen([sys.executable, "-c", SERVER, *pair], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = Address("127.0.0.1", int(server.stdout.readline()))
            with pytest.raises(UserError, match=r"expired.*tell the coordinator, who renews server\.pem"):
                check_link(address, tmp_path / "ca.crt")
            with pytest.raises(UserError, match=r"expired.*restart the SuperLink"):
                check_port(address, tmp_path / "ca.crt")
        finally:
            server.terminate()
