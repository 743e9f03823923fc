"""Settings as text: TOML in and out, and `section.key=value` overrides."""

from __future__ import annotations

import datetime
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import tomli_w
from pydantic import BaseModel

from fedgmi import plain
from fedgmi.errors import ConfigError
from fedgmi.settings.explain import show

Table: TypeAlias = dict[str, Any]


def read_toml(path: Path) -> Table:
    """Read a TOML file.

    Args:
        path: The file, in UTF-8.

    Returns:
        Its tables.

    Raises:
        ConfigError: The file is missing, cannot be read, or is not TOML.
    """
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
    """Read TOML text.

    Args:
        text: The text.
        source: Where it came from, for the message.

    Returns:
        Its tables.

    Raises:
        ConfigError: It is not TOML. The message names the line. Or no settings are so: a number has more than 64 bits,
            or lists and tables stand in one another too deep.
    """
    try:
        found = tomllib.loads(text)
        plain.check(found)
        return found
    except tomllib.TOMLDecodeError as error:
        fix = _advice(text, source)
        raise ConfigError(f"this is not valid TOML: {error}", where=source, fix=fix) from error
    except (ValueError, RecursionError) as error:
        fix = "look whether the file is damaged, and write it anew"
        raise ConfigError(plain.why(error), where=source, fix=fix) from error


def _advice(text: str, source: str) -> str:
    """How to mend text that is no TOML; other formats have their own advice."""
    form = {".yaml": "YAML", ".yml": "YAML", ".json": "JSON"}.get(Path(source).suffix.lower())
    if form is None and text.lstrip().startswith("{"):
        form = "JSON"
    if form is None and re.search(r"^[\w-]+:(\s|$)", text, re.MULTILINE) and "=" not in text:
        form = "YAML"
    if form is None:
        return "put text values in quotes, start a section with [name], and give each key once"
    section = "scenario: {alpha: 1.0}" if form == "YAML" else '{"scenario": {"alpha": 1.0}}'
    return (
        f"this looks like {form}; settings are TOML: in place of {section} write [scenario] and, below it, alpha = 1.0"
    )


def parse_value(text: str) -> Any:
    """Read a TOML value. Whatever is none is text: paths and names need no quotes.

    Args:
        text: The value, as in `--set section.key=value`. Dates stay text.

    Returns:
        The value.

    Examples:
        >>> parse_value("3"), parse_value("[0.1, 0.2]"), parse_value("label-swap"), parse_value("2024-01-31")
        (3, [0.1, 0.2], 'label-swap', '2024-01-31')
    """
    text = text.strip()
    try:
        parsed = tomllib.loads(f"value = {text}")
        plain.check(parsed)
    except (ValueError, RecursionError):  # no TOML, or what no settings are
        return text
    value = parsed["value"]
    is_date = isinstance(value, datetime.date | datetime.time)
    return text if len(parsed) > 1 or is_date else value


def override(table: Table, assignments: Iterable[str]) -> None:
    """Apply assignments to a table in place. Later ones win.

    Args:
        table: Changed in place.
        assignments: Of the form `section.key=value`.

    Raises:
        ConfigError: An assignment has another form, or its section is a plain value in the table.

    Examples:
        >>> table = {"seed": 0}
        >>> override(table, ["seed=7", "training.lr=1e-3"])
        >>> table
        {'seed': 7, 'training': {'lr': 0.001}}
    """
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
    """Replace empty texts by None. TOML has no null, so an empty text unsets an optional key.

    Args:
        table: Left as it is.

    Returns:
        A copy.

    Examples:
        >>> unset_empty({"data": {"path": "digits", "test_split": ""}})
        {'data': {'path': 'digits', 'test_split': None}}
    """
    return {k: unset_empty(v) if isinstance(v, dict) else None if v == "" else v for k, v in table.items()}


def to_toml(settings: BaseModel) -> str:
    """Write settings as TOML that reads back to equal settings, once `unset_empty` has been applied.

    Args:
        settings: Sections of settings in one another.

    Returns:
        The text. A key that is None is left out where None is its default, and is "" elsewhere. A table is left out
        where it is empty and that is its default.

    Examples:
        >>> class Data(BaseModel):
        ...     path: str = "digits"
        ...     test_split: str | None = "test"
        ...     size: int | None = None
        >>> print(to_toml(Data(test_split=None)), end="")
        path = "digits"
        test_split = ""
    """
    return tomli_w.dumps(_table(settings))


def dumps(table: Table) -> str:
    """Write tables as TOML.

    Examples:
        >>> dumps({"rows": {"kind": "tabular"}})
        '[rows]\\nkind = "tabular"\\n'
    """
    return tomli_w.dumps(table)


def _table(settings: BaseModel) -> Table:
    table = {}
    for name, field in type(settings).model_fields.items():
        value, default = getattr(settings, name), field.get_default(call_default_factory=True)
        if not (value is None is default or value == {} == default):
            table[name] = _plain(value)
    return table


def _plain(value: Any) -> Any:
    """A value as TOML has it."""
    if isinstance(value, BaseModel):
        return _table(value)
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return "" if value is None else value
