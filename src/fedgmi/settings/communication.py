"""Settings of what travels: how precisely models are written, which of their entries, and what is lost on the way."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from fedgmi.settings.base import BelowOne, Fraction, Section

Megabytes = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False, strict=True)]

Precision = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) is int else value), Field()]


class CommunicationSettings(Section):
    """How models travel, both ways, and how much may travel. Masses and other sums travel as they are.

    A budget is planned for before the run, and never exceeded: a client whose next round could cost more than what it
    has left is not asked. What is at its default here may be chosen by the plan; see docs/communication.md.

    Attributes:
        mb_per_client: Megabytes of 10^6 bytes that may travel to and from each client, in all. Unset: any number.
        mb_per_client_round: The same in each of the rounds; what comes before the first and after the last is no round.
        precision: How each number of a difference is written: "float32", "bfloat16", or 8, 4 or 2 bits.
        top: The fraction of entries that travel, those that differ most. What is left out is added to the next
            difference.
        mask: The fraction of entries that clients send, drawn at random and scaled so that the mean stays unbiased.
        layers: The rate at which clients send each layer; those that are sent are scaled likewise.
        lost: The chance that a client is lost in a round: it is asked once, its reply does not come, and it is absent
            until the next round. In simulation alone; a deployment's sites fail by themselves.
        secure: "masks": whatever adds up is masked, so that the server sees sums over clients alone; see
            docs/privacy.md. Unset: it sees every client's message.
    """

    mb_per_client: Megabytes | None = None
    mb_per_client_round: Megabytes | None = None
    precision: Precision = "float32"
    top: Fraction = 1.0
    mask: Fraction = 1.0
    layers: Fraction = 1.0
    lost: BelowOne = 0.0
    secure: Literal["masks"] | None = None

    @property
    def on(self) -> bool:
        """Whether models travel otherwise than as they are."""
        return self.model_copy(update=APART) != CommunicationSettings()

    @property
    def limited(self) -> bool:
        """Whether there is a budget."""
        return self.mb_per_client is not None or self.mb_per_client_round is not None


APART = {"mb_per_client": None, "mb_per_client_round": None, "lost": 0.0, "secure": None}
"""What does not say how models travel."""
