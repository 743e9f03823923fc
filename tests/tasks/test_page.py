"""The page on tasks runs, and prints what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedgmi.runs.metrics import METRICS

PAGE = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_page_on_tasks_runs(block, capsys):
    exec(compile(block, "tasks.md", "exec"), {"__name__": "tasks"})
    [promised] = re.findall(r"^print\(.*#\s(\(True.*\))$", block, re.MULTILINE)
    assert promised in capsys.readouterr().out


def test_the_page_names_every_metric():
    [table] = re.findall(r"(\| `data.task`.*?)\n\n", PAGE, re.DOTALL)
    assert [name for name in METRICS if name not in table] == []
