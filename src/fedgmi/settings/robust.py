"""Settings against a client that lies or has gone wrong."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedgmi.settings.base import PositiveFloat, Section


class RobustSettings(Section):
    """How far one client may move a model, and how models are averaged.

    Attributes:
        aggregation: "mean" by mass. Or, by coordinate, the "trimmed-mean" or the "median" of the clients' models.
        trimmed: The fraction that a trimmed mean leaves out on each side.
        max_norm: Of a client's update of one model, ‖θ_i − θ‖. Longer updates are scaled down to it. "median": twice
            the median of the clients' own in that round. None: no bound.
    """

    aggregation: Literal["mean", "trimmed-mean", "median"] = "mean"
    trimmed: Annotated[float, Field(gt=0, lt=0.5)] = 0.2
    max_norm: PositiveFloat | Literal["median"] | None = None

    @property
    def on(self) -> bool:
        """Whether anything is bounded or averaged otherwise than by mass."""
        return self.aggregation != "mean" or self.max_norm is not None
