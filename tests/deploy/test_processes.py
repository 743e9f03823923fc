"""What is started is stopped, whatever ends the program."""

from __future__ import annotations

import signal
import subprocess
import sys

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
