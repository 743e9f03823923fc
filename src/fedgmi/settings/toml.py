"""Settings as text: TOML in and out, `section.key=value` overrides, and validation errors in our own words."""

from __future__ import annotations

import datetime
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from fedgmi.errors import ConfigError, nearest

Table = dict[str, Any]
Unions = Mapping[str, tuple[str, type[BaseModel]]]
NONE: Unions = {}
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_NOUNS = {dict: "a table", list: "a list", str: "text", bool: "true or false", int: "a whole number", float: "a number"}


def read_toml(path: Path) -> Table:
    """The tables of a TOML file; a missing or broken file is a ConfigError that says where."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError("there is no such file", where=str(path), fix="give the path of a TOML file") from error
    except UnicodeDecodeError as error:
        raise ConfigError("this is not UTF-8 text", where=str(path), fix="give a TOML file") from error
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror})", where=str(path), fix="give a TOML file") from error
    return parse_toml(text, str(path))


def parse_toml(text: str, source: str) -> Table:
    """The tables of TOML text; `source` is named in errors."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        fix = "text values need quotes, a section starts with [name], and no key may stand twice"
        raise ConfigError(f"this is not valid TOML: {error}", where=source, fix=fix) from error


def parse_value(text: str) -> Any:
    """A TOML value, or the text itself where it is none, so that paths and names need no quotes.

    >>> parse_value("3"), parse_value("[0.1, 0.2]"), parse_value("label-swap"), parse_value("2024-01-31")
    (3, [0.1, 0.2], 'label-swap', '2024-01-31')
    """
    text = text.strip()
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    value = parsed["value"]
    is_date = isinstance(value, datetime.date | datetime.time)
    return text if len(parsed) > 1 or is_date else value


def override(table: Table, assignments: Iterable[str]) -> None:
    """Apply `section.key=value` assignments to `table` in place; later ones win."""
    for assignment in assignments:
        dotted, equals, text = assignment.partition("=")
        keys = [key.strip() for key in dotted.split(".")]
        if not equals or not all(keys):
            fix = "write --set section.key=value, for example --set scenario.alpha=1.0"
            raise ConfigError(f'"{assignment}" is not of the form section.key=value', where="--set", fix=fix)
        inner = table
        for depth, key in enumerate(keys[:-1], 1):
            inner = inner.setdefault(key, {})
            if not isinstance(inner, dict):
                outer = ".".join(keys[:depth])
                what = f"{outer} is {show(inner)}, so {dotted.strip()} cannot be set"
                raise ConfigError(what, where="--set", fix=f"set {outer} as a whole")
        inner[keys[-1]] = parse_value(text)


def unset_empty(table: Table) -> Table:
    """A copy with "" as None: TOML has no null, so the empty text unsets an optional key."""
    return {k: unset_empty(v) if isinstance(v, dict) else None if v == "" else v for k, v in table.items()}


def dotted_keys(model: type[BaseModel], prefix: str = "", unions: Unions = NONE) -> Iterator[str]:
    """All keys of a settings class in dotted form, sections' keys included; of a union, those of the class chosen."""
    for name, field in model.model_fields.items():
        inner = unions[name][1] if name in unions and not prefix else field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from dotted_keys(inner, f"{prefix}{name}.")
        else:
            yield prefix + name


def to_toml(settings: BaseModel) -> str:
    """TOML that reads back to equal settings. A key that is None is left out, or "" if None is not its default."""
    return "\n".join(_sections(settings, "")) + "\n"


def _sections(settings: BaseModel, prefix: str) -> Iterator[str]:
    inner = {}
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            inner[name] = value
        elif value == {} == field.get_default(call_default_factory=True):
            continue
        elif value is not None:
            yield f"{name} = {_value(value)}"
        elif field.get_default() is not None:
            yield f'{name} = ""'
    for name, section in inner.items():
        yield f"\n[{prefix}{name}]"
        yield from _sections(section, f"{prefix}{name}.")


