"""What a child process says: shown as it comes, and its last lines kept, by which its end is explained.

Flower's own words name a code. Ours name the setting of site.toml that is likely wrong.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import IO

from fedgmi.deploy.link import LinkSettings
from fedgmi.protocol.words import one_line

LINES = 40
REFUSED = "code: 2004"  # of Flower: the SuperLink does not activate the node
INSECURE = "[SSL:"  # of Python: no secure connection comes about; after it stands why
FAILED, MANY = "Connection attempt failed", 3  # of Flower: it tries on, and says nothing of where
PATIENCE_S = 2.0  # for the last lines of a child that has ended


class Heard:
    """A child's output, copied to this process's own error output line by line.

    Attributes:
        failures: How often it tried to connect in vain.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        """Listen until the child closes the stream.

        Args:
            stream: Where the child writes to.
        """
        self.failures = 0
        self._last: deque[str] = deque(maxlen=LINES)
        self._told = False
        self._thread = threading.Thread(target=self._copy, args=(stream,), daemon=True)
        self._thread.start()

    def _copy(self, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                text = line.decode(errors="replace")
                self.failures += FAILED in text
                self._last.append(text)
                with suppress(OSError):  # a full disk under the log ends nothing
                    os.write(2, line)

    def why_not_yet(self, link: LinkSettings) -> str:
        """Why a child that runs is not connected, once.

        Args:
            link: Where the SuperLink is.

        Returns:
            One line; "" where there is nothing new to tell.
        """
        if self._told or self.failures < MANY:
            return ""
        self._told = True
        return (
            f"nothing answers at {link.address} after {MANY} tries; the SuperNode tries on. Likely fix: ask the "
            "coordinator whether the SuperLink runs; is its HOST:PORT the address of [superlink] in site.toml, and "
            "does a firewall let this machine out to it?"
        )

    def why(self, link: LinkSettings) -> str:
        """Why the child ended, in our own words.

        Args:
            link: Where the SuperLink is, and with which files it is spoken to.

        Returns:
            One line; "" where Flower's own words have to do.
        """
        self._thread.join(PATIENCE_S)
        if any(REFUSED in line for line in self._last) and link.key is not None:
            return (
                f"the SuperLink does not take the key {link.key}: it does not know it, or another SuperNode uses it "
                f"(one that was killed, for a minute more). Likely fix: send {Path(link.key).name}.pub to the "
                "coordinator, who registers it; is it this site's own key, and used nowhere else?"
            )
        said = next((line for line in self._last if INSECURE in line), None)
        if said is not None:
            return (
                f"no secure connection to {link.address} comes about: {one_line(said)} Likely fix: name the ca.crt "
                f"that the coordinator has now, in place of {link.root_certificates}; is the address the one that the "
                "SuperLink's certificate was made for?"
            )
        return ""
