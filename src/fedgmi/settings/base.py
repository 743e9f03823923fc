"""What all sections of the settings have in common."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
PositiveInts = Annotated[list[PositiveInt], Field(min_length=1)]
PositiveFloats = Annotated[list[PositiveFloat], Field(min_length=1)]
Fraction = Annotated[float, Field(gt=0, le=1)]
ProperFraction = Annotated[float, Field(gt=0, lt=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """Base of all sections: strict about keys, immutable once read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class MethodSettings(Section):
    """What all methods' settings have in common; each method adds its own.

    Attributes:
        name: The method's. Each method's settings allow one name alone.
        n_components: K. None: as many as the scenario has. "auto": estimated first.
        participation: The fraction of clients that take part in a round.
    """

    name: str
    n_components: PositiveInt | Literal["auto"] | None = None
    participation: Fraction = 1.0