def _value(value: Any) -> str:
    """One TOML value of the types that settings have: text, truth values, numbers, lists and inline tables."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    pairs = (f"{k if _BARE_KEY.fullmatch(k) else _value(k)} = {_value(v)}" for k, v in value.items())
    return f"{{ {', '.join(pairs)} }}" if value else "{}"


def show(value: Any) -> str:
    """A value and its type, for messages, cut to a readable length."""
    if value is None:
        return "nothing"
    text = json.dumps(value, default=str, ensure_ascii=False)
    text = text if len(text) <= 60 else f"{text[:57]}..."
    return f"{text} ({_NOUNS.get(type(value), type(value).__name__)})"


def explain(
    error: ValidationError,
    model: type[BaseModel],
    source: str,
    *,
    unions: Unions = NONE,
    advice: Callable[[str], str] = lambda key: "",
) -> ConfigError:
    """Pydantic's findings as one error: every key by its full name, what was found, what was expected.

    Args:
        error: Pydantic's.
        model: What was validated.
        source: Where it came from.
        unions: Of sections that are of one of several classes: the name and the class of the one chosen.
        advice: (unknown key) → the likely fix, or "" where it knows none.

    Returns:
        The error, to be raised.
    """
    known = set(dotted_keys(model, unions=unions))
    sections = {key.rpartition(".")[0] for key in known} - {""}
    findings: dict[str, list[Mapping[str, Any]]] = {}
    for finding in error.errors():
        # Pydantic adds the branch of a union and positions in lists behind the key: cut them off.
        parts = [str(part) for part in finding["loc"]]
        if parts[0] in unions and parts[1:2] == [unions[parts[0]][0]]:
            del parts[1]
        lengths = range(len(parts), 0, -1)
        key = next((k for n in lengths if (k := ".".join(parts[:n])) in known), ".".join(parts))
        findings.setdefault(key, []).append(finding)
    problems = [_problem(key, found, known, sections, advice) for key, found in findings.items()]
    if len(problems) == 1:
        what, fix = problems[0]
        return ConfigError(what, where=source, fix=fix)
    lines = [f"  {ConfigError(what, fix=fix)}" for what, fix in problems]
    return ConfigError(f"{len(problems)} settings are wrong.\n" + "\n".join(lines), where=source)


def _problem(
    key: str, found: list[Mapping[str, Any]], known: set[str], sections: set[str], advice: Callable[[str], str]
) -> tuple[str, str]:
    """What is wrong with one key, and the likely fix."""
    if found[0]["type"] == "extra_forbidden":
        # A section mistyped as a whole is compared with sections, anything else with all keys.
        is_table = isinstance(found[0]["input"], dict)
        guess = _nearest_key(key, sections if is_table else known)
        there = f"sections: {', '.join(sorted(sections))}" if sections else f"keys: {', '.join(sorted(known))}"
        otherwise = f"did you mean {guess}?" if guess else f"known {there}"
        fix = advice(key) or otherwise
        inside = f" (with {', '.join(f'{key}.{name}' for name in found[0]['input'])})" if is_table else ""
        return f"unknown {'section' if is_table else 'key'} {key}{inside}", fix
    # Of a union's findings, those about the value, or deepest inside it, come from the branch that was meant.
    about_value = [f for f in found if not f["type"].endswith(("_type", "_from_float", "literal_error"))]
    depth = max(len(f["loc"]) for f in found)
    telling = about_value or [f for f in found if len(f["loc"]) == depth]
    expected = dict.fromkeys(_expected(f) for f in telling)
    value = telling[0]["input"]
    unquoted = "text" in expected and isinstance(value, bool | int | float)
    fix = f'quote it, {key} = "{value}", on the command line --set \'{key}="{value}"\'' if unquoted else ""
    return f"{key} is {show(value)}, expected {' or '.join(expected)}", fix


def _expected(finding: Mapping[str, Any]) -> str:
    """What pydantic wanted, in the words of someone who writes TOML."""
    by_type = {
        "int_type": "a whole number",
        "int_from_float": "a whole number",
        "float_type": "a number",
        "bool_type": "true or false",
        "string_type": "text",
        "list_type": "a list",
        "dict_type": "a table",
        "model_type": "a section with keys of its own",
        "union_tag_invalid": "a section with keys of its own",
        "finite_number": "a finite number",
    }
    message = str(finding["msg"]).removeprefix("Input should be ").removeprefix("a value ")
    return by_type.get(finding["type"], message[:1].lower() + message[1:])


def _nearest_key(key: str, known: set[str]) -> str:
    """The nearest key; the same last part in another section counts as nearest of all."""
    last = key.rpartition(".")[2]
    twins = sorted(k for k in known if k.rpartition(".")[2] == last)
    return nearest(key, twins) or (twins[0] if twins else nearest(key, known))
