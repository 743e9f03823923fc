"""What a monitor says after a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedgmi.drift.charts import Array

State = Literal["learning", "in control", "proportions moved", "rows no longer fit"]


@dataclass(frozen=True)
class Report:
    """What a monitor says after a batch.

    Attributes:
        client: Its name.
        batch: Its number, from 1.
        state: "learning", "in control", "proportions moved" or "rows no longer fit".
        statistics: The CUSUM of each chart. "component k" rises when proportions move towards k. "fit, low" and "fit,
            high" rise when rows are less, or more, likely under their component than earlier rows were.
        threshold: An alarm is a statistic above it.
        cause: The chart that alarmed. None where none has.
        change_point: The last batch that looked as before. 0 means that the first one did not. None without an alarm.
        weights_before: The proportions that the monitor started from. [K]
        weights_now: The proportions of the rows since the change. None unless proportions moved. [K]
    """

    client: str
    batch: int
    state: State
    statistics: dict[str, float]
    threshold: float
    cause: str | None
    change_point: int | None
    weights_before: Array
    weights_now: Array | None

    @property
    def verdict(self) -> str:
        """The same in words: the client, the batch, and what happened since when."""
        who = f"client {self.client!r}, batch {self.batch}: {self.state}"
        if self.cause is None:
            return who
        since = f"since batch {(self.change_point or 0) + 1}"
        if self.weights_now is None:
            how = "less" if self.cause == "fit, low" else "more"
            return f"{who}. They have been {how} likely under their own component {since} than earlier rows were."
        shares = zip(self.weights_before, self.weights_now, strict=True)
        moves = ", ".join(f"component {k}: {before:.0%} → {now:.0%}" for k, (before, now) in enumerate(shares))
        return f"{who} towards {self.cause} {since} ({moves})"
