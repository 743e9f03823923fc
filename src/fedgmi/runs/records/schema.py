"""The models as JSON schemas: `docs/schemas/` holds them, and a test holds it to this."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from fedgmi.runs import records
from fedgmi.runs.records.base import Part, Written


def schema(model: type[Written]) -> dict[str, Any]:
    """The JSON schema of a file, with each key's description from the model's documentation."""
    found = model.model_json_schema()
    parts = {part.__name__: part for part in _below(Part)}
    for name, section in ({model.__name__: found} | found.get("$defs", {})).items():
        words = described(parts[name])
        section["description"] = words.pop("")
        for key, entry in section.get("properties", {}).items():
            entry.pop("title", None)
            entry["description"] = words[key]
    found["required"] = ["version", "fedgmi", *found["required"]]  # a file always says them
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | found


def described(model: type[BaseModel]) -> dict[str, str]:
    """What the documentation of a model and of its bases says of its keys; under "" the model's own first lines."""
    words: dict[str, str] = {}
    for kind in reversed(model.__mro__):
        head, _, block = (inspect.getdoc(kind) or "").partition("\n\nAttributes:\n")
        for entry in re.split(r"\n(?=    \w)", "\n" + block):
            key, _, text = entry.partition(":")
            if text:
                words[key.strip()] = " ".join(text.split())
        words[""] = " ".join(head.split())
    return words


def write_all(where: Path) -> None:
    """Write every schema into a folder, as `summary.schema.json` and so on."""
    for model in records.ALL:
        path = where / f"{Path(model.file).stem}.schema.json"
        path.write_text(json.dumps(schema(model), indent=1) + "\n", encoding="utf-8")


def _below(kind: type[Part]) -> list[type[Part]]:
    return [kind, *(deeper for inner in kind.__subclasses__() for deeper in _below(inner))]
