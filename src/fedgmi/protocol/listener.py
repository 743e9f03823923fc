"""Who wants to know how a run goes; the command line's progress bar is one."""

from __future__ import annotations

from typing import Any, Protocol


class Listener(Protocol):
    """What an experiment tells while it runs.

    A record has keys run · round (0: the preparation, 1..R, R + 1: the end) · bound (nats per row, or None)
    · proportion_tv (or None) · seconds (of the run so far).
    """

    def started(self, name: str, rounds: int) -> None:
        """A method's run begins, or goes on."""

    def round_done(self, record: dict[str, Any]) -> None:
        """A line was written to `records.jsonl`."""

    def finished(self, name: str) -> None:
        """The run has come to its end."""
