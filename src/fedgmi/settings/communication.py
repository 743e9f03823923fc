"""Settings of what travels: how precisely models are written, and which of their entries."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from fedgmi.settings.base import Fraction, Section

Precision = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) is int else value), Field()]


class CommunicationSettings(Section):
    """How models travel, both ways. Masses and other sums travel as they are.

    Attributes:
        precision: How each number of a difference is written: "float32", "bfloat16", or 8, 4 or 2 bits.
        top: The fraction of entries that travel, those that differ most. What is left out is added to the next
            difference.
        mask: The fraction of entries that clients send, drawn at random and scaled so that the mean stays unbiased.
        layers: The rate at which clients send each layer; those that are sent are scaled likewise.
    """

    precision: Precision = "float32"
    top: Fraction = 1.0
    mask: Fraction = 1.0
    layers: Fraction = 1.0

    @property
    def on(self) -> bool:
        """Whether models travel otherwise than as they are."""
        return self != CommunicationSettings()
