"""What a monitor says after a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedgmi.drift.charts import Array

State = Literal["learning", "in control", "proportions moved", "rows no longer fit"]


@dataclass(frozen=True)
class Report:
    """The state after a batch, and why.

    client · batch: its number, from 1 · state · statistics: the charts' CUSUMs: "component k" rises when proportions
    move towards k, "fit, low" and "fit, high" when rows are less, or more, likely under their component than earlier
    rows were · threshold: an alarm is a statistic above it · cause: the chart that alarmed · change_point: the last
    batch that looked as before (0: the first one did not) · weights_before [K] · weights_now [K]: estimated from the
    rows since the change where proportions moved. cause, change_point, weights_now are None while they mean nothing.
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
        """The same in words."""
        who = f"client {self.client!r}, batch {self.batch}: {self.state}"
        if self.cause is None:
            return who
        since = f"since batch {(self.change_point or 0) + 1}"
        if self.weights_now is None:
            how = "less" if self.cause == "fit, low" else "more"
            return (
                f"{who}: {since} they have been {how} likely under every component they resemble than rows were before"
            )
        shares = zip(self.weights_before, self.weights_now, strict=True)
        moves = ", ".join(f"{k}: {before:.0%} → {now:.0%}" for k, (before, now) in enumerate(shares))
        return f"{who} towards {self.cause} {since} (components {moves})"
