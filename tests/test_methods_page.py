"""docs/methods.md has every method's own settings, as the table of methods has them.

`python tests/test_methods_page.py` writes the table anew.
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from annotated_types import Le
from pydantic.fields import FieldInfo

from fedgmi.methods import METHODS
from fedgmi.settings.base import MOST, MethodSettings

PAGE = Path(__file__).parents[1] / "docs" / "methods.md"
HEAD = "| setting | of | default | `--tune` tries | what it is |\n|---|---|---|---|---|"


def described(settings: type[MethodSettings]) -> dict[str, str]:
    """What the docstrings of a class and of those that it extends say of each setting."""
    found: dict[str, str] = {}
    for kind in reversed(settings.__mro__):
        told = (inspect.cleandoc(kind.__dict__.get("__doc__") or "")).partition("Attributes:\n")[2]
        for key, words in re.findall(r"^    (\w+): (.+(?:\n     +.+)*)", told, re.MULTILINE):
            found[key] = " ".join(words.split())
    return found


def shown(value: Any) -> str:
    return "unset" if value is None else json.dumps(value)


def choices(annotation: Any) -> tuple[Any, ...]:
    """The values that a setting may have, where they are listed."""
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def bound(field: FieldInfo) -> str:
    """The most that a whole number may be, where it is less than of any."""
    most = [
        rule.le for rule in field.metadata if isinstance(rule, Le) and isinstance(rule.le, int) and 1 < rule.le < MOST
    ]
    return f" (at most {most[0]:,})" if most else ""


def table() -> str:
    """A line for each setting; methods that have it in the same sense share one."""
    lines: dict[tuple[str, str, str, str], list[str]] = {}
    for name, entry in METHODS.items():
        words = described(entry.settings)
        for key, field in entry.settings.model_fields.items():
            if key not in MethodSettings.model_fields:
                tried = ", ".join(map(shown, entry.tune.get(key, ())))
                default = shown(field.get_default(call_default_factory=True))
                others = [text for text in map(shown, choices(field.annotation)) if text != default]
                line = key, default + (f" (or {', '.join(others)})" if others else bound(field)), tried, words[key]
                lines.setdefault(line, []).append(name)
    found = [
        f"| `{key}` | {', '.join(methods)} | {default} | {tried} | {words.replace('|', chr(92) + '|')} |"
        for (key, default, tried, words), methods in lines.items()
    ]
    return "\n".join([HEAD, *found])


def test_the_page_has_every_setting():
    assert table() in PAGE.read_text(encoding="utf-8"), "python tests/test_methods_page.py writes it anew"


@pytest.mark.parametrize("name", METHODS)
def test_methods_without_settings_of_their_own_are_named_too(name):
    assert re.search(rf"(?<![\w-]){name}(?![\w-])", PAGE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition("| setting |")
    after = re.sub(r"\A.*\n(\|.*\n)*", "", rest)
    PAGE.write_text(f"{before}{table()}\n{after}", encoding="utf-8")
