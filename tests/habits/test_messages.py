"""Messages point the right way."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedgmi import cli
from fedgmi.errors import ConfigError
from fedgmi.settings.toml import parse_value, read_toml

ADVICE = [
    ("run.yaml", "scenario:\n  alpha: 1.0\n", r"looks like YAML; settings are TOML.*\[scenario\] and, below it"),
    ("run.json", '{"scenario": {"alpha": 1.0}}', r"looks like JSON; settings are TOML.*\[scenario\]"),
    ("run.toml", '{"scenario": {"alpha": 1.0}}', "looks like JSON"),
    ("run.toml", "scenario:\n  alpha: 1.0\n", "looks like YAML"),
    ("run.toml", "[data]\npath = digits\n", r"put text values in quotes"),
]


@pytest.mark.parametrize(("name", "text", "advice"), ADVICE)
def test_settings_in_another_format(tmp_path: Path, name: str, text: str, advice: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=advice):
        read_toml(tmp_path / name)


BEYOND_SETTINGS = {
    "lists": "x = " + "[" * 3000 + "]" * 3000,
    "lists that Python reads": "x = " + "[" * 150 + "]" * 150,
    "dotted keys": ".".join("a" * 5000) + " = 1",
    "digits": "x = " + "9" * 5000,
    "hexadecimal digits": "rows.kind = 0x" + "f" * 5000,
    "65 bits": "seed = 9223372036854775808",
}


@pytest.mark.parametrize("case", BEYOND_SETTINGS)
def test_what_no_settings_are_is_refused_by_the_name_of_the_file(tmp_path, capsys, case) -> None:
    """They ended in tracebacks, at a depth or a length of Python's own."""
    path = tmp_path / "some.toml"
    path.write_text(BEYOND_SETTINGS[case])
    with pytest.raises(ConfigError, match=r"some\.toml: (lists or tables stand|a whole number in it has)"):
        read_toml(path)
    for words in (["deploy", "merge", path], ["site", "check", path], ["run", path], ["deploy", "status", path.parent]):
        with pytest.raises(SystemExit) as raised:
            cli.main([str(word) for word in words])
        assert raised.value.code == 2
    assert capsys.readouterr().err.count("error: ") == 4
    parsed = parse_value(BEYOND_SETTINGS[case].partition("= ")[2])
    assert isinstance(parsed, str) or case == "dotted keys"
