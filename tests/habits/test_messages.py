"""Messages point the right way."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedgmi.errors import ConfigError
from fedgmi.settings.toml import read_toml

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
