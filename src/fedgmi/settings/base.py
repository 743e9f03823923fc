"""What all sections of the settings have in common."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from fedgmi.letters import is_name, shows

MOST = 2**31 - 1
"""Of any whole number of the settings: one of 32 bits, so that no sum of some of them is beyond 64."""
PositiveInt = Annotated[int, Field(ge=1, le=MOST)]
Count = Annotated[int, Field(ge=0, le=MOST)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
# Settings come from others, in a model's file or in federation.toml. What a program is laid out by, or a loop runs to,
# has a bound of its own, far above what anybody has used, so that no number alone keeps a machine busy or fills it.
Rounds = Annotated[int, Field(ge=1, le=100_000)]
Components = Annotated[int, Field(ge=1, le=1000)]
Exchanges = Annotated[int, Field(ge=1, le=1000)]
Turns = Annotated[int, Field(ge=1, le=100)]
"""Like exchanges, where each turn has exchanges of its own."""
Passes = Annotated[int, Field(ge=1, le=10_000)]
"""Over rows, or over draws."""
Cells = Annotated[int, Field(ge=1, le=10_000)]
"""Of a codebook, or sides of what cells are in."""
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
PositiveInts = Annotated[list[PositiveInt], Field(min_length=1, max_length=1000)]
PositiveFloats = Annotated[list[PositiveFloat], Field(min_length=1, max_length=1000)]
ListOfPasses = Annotated[list[Passes], Field(min_length=1, max_length=1000)]
Fraction = Annotated[float, Field(gt=0, le=1)]
ProperFraction = Annotated[float, Field(gt=0, lt=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Limits = Annotated[list[float], Field(min_length=2, max_length=2)]
"""[least, greatest]"""


def _seen(text: str) -> str:
    if not all(map(shows, text)):
        raise PydanticCustomError("unseen", "text of one line, of letters that can be seen")
    return text


Name = Annotated[str, AfterValidator(_seen)]
"""What stands in logs and on terminals, by which no line can be forged and no cursor moved."""


def _read(text: str) -> str:
    if not is_name(text):
        raise PydanticCustomError("misread", "a name with single spaces alone, and no letters of a special width")
    return text


OwnName = Annotated[Name, Field(min_length=1), AfterValidator(_read)]
"""Of who takes part: two that read alike are one."""


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
    n_components: Components | Literal["auto"] | None = None
    participation: Fraction = 1.0
