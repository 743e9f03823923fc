"""What the README shows has to run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedgmi.models.experts import EXPERTS

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_there_is_something_to_run():
    assert BLOCKS


@pytest.mark.parametrize("block", BLOCKS)
def test_python_blocks_run(block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fedgmi.models.experts.EXPERTS", {**EXPERTS})
    exec(compile(block, str(README), "exec"), {"__name__": "readme"})
    assert capsys.readouterr().out.strip()


def test_files_that_it_names_exist():
    named = set(re.findall(r"`((?:src|tests|configs|docs)/[\w./-]+)`", README.read_text(encoding="utf-8")))
    named |= set(re.findall(r"\]\(([\w./-]+)\)", README.read_text(encoding="utf-8")))
    assert named
    assert [name for name in sorted(named) if not (README.parent / name).exists()] == []
