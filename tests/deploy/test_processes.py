"""What is started is stopped, whatever ends the program."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from fedgmi.deploy.local.processes import Processes
from fedgmi.errors import UserError

PROGRAM = """
import time
from fedgmi.deploy.local.processes import exit_on_sigterm

with exit_on_sigterm():
    try:
        print("runs", flush=True)
        time.sleep(60)
    finally:
        print("stopped", flush=True)
"""


def test_sigterm_stops_what_was_started():
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "runs\n"
        program.send_signal(signal.SIGTERM)
        assert program.stdout.read() == "stopped\n"
    assert program.returncode == 128 + signal.SIGTERM


HELPER = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], "
HELPER += "start_new_session=True); print('helped', flush=True); time.sleep(60)"


@pytest.fixture
def processes(tmp_path) -> Iterator[Processes]:
    """Two processes, each with a helper in a session of its own."""
    made = Processes(tmp_path, tmp_path, {"OWN": "1"})
    try:
        for name in ("one", "two"):
            made.start(name, sys.executable, "-c", HELPER)
        logs = [tmp_path / "logs" / f"{name}.log" for name in ("one", "two")]
        made.until(lambda: all(log.read_text() == "helped\n" for log in logs), "helpers are there")
        yield made
    finally:
        made.stop()


def test_helpers_are_found_by_their_mark_and_die_with_what_they_help(processes):
    assert len(processes.left()) == 4
    other = set(processes.left("two"))
    assert len(other) == 2
    processes.kill("one")
    assert set(processes.left()) == other
    assert processes.runs("two")
    processes.stop()
    assert processes.left() == []


def test_waiting_ends_with_the_process_that_is_waited_for(processes):
    processes.start("short", sys.executable, "-c", "pass")
    with pytest.raises(UserError, match="something happens: short has ended"):
        processes.until(lambda: False, "something happens", watched="short")
    with pytest.raises(UserError, match=r"not within 0\.1 s"):
        processes.until(lambda: False, "something happens", 0.1)


def test_a_command_that_fails_or_is_missing_is_told(tmp_path):
    made = Processes(tmp_path, tmp_path, {"OWN": "1"})
    assert made.call(sys.executable, "-c", "import os; print(os.environ['OWN'])") == "1\n"
    with pytest.raises(UserError, match=r"no such thing"):
        made.call(sys.executable, "-c", "raise SystemExit('no such thing')")
    with pytest.raises(UserError, match="there is no such command"):
        made.call("no-such-command-of-fedgmi")
    with pytest.raises(UserError, match="there is no such command"):
        made.start("it", "no-such-command-of-fedgmi")
