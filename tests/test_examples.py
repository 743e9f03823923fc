"""What lies in examples/ and stands in docs/tables.md runs, and finds what it says."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "tables.md").read_text(encoding="utf-8"), re.DOTALL)


def test_hospitals_learn_their_share_of_malignant_tumours(capsys):
    example = runpy.run_path(str(ROOT / "examples" / "breast_cancer.py"))
    error = example["main"](["--rounds", "1", "--hospitals", "8"])
    told = capsys.readouterr().out
    assert error < 0.12
    assert len(re.findall(r"^hospital-0\d +\d+ +[01]\.\d\d +[01]\.\d\d$", told, re.MULTILINE)) == 8
    shares = re.search(r"a new hospital.*: (0\.\d+) malignant, estimated (0\.\d+) ± 0\.\d+", told)
    assert shares is not None
    assert abs(float(shares[1]) - float(shares[2])) < 0.25
    small, large = map(float, re.findall(r"sampled tumours: ([\d.]+) and ([\d.]+);", told)[0])
    assert 9 < small < large < 22  # in the table's units, not in deviations


@pytest.mark.parametrize("block", BLOCKS)
def test_the_page_on_tables_runs(block, capsys):
    exec(compile(block, "tables.md", "exec"), {"__name__": "tables"})
    promised = re.findall(r"^print\(.*#\s(\('.*'\))$", block, re.MULTILINE)
    assert len(promised) == 1
    assert promised[0] in capsys.readouterr().out
