"""What a child process says: shown as it comes, and its last lines kept, by which its end is explained."""

from __future__ import annotations

import os
import threading
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import IO

LINES = 40
REFUSED = "code: 2004"  # of Flower: the SuperLink does not activate the node
PATIENCE_S = 2.0  # for the last lines of a child that has ended


class Heard:
    """A child's output, copied to this process's own error output line by line."""

    def __init__(self, stream: IO[bytes]) -> None:
        """Listen until the child closes the stream.

        Args:
            stream: Where the child writes to.
        """
        self._last: deque[str] = deque(maxlen=LINES)
        self._thread = threading.Thread(target=self._copy, args=(stream,), daemon=True)
        self._thread.start()

    def _copy(self, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                self._last.append(line.decode(errors="replace"))
                with suppress(OSError):  # a full disk under the log ends nothing
                    os.write(2, line)

    def why(self, key: Path | None) -> str:
        """Why the child ended, in our own words.

        Args:
            key: The site's private key; None: the connection is insecure.

        Returns:
            One line; "" where Flower's own words have to do.
        """
        self._thread.join(PATIENCE_S)
        if key is None or not any(REFUSED in line for line in self._last):
            return ""
        return (
            f"the SuperLink does not take the key {key}: it does not know it, or another SuperNode uses it (one that "
            f"was killed, for a minute more). Likely fix: send {key.name}.pub to the coordinator, who registers it; is "
            "it this site's own key, and used nowhere else?"
        )
