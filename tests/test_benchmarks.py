"""The benchmarks run, at a tiny size: their tables must not rot. What they find is in benchmarks/README.md."""

import re
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "benchmarks"
TINY = ("--clients", "10", "--rows", "20", "--side", "4", "--threads", "1", "--repeats", "1")


def output(script: str, *options: str) -> str:
    """What the script prints; it has to succeed."""
    command = [sys.executable, str(FOLDER / script), *TINY, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_packed_training_compares_with_the_loop():
    lines = output("packed_training.py").splitlines()
    assert re.match(r"\d+ jobs, \d+ job-steps", lines[0])
    compared = [
        re.match(r"(\w+): packed [\d.]+ s, loop [\d.]+ s, ratio [\d.]+; (\S+) apart", line) for line in lines[1:]
    ]
    assert [match and match[1] for match in compared] == ["vae", "expert"]
    assert all(match and float(match[2]) < 1e-3 for match in compared)


def test_round_cost_tells_the_steps_apart():
    text = output("round_cost.py", "--epochs", "1", "--no-target")
    table = re.findall(r"^ *([\w-]+) +[\d.]+ +[\d.]+ +[\d.]+$", text, re.MULTILINE)
    assert table == ["E-step", "evidence", "calibration", "M-step", "round"]
    assert "10 clients of 20 rows" in text
    assert "1 local epochs" in text
    few, many = (int(jobs) for jobs in re.findall(r"^K=\d: (\d+) jobs of \d+ pairs", text, re.MULTILINE))
    assert few <= many < 90
