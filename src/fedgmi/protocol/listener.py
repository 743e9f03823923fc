"""Who wants to know how a run goes; the command line's progress bar is one."""

from __future__ import annotations

from typing import Any, Protocol


class Listener(Protocol):
    """What is called while methods run."""

    def started(self, name: str, rounds: int) -> None:
        """A method's run begins, or goes on.

        Args:
            name: Of the run.
            rounds: R.
        """

    def round_done(self, record: dict[str, Any]) -> None:
        """A round is complete.

        Args:
            record: `run`, its name; `round`, where 0 is the preparation and R + 1 the end; `bound` in nats per row, or
                None; `proportion_tv`, or None; `seconds` of the run so far. `fedgmi run` gives all that
                `records.jsonl` has.
        """

    def doing(self, name: str, part: str) -> None:
        """The last round is over, and a part of the end begins: it may take longer than all rounds.

        Args:
            name: Of the run.
            part: In a word or two: "last steps", "own parts", "fine-tuning", "evaluation".
        """

    def said(self, name: str, line: str) -> None:
        """There is something to know of how models travel: before a run begins, how they do, or with a budget that it
        is being planned and then the plan; at its end, what the dearest client cost.

        Args:
            name: Of the run.
            line: A sentence.
        """

    def finished(self, name: str) -> None:
        """The run has come to its end.

        Args:
            name: Of the run.
        """
