"""What is wrong with settings, in our own words: which key, what was found, what was expected, the likely fix."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from fedgmi.errors import ConfigError, nearest

M = TypeVar("M", bound=BaseModel)
Unions = Mapping[str, tuple[str, type[BaseModel]]]
"""By a section's name, where it is of one of several classes: the name and the class of the one chosen."""
NONE: Unions = {}
_NOUNS = {dict: "a table", list: "a list", str: "text", bool: "true or false", int: "a whole number", float: "a number"}
BELOW_ONE = "less than 1"
_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a table",
    "model_type": "a section with keys of its own",
    "union_tag_invalid": "a section with keys of its own",
    "finite_number": "a finite number",
}
"""Pydantic's types of errors, in the words of someone who writes TOML."""
_BOUNDS = {"greater than or equal to": "more", "less than or equal to": "less"}
"""Likewise: “0 or more” for “greater than or equal to 0”."""


def dotted_keys(model: type[BaseModel], prefix: str = "", unions: Unions = NONE) -> Iterator[str]:
    """List all keys of a settings class in dotted form, those of its sections too.

    Args:
        model: The class.
        prefix: What stands before each key.
        unions: Which class counts for sections that are of one of several.

    Yields:
        Keys such as `training.lr`.
    """
    for name, field in model.model_fields.items():
        inner = unions[name][1] if name in unions and not prefix else field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from dotted_keys(inner, f"{prefix}{name}.")
        else:
            yield prefix + name


def show(value: Any) -> str:
    """Write a value and its type for a message, cut to a readable length.

    Examples:
        >>> show("much"), show(2.5), show(None)
        ('"much" (text)', '2.5 (a number)', 'nothing')
    """
    if value is None:
        return "nothing"
    text = json.dumps(value, default=str, ensure_ascii=False)
    text = text if len(text) <= 60 else f"{text[:57]}..."
    return f"{text} ({_NOUNS.get(type(value), type(value).__name__)})"


def checked(model: type[M], given: Mapping[str, Any], source: str) -> M:
    """Settings as a class has them.

    Args:
        model: The class.
        given: Values by name.
        source: Where they come from.

    Returns:
        An instance of the class.

    Raises:
        ConfigError: For an unknown name, or a value that cannot be.
    """
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise explain(error, model, source) from error


def explain(
    error: ValidationError,
    model: type[BaseModel],
    source: str,
    *,
    unions: Unions = NONE,
    advice: Callable[[str], str] = lambda key: "",
) -> ConfigError:
    """Turn pydantic's findings into one error. It tells every key by its full name.

    Args:
        error: Pydantic's.
        model: The class that was validated.
        source: Where the settings came from.
        unions: Which class counts for sections that are of one of several.
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
        if parts and parts[0] in unions and parts[1:2] == [unions[parts[0]][0]]:
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
        guess = nearest(key, sorted(sections)) if is_table else _nearest_key(key, known)
        beside = sorted(other for other in known if other.rpartition(".")[0] == key.rpartition(".")[0])
        outside = sections and (is_table or "." not in key)
        there = f"sections: {', '.join(sorted(sections))}" if outside else f"keys: {', '.join(beside or sorted(known))}"
        otherwise = f"did you mean {guess}?" if guess else f"known {there}"
        fix = advice(key) or otherwise
        inside = f" (with {', '.join(f'{key}.{name}' for name in found[0]['input'])})" if is_table else ""
        return f"unknown {'section' if is_table else 'key'} {key}{inside}", fix
    if found[0]["type"] == "missing":
        return f"{key} is missing", f"add {key} = …"
    # Of a union's findings, those about the value, or deepest inside it, come from the branch that was meant.
    about_value = [f for f in found if not f["type"].endswith(("_type", "_from_float", "literal_error"))]
    depth = max(len(f["loc"]) for f in found)
    telling = about_value or [f for f in found if len(f["loc"]) == depth]
    expected = dict.fromkeys(_expected(f) for f in telling)
    value = telling[0]["input"]
    if about_value:  # it is of the right type, and -1 for a number like 0.5 needs no "a whole number"
        fix = "it is a share: 0.2 is a fifth" if list(expected) == [BELOW_ONE] else ""
        return f"{key} is {show(value).rpartition(' (')[0]}, expected {' or '.join(expected)}", fix
    unquoted = "text" in expected and isinstance(value, bool | int | float)
    fix = f'quote it, {key} = "{value}", on the command line --set \'{key}="{value}"\'' if unquoted else ""
    if isinstance(value, str) and _is_number(value) and {"a number", "a whole number"} & set(expected):
        fix = f"write it without quotes, {key} = {value}"
    bare = isinstance(value, str | int | float) and not isinstance(value, bool)
    if bare and "a list" in expected and (len(expected) == 1 or "," in str(value)):
        written = as_list(value)
        fix = f"put it in brackets, {key} = {written}, on the command line --set '{key}={written}'"
    return f"{key} is {show(value)}, expected {' or '.join(expected)}", fix


def as_list(value: str | float) -> str:
    """Write a list that stands there without its brackets, or a single value, as TOML has it.

    Examples:
        >>> as_list("5,10"), as_list(5), as_list("age, sex")
        ('[5, 10]', '[5]', '["age", "sex"]')
    """
    words = [word.strip() for word in str(value).split(",")]
    return (
        f"[{', '.join(word if _is_number(word) else json.dumps(word, ensure_ascii=False) for word in words if word)}]"
    )


def _is_number(word: str) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False


def _expected(finding: Mapping[str, Any]) -> str:
    """What pydantic wanted."""
    message = str(finding["msg"]).removeprefix("Input should be ").removeprefix("a value ")
    for words, side in _BOUNDS.items():
        if message.startswith(words):
            return f"{message.removeprefix(words).strip()} or {side}"
    return _EXPECTED.get(finding["type"], message[:1].lower() + message[1:])


def _nearest_key(key: str, known: set[str]) -> str:
    """The nearest key by its last part: the same elsewhere, or else one like it, in its own section first."""
    section, _, last = key.rpartition(".")
    twins = sorted(k for k in known if k.rpartition(".")[2] == last)
    if twins:
        return nearest(key, twins) or twins[0]
    for options in (sorted(k for k in known if k.rpartition(".")[0] == section), sorted(known)):
        names = {k.rpartition(".")[2]: k for k in reversed(options)}
        holding = [name for name in names if last in name.split("_")]
        guess = holding[0] if len(holding) == 1 else nearest(last, names)
        if guess:
            return names[guess]
    return ""
