"""`fedgmi compare --set method.KEY=VALUE`: the setting reaches every compared method that has it.

A file's section `[method]` is of the one method that it names. What a command line says of `method` has no such bound:
one compared method may have the setting, or several.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from fedgmi.errors import ConfigError, FedgmiWarning, nearest
from fedgmi.methods import METHODS
from fedgmi.methods.fedgmi.settings import UNUSED
from fedgmi.runs.cells import of_method
from fedgmi.runs.config import RENAMED, Config, load, method_named
from fedgmi.runs.contestants import ORACLE, check_contestants
from fedgmi.settings import toml
from fedgmi.settings.base import MethodSettings
from fedgmi.settings.effects import all_but, changed

EVERYBODYS = ("name", "participation")
"""Keys that every method has."""
SECTION = "method."


def load_for(path: Path | None, overrides: Sequence[str], methods: Sequence[str]) -> tuple[Config, list[str]]:
    """A comparison's settings: those of `runs.config.load`, with what overrides say of `method` for all that have it.

    Args:
        path: See `load`.
        overrides: See `load`. `compare.NAME.KEY=VALUE` counts before `method.KEY=VALUE`.
        methods: Names of METHODS, `fedgmi-PRESET`, or "oracle".

    Returns:
        The settings, and a line for each such setting, which says for whom it counts.

    Raises:
        ConfigError: None of the methods has a setting; see also `load` and `check_contestants`.

    Warns:
        FedgmiWarning: Where the file has settings of a method that is not compared.
    """
    check_contestants(methods)
    base = _base(path, overrides)
    if base not in METHODS:
        return load(path, overrides), []  # which says so
    general, special, told = list[str](), list[str](), dict[str, str]()
    for word in overrides:
        key = _key(word)
        if key is None:
            (special if word.strip().startswith("compare.") else general).append(word)
            continue
        value, having = word.partition("=")[2], [name for name in methods if has(name, key)]
        if not having:
            raise _nobodys(key, methods)
        told[key] = _line(key, value, having, methods)
        at_base = has(base, key)
        general += [word] if at_base else []
        if not (at_base and key == "n_components"):  # which serves all from there
            others = dict.fromkeys(of_method(name)[0] for name in having)
            general += [f"compare.{name}.{key}={value}" for name in others if name != base]
    config = load(path, [*general, *special])
    own = all_but(config.method, (*MethodSettings.model_fields, *told))
    lost = changed(config.method, own) if base not in {of_method(name)[0] for name in methods} else []
    if lost:
        names = ", ".join(SECTION + key for key in lost)
        warnings.warn(FedgmiWarning(f"{names}: settings of {base}, which is not compared"), stacklevel=2)
    return config, list(told.values())


def has(method: str, key: str) -> bool:
    """Whether a setting means something to a method of a comparison.

    Args:
        method: A name of METHODS, or `fedgmi-PRESET`. The oracle has none: it runs beside fedgmi.
        key: A setting's name.

    Examples:
        >>> has("fedgmi", "codewords"), has("fedgmi-plain", "codewords"), has("fedavg", "n_components")
        (True, False, False)
    """
    if method == ORACLE:
        return False
    name, preset = of_method(method)
    if key == "n_components":
        return METHODS[name].has_components
    unused = {*UNUSED[preset], "preset", *(["epsilon"] if preset == "plain" else [])} if preset else set[str]()
    return key in METHODS[name].settings.model_fields and key not in unused


def _base(path: Path | None, overrides: Sequence[str]) -> str:
    """The method that the section `[method]` is of."""
    table: toml.Table = {} if path is None else toml.read_toml(path)
    toml.override(table, [word for word in overrides if word.partition("=")[0].strip() in ("method", "method.name")])
    return method_named(table.get("method", {}))


def _key(word: str) -> str | None:
    """The setting of a method that an override gives a value; None for all other overrides."""
    dotted, equals, _ = word.partition("=")
    key = dotted.strip().removeprefix(SECTION)
    plain = dotted.strip().startswith(SECTION) and equals and "." not in key
    return key if plain and key not in (*EVERYBODYS, *RENAMED) else None


def _line(key: str, value: str, having: Sequence[str], methods: Sequence[str]) -> str:
    others = [name for name in methods if name not in having and name != ORACLE]
    told = f"{SECTION}{key} = {value.strip() or 'unset'} counts for {', '.join(having)}"
    return told + (f", and not for {', '.join(others)}" if others else "")


def _nobodys(key: str, methods: Sequence[str]) -> ConfigError:
    owners = [name for name, entry in METHODS.usable().items() if key in entry.settings.model_fields]
    known = {key for name in methods if name != ORACLE for key in METHODS[of_method(name)[0]].settings.model_fields}
    guess = None if owners else nearest(key, sorted(known))
    fix = f"did you mean {SECTION}{guess}?" if guess else "leave it out"
    fix += f", or compare one that has it ({', '.join(owners)})" if owners and key != "n_components" else ""
    return ConfigError(f"none of the compared methods has it: {', '.join(methods)}", where=SECTION + key, fix=fix)
