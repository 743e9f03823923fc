"""A site's secret: noise is drawn from it, and rows are parted by it where noise is to hide them.

It is drawn once and never sent. Noise goes by the rows too, so the secret may outlive them.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from fedgmi.storage import files
from fedgmi.storage.own_files import Hex64, OwnFile

FILE = "secret.json"
LOST = "restore it from a backup. Another draws noise anew, and what then goes out is charged as a new release"


class _File(OwnFile):
    """`secret.json`."""

    what = "a secret of fedgmi"
    again = LOST
    secret: Hex64


def secret_of(where: Path) -> str:
    """The secret of a site, drawn where there is none.

    Args:
        where: The site's own folder.

    Raises:
        UserError: For a damaged file, or where it cannot be written.
    """
    path = where / FILE
    if path.exists():
        return _File.read(path).secret
    secret = secrets.token_hex(32)
    before = os.umask(0o077)  # at no moment is it for others to read
    try:
        files.write_json(path, {"secret": secret})
    finally:
        os.umask(before)
    return secret


def secret_or_another(where: Path) -> str:
    """The secret of a site, or one for now: nothing is written, for a look at a site may be another user's."""
    return secret_of(where) if (where / FILE).exists() else secrets.token_hex(32)
