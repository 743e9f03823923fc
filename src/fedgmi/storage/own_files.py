"""Small files of JSON that a program keeps for itself, as models: what is read is what could have been written.

Whoever can write into the folder can change them. A number below zero in a ledger would buy releases, so types, signs
and lengths are asked for, and a file that differs is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedgmi.errors import UserError

Count = Annotated[int, Field(ge=0, lt=2**53)]
"""A whole number from 0 on, which every reader of JSON can hold."""
Number = Annotated[float, Field(ge=-1e300, le=1e300)]
"""A finite one, with room for a sum."""
Amount = Annotated[float, Field(ge=0, le=1e300)]
Share = Annotated[float, Field(ge=0, le=1)]
RunName = Annotated[str, Field(pattern=r"\A[0-9a-f]{8,64}\z")]
Hex64 = Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\z")]
Free = dict[str, Any]


class OwnFile(BaseModel):
    """Base of such files, and of parts of them: no keys but these, finite numbers, nothing taken for anything else.

    Attributes:
        what: It in words, for messages.
        again: What to do where it is damaged.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    what: ClassVar[str]
    again: ClassVar[str]

    def wrong(self) -> str:
        """What does not go together, though each value can be; "" for nothing."""
        return ""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file.

        Args:
            path: It.

        Raises:
            UserError: It cannot be read, or is not of this kind; it says which key, and what to do.
        """
        try:
            text = path.read_bytes()
        except OSError as error:
            raise UserError(f"cannot be read ({error.strerror or error})", where=str(path), fix=cls.again) from error
        return cls.parse(text, lambda what: UserError(what, where=str(path), fix=cls.again))

    @classmethod
    def parse(cls, text: bytes | str, error: Callable[[str], Exception]) -> Self:
        """What a text of JSON says.

        Args:
            text: It.
            error: (what is wrong) → what is raised.
        """
        try:
            found = cls.model_validate_json(text)
        except ValidationError as wrong:
            first = wrong.errors(include_url=False, include_context=False, include_input=False)[0]
            key = ".".join(str(part) for part in first["loc"])[:200]
            broken = first["type"] == "json_invalid"
            why = f"cannot be read ({first['msg']})" if broken else f"this is not {cls.what} ({key}: {first['msg']})"
            raise error(why) from wrong
        if found.wrong():
            raise error(f"this is not {cls.what} ({found.wrong()})")
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain values, as in the file."""
        return self.model_dump(mode="json")
