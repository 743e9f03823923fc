"""What all files in a results folder have in common: strict keys, finite numbers, and which fedgmi wrote them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedgmi import __version__
from fedgmi.errors import UserError
from fedgmi.storage import files

VERSION: Final = 3


class Part(BaseModel):
    """Base of all that lies in a results folder: no keys but these, and finite numbers. NaN is written as null."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Written(Part):
    """Base of what has a file, or a line, of its own.

    Attributes:
        file: Its name.
        what: It in words, for messages.
        known_by: Keys by which it is known from others' files.
        again: How to come by a whole one; `{out}` is the results folder.
        version: Of these models.
        fedgmi: The version of fedgmi that wrote it.
    """

    file: ClassVar[str]
    what: ClassVar[str]
    known_by: ClassVar[frozenset[str]]
    again: ClassVar[str]

    version: Literal[3] = VERSION
    fedgmi: str = Field(default_factory=lambda: __version__)

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values as they are written: with versions, and null for numbers that are not finite.

        Raises:
            ValidationError: For a key that the model does not have, or a value of another type. This is a bug.
        """
        found = files.finite({"version": VERSION, "fedgmi": __version__} | dict(values))
        checked = cls._parse(found).to_json()
        return {key: checked[key] for key in found}

    @classmethod
    def write(cls, out: Path, values: Mapping[str, Any]) -> dict[str, Any]:
        """Write the file into a results folder, atomically.

        Args:
            out: The results folder.
            values: As the model has them; the versions need not be among them.

        Returns:
            What the file holds.
        """
        found = cls.checked(values)
        files.write_json(out / cls.file, found)
        return found

    @classmethod
    def read(cls, out: Path) -> Self:
        """What lies in a results folder.

        Raises:
            UserError: Where the file is none of these, or of another version; it says which fedgmi wrote it.
        """
        path, again = out / cls.file, cls.again.format(out=out)
        found = files.read_json(path, cls.what, set(cls.known_by), again)
        if found.get("version") != VERSION:
            who = f"fedgmi {found['fedgmi']}" if "fedgmi" in found else "an older fedgmi"
            has = f"version {found['version']} of its files" if "version" in found else "no version in its files"
            raise UserError(
                f"{who} wrote {cls.what}, with {has}; this is fedgmi {__version__}, which reads version {VERSION}",
                where=str(path),
                fix="read it with the fedgmi that wrote it, or make it anew in another folder",
            )
        try:
            return cls._parse(found)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            raise UserError(f"this is not {cls.what} ({key}: {first['msg']})", where=str(path), fix=again) from error

    def to_json(self) -> dict[str, Any]:
        """Plain values, as in the file."""
        return self.model_dump(mode="json", exclude_unset=True)

    @classmethod
    def _parse(cls, values: Mapping[str, Any]) -> Self:
        """As JSON: there a list stands for a tuple, and nothing else for anything else."""
        return cls.model_validate_json(json.dumps(values), strict=True)
