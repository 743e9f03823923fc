"""How often an exchange is tried under masks: so many times a day, for a site does its whole step for each try."""

from __future__ import annotations

import time
from dataclasses import dataclass

from fedgmi.deploy.masks.keys import MaskError

MOST_TRIES = 1000  # a day: a coordinator that waits between two tries as it should needs fewer (`remote.LONGEST_S`)
DAY = 24 * 3600.0  # seconds


@dataclass(frozen=True)
class Tries:
    """Of one exchange.

    Attributes:
        n: How many there were since `since`.
        since: When the first of them was, in seconds since 1970.
    """

    n: int = 0
    since: float = 0.0

    def once_more(self, at: tuple[int, int]) -> Tries:
        """With a try now.

        Args:
            at: The exchange, for the message.

        Raises:
            MaskError: There were enough for a day.
        """
        now = time.time()
        if abs(now - self.since) > DAY:  # a clock that was put back refuses nobody for good
            return Tries(1, now)
        if self.n >= MOST_TRIES:
            raise MaskError(
                f"exchange {list(at)} was asked {self.n} times in a day under other keys: no sum needs so many tries",
                "see why sums stay closed, and ask again a day after the first of them",
            )
        return Tries(self.n + 1, self.since)
