"""Differential privacy of a whole run: how little one client, or one row, changes in what is added up."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedgmi.settings.base import PositiveFloat, Section


class PrivacySettings(Section):
    """How updates are bounded and drowned in noise; see docs/privacy.md.

    Attributes:
        unit: What is hidden: "clients", all rows of one against an update of zero, or "rows", one against another.
        clip: The length to which a client's update of all models together is cut, ‖Δ‖ ≤ clip; or each row's gradient.
            None: no privacy.
        epsilon: What the whole run may cost; the noise follows from it.
        noise_multiplier: Instead: the standard deviation of the noise in the sum of updates or gradients, over `clip`.
        delta: δ. It should be well below one over the number of clients.
    """

    unit: Literal["clients", "rows"] = "clients"
    clip: PositiveFloat | None = None
    epsilon: PositiveFloat | None = None
    noise_multiplier: PositiveFloat | None = None
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5

    @property
    def on(self) -> bool:
        """Whether anything is bounded."""
        return self.clip is not None
