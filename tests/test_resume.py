"""A killed run goes on and ends as an uninterrupted one, bit for bit."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedgmi.errors import ConfigError, FedgmiWarning
from fedgmi.methods import METHODS
from fedgmi.protocol.in_process import InProcess
from fedgmi.runs import experiment
from fedgmi.storage import folder
from fedgmi.storage import tensors as store
from tiny import ALL_BOUNDS, Killer, arguments, exit_code, hashes, run, settings, without_seconds

KILLS = [("fedgmi", 0), ("fedgmi", 1), ("fedgmi", 2), ("oracle", 1), ("fedavg", 2), ("local", 1), ("local", 3)]
LONG = ("rounds=40",)


def records(out: Path) -> list[dict]:
    return without_seconds([json.loads(line) for line in (out / folder.RECORDS).read_text().splitlines()])


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, dict]:
    """An uninterrupted run with all bounds."""
    out = tmp_path_factory.mktemp("whole")
    return out, run(out, *ALL_BOUNDS)


def assert_ends_like(out: Path, resumed: dict, whole: tuple[Path, dict]) -> None:
    assert without_seconds(resumed) == without_seconds(whole[1])
    assert without_seconds(json.loads((out / folder.SUMMARY).read_text())) == without_seconds(whole[1])
    assert records(out) == records(whole[0])
    tensors = {name: value for name, value in hashes(out).items() if name.endswith(".safetensors")}
    assert tensors == {name: value for name, value in hashes(whole[0]).items() if name.endswith(".safetensors")}
    assert len(tensors) >= 1


@pytest.mark.parametrize("kill", KILLS, ids=str)
def test_killed_after_a_round(tmp_path, whole, kill):
    with pytest.raises(KeyboardInterrupt):
        experiment.run(settings(*ALL_BOUNDS), tmp_path, listener=Killer(*kill))
    assert not (tmp_path / folder.SUMMARY).exists()
    assert_ends_like(tmp_path, run(tmp_path, *ALL_BOUNDS, resume=True), whole)


@pytest.mark.parametrize("setting", ["preset=plain", "preset=sketch", *(f"name={name}" for name in METHODS)])
def test_killed_again_and_again_with_few_clients_a_round(tmp_path, setting):
    own = ("method.joint_rounds=2",) if setting == "name=flhc" else ()
    overrides = (f"method.{setting}", "method.participation=0.5", *own, "rounds=4")
    out, name = tmp_path / "killed", settings(*overrides).method.name
    for round in range(5):
        with pytest.raises(KeyboardInterrupt):
            experiment.run(settings(*overrides), out, resume=True, listener=Killer(name, round))
    resumed = run(out, *overrides, resume=True)
    assert_ends_like(out, resumed, (tmp_path / "whole", run(tmp_path / "whole", *overrides)))


@pytest.mark.parametrize("name", ["fedavg", "fedem", "cfl"])
def test_killed_with_models_that_travel_coded(tmp_path, name):
    """What clients and server have left over, and which differences clients can go on from, are in the checkpoint."""
    coded = ("communication.precision=4", "communication.top=0.2", "method.participation=0.5", "rounds=4")
    overrides, out = (f"method.name={name}", *coded), tmp_path / "killed"
    for round in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            experiment.run(settings(*overrides), out, resume=True, listener=Killer(name, round))
    resumed = run(out, *overrides, resume=True)
    assert_ends_like(out, resumed, (tmp_path / "whole", run(tmp_path / "whole", *overrides)))
    assert resumed["bytes"].keys() >= {"expert"}


def test_killed_between_two_learning_rates(tmp_path):
    """One rate's name begins like the other's: tidying up after one must leave the other alone."""
    overrides = ("training.lr=[1.5, 1.0]", "method.name=fedavg")
    out = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        experiment.run(settings(*overrides), out, listener=Killer("fedavg-lr1.0", 2))
    resumed = run(out, *overrides, resume=True)
    assert_ends_like(out, resumed, (tmp_path / "whole", run(tmp_path / "whole", *overrides)))


@pytest.mark.parametrize("exchanges", [1, 9, 14])
def test_ctrl_c_in_mid_round(tmp_path, whole, monkeypatch, capsys, exchanges):
    """Some steps of a round are done and others not when the key is struck."""
    out, exchange, left = tmp_path / "out", InProcess.exchange, [exchanges]

    def struck(self, *args):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return exchange(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(InProcess, "exchange", struck)
        assert exit_code(*arguments(out, *ALL_BOUNDS)) == 130
    told = capsys.readouterr().err
    assert "Traceback" not in told
    command = told[told.index("continue with: fedgmi ") :].removeprefix("continue with: fedgmi ")
    assert exit_code(*shlex.split(command)) == 0
    assert_ends_like(out, json.loads((out / folder.SUMMARY).read_text()), whole)


def test_killed_between_record_and_checkpoint(tmp_path, whole, monkeypatch):
    """The record of round 1 is on disk, its checkpoint is not: the round is done again, its line is not doubled."""
    with monkeypatch.context() as patch:
        patch.setattr(store, "write_json", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, *ALL_BOUNDS)
    assert len(records(tmp_path)) == 1
    with (tmp_path / folder.RECORDS).open("a") as file:
        file.write('{"run": "fedgmi", "rou')  # and a line that was cut short
    assert_ends_like(tmp_path, run(tmp_path, *ALL_BOUNDS, resume=True), whole)


def interrupt(*_args, **_kwargs):
    raise KeyboardInterrupt


def test_finished_run_is_only_reported(tmp_path, monkeypatch, capsys):
    done = run(tmp_path / "out")
    before = hashes(tmp_path / "out")
    monkeypatch.setattr(InProcess, "exchange", interrupt)
    assert exit_code("run", "--out", str(tmp_path / "out"), "--resume") == 0
    assert "Results:" in capsys.readouterr().out
    after = hashes(tmp_path / "out")
    assert after.pop(folder.PICTURE)
    assert after == before
    assert run(tmp_path / "out", resume=True) == done


@pytest.mark.filterwarnings("always:.*it lacks")
def test_lost_records_are_told_by_report_and_by_resume(tmp_path, capsys):
    run(tmp_path)
    n = len(records(tmp_path))
    assert exit_code("report", str(tmp_path)) == 0
    assert "warning" not in capsys.readouterr().err
    with (tmp_path / folder.RECORDS).open("r+") as file:
        file.truncate(100)  # within the first line
    for command in (("report", str(tmp_path)), ("run", "--resume", "--out", str(tmp_path))):
        assert exit_code(*command) == 0
        told = "".join(capsys.readouterr().err.split())  # whatever the width
        assert f"records.jsonl:itlacks{n}rounds(fedgmi{n})" in told


def test_a_killed_run_whose_records_were_cut_says_how_many_are_lost(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        experiment.run(settings(), tmp_path, listener=Killer("fedgmi", 1))
    first = (tmp_path / folder.RECORDS).read_text().splitlines()[0]
    (tmp_path / folder.RECORDS).write_text(first + "\n")
    with pytest.warns(FedgmiWarning, match=r"records\.jsonl: it lacks 1 round \(fedgmi 1\)"):
        run(tmp_path, resume=True)


@pytest.mark.parametrize("finished", [True, False])
def test_other_settings_are_refused(tmp_path, finished):
    if finished:
        run(tmp_path)
    else:
        with pytest.raises(KeyboardInterrupt):
            experiment.run(settings(), tmp_path, listener=Killer("fedgmi", 1))
    before = hashes(tmp_path)
    for override in ("seed=1", "rounds=3", "training.lr=0.01", "evaluation.local=true"):
        with pytest.raises(ConfigError, match=r"the run there has other settings.*resume with its own settings"):
            run(tmp_path, override, resume=True)
    assert hashes(tmp_path) == before


def start(out: Path) -> subprocess.Popen[str]:
    """A run of its own, with the signals of a terminal."""
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from fedgmi.cli import main; "
    command = [sys.executable, "-c", code + "main(sys.argv[1:])", *arguments(out, *LONG)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end(process: subprocess.Popen[str], out: Path, how: signal.Signals) -> str:
    """Send the signal once there are four records; what the process said on stderr."""
    for _ in range(6000):
        if len(folder.read_records(out)) >= 4 or process.poll() is not None:
            break
        time.sleep(0.005)
    process.send_signal(how)
    return process.communicate(timeout=60)[1]


@pytest.mark.slow
def test_signals_to_a_real_process(tmp_path):
    interrupted, killed = tmp_path / "interrupted", tmp_path / "killed"
    first = start(interrupted)
    told = end(first, interrupted, signal.SIGINT)
    second = start(killed)
    end(second, killed, signal.SIGKILL)
    assert first.returncode == 130, told
    assert "interrupted; continue with: fedgmi run" in told
    assert "Traceback" not in told
    assert second.returncode == -signal.SIGKILL
    for out in (interrupted, killed):
        assert 4 <= len(folder.read_records(out)) < 42
    whole = tmp_path / "whole", run(tmp_path / "whole", *LONG)
    for out in (interrupted, killed):
        assert_ends_like(out, run(out, *LONG, resume=True), whole)
